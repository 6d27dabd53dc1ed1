"""A plan without speed switches -> those it is drawn with, by settings, machine and request.

Owns no state. The choice itself is models/switching.py's; `drawing_of` asks it
the same of a stored plan, in the worker.
"""

from flux_mcp.config import Settings
from flux_mcp.installation import platform_name
from flux_mcp.models.candidates import Machine
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.switching import Drawing, Wishes, choose_switches, site_of
from flux_mcp.requests.plan import RenderPlan
from flux_mcp.requests.schemas import DrawRequest


def with_switches(
    request: DrawRequest,
    plan: RenderPlan,
    spec: ModelSpec,
    settings: Settings,
    machine: Machine | None,
) -> tuple[RenderPlan, tuple[str, ...]]:
    """Return a plan with its switches, and what its caller should know about them.

    Args:
        request: What was asked.
        plan: What will be drawn.
        spec: The row that draws it.
        settings: What the owner of the machine wishes.
        machine: The card that draws; `None` where none is known.

    Raises:
        UnsupportedOptionError: the request's step cache cannot be used with this plan.
    """
    if machine is not None:
        site = site_of("cuda", machine.card.compute)
    else:
        # Where torch will find Metal only the worker knows; what Metal can, a processor can.
        may_be_metal = settings.device == "auto" and platform_name().startswith("darwin")
        site = site_of("mps" if settings.device == "mps" or may_be_metal else "cpu", None)
    wishes = Wishes(
        settings.attention, settings.compile, settings.channels_last, request.step_cache
    )
    chosen = choose_switches(drawing_of(plan, spec), site, wishes)
    return plan.model_copy(update={"switches": chosen.switches}), chosen.notices


def drawing_of(plan: RenderPlan, spec: ModelSpec) -> Drawing:
    """Return what of a plan decides which switches it can have."""
    return Drawing(
        spec=spec,
        precision=plan.precision,
        placement=plan.placement,
        steps=plan.steps,
        has_true_cfg=plan.negative_prompt is not None,
    )
