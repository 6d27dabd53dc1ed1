"""How long a job will take, from how long such jobs took. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_mcp.requests.messages import pipeline_key
from flux_mcp.requests.plan import RenderPlan


@dataclass(frozen=True)
class Finished:
    """A plan that was drawn, and the seconds the pipeline took."""

    plan: RenderPlan
    draw_s: float


def work(plan: RenderPlan) -> float:
    """Return a plan's size in megapixel-steps: what a diffusion transformer's time grows with."""
    return len(plan.seeds) * plan.steps * plan.width * plan.height / 1e6


def estimate_s(plan: RenderPlan, history: Sequence[Finished]) -> float | None:
    """Return the seconds `plan` will take, or `None` when no such model has drawn yet.

    The median seconds per megapixel-step of this pipeline's finished jobs, times the job's size.
    """
    rates = [
        finished.draw_s / work(finished.plan)
        for finished in history
        if pipeline_key(finished.plan) == pipeline_key(plan)
    ]
    return median(rates) * work(plan) if rates else None
