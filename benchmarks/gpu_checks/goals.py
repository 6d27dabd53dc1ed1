"""What a figure should reach. Data; nothing fails because of a goal.

The numbers are the project's own (docs/gpu.md says where they come from). Seconds are those of one
GPU and mean nothing on another; ratios hold everywhere.
"""

from dataclasses import dataclass
from typing import Literal

_PROJECT = "goal of the project, docs/gpu.md"


@dataclass(frozen=True)
class Goal:
    """The most one figure of one case should be."""

    case: str
    figure: str
    at_most: float
    of: Literal["value", "ratio"]
    """`ratio`: the figure divided by its floor."""
    gpu: str | None = None
    """Part of the GPU's name it is meant for; `None` for any."""
    source: str = _PROJECT


GOALS = (
    Goal("dev_bf16_compiled", "image_s", 3.4, "value", "H200"),
    Goal("dev_fp8_compiled", "image_s", 2.3, "value", "H200"),
    Goal("server", "schnell_prompt_to_file_s", 0.55, "value", "H200"),
    Goal("server", "overhead", 1.01, "value"),
    Goal("switch_resident", "switch_s", 0.005, "value"),
    Goal("five_kinds", "switch_s", 0.005, "value"),
    Goal("switch_from_host", "switch_s", 1.1, "ratio"),
    Goal("five_kinds", "held_bytes", 1.01, "ratio"),
    Goal("cancel", "steps_until_free", 1.0, "value"),
    Goal("idle_unload", "left_mib", 16.0, "value", None, "the driver's own, guess"),
)


def goal_of(case: str, figure: str) -> Goal | None:
    """Return the goal of a figure, if it has one."""
    return next((goal for goal in GOALS if (goal.case, goal.figure) == (case, figure)), None)


def is_reached(goal: Goal, gpu: str, value: float, floor: float | None) -> bool | None:
    """Whether a goal is reached; `None` where it does not apply to this GPU or cannot be told."""
    if goal.gpu is not None and goal.gpu not in gpu:
        return None
    if goal.of == "value":
        return value <= goal.at_most
    return None if not floor else value / floor <= goal.at_most
