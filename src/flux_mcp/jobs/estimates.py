"""How long jobs will take, from how long such jobs took. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from flux_mcp.requests.plan import RenderPlan


@dataclass(frozen=True)
class Finished:
    """A job that was drawn, and the seconds the pipeline took."""

    pipeline: str
    """`kind/model`."""
    work: float
    """In megapixel-steps, as `work` says."""
    draw_s: float


def work(plan: RenderPlan) -> float:
    """Return a plan's size in megapixel-steps: what a diffusion transformer's time grows with."""
    return len(plan.seeds) * plan.steps * plan.width * plan.height / 1e6


def rates(history: Iterable[Finished]) -> dict[str, float]:
    """Return for each pipeline the median seconds that its jobs took per megapixel-step."""
    found: dict[str, list[float]] = {}
    for finished in history:
        found.setdefault(finished.pipeline, []).append(finished.draw_s / finished.work)
    return {pipeline: median(values) for pipeline, values in found.items()}


def estimate_s(work_of: Mapping[str, float], known: Mapping[str, float]) -> float | None:
    """Return the seconds that work will take, or `None` when a pipeline has not drawn yet.

    Args:
        work_of: For each pipeline the megapixel-steps it has to do.
        known: What `rates` found.
    """
    if not work_of.keys() <= known.keys():
        return None
    return sum(amount * known[pipeline] for pipeline, amount in work_of.items())
