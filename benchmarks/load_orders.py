"""What load.py and its processes of visitors send each other, as a line of JSON each way."""

from dataclasses import dataclass, field
from typing import Any

LOTS = {
    "look": 46,
    "search": 18,
    "submit": 16,
    "thumbnail": 8,
    "look_again": 6,
    "cancel": 3,
    "submit_twice": 1,
    "stranger": 1,
    "sheet": 0.25,
}
"""How often each act is drawn. One that is not possible yet, having no job or image to act on, is
replaced by a submit."""


@dataclass
class Orders:
    """What a process of visitors is to do."""

    url: str
    visitors: list[tuple[str, str, str]]
    """Kind of client, principal, token of each."""
    seconds: float
    pause_s: float
    seed: int
    lots: dict[str, float] = field(default_factory=lambda: dict(LOTS))


@dataclass
class Account:
    """What a process of visitors did and saw."""

    spans_s: dict[str, list[float]] = field(default_factory=dict)
    """By call: how long each answer took, and for clients of the SDK under a name of their own."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Answers that are right and say no, by their code."""
    problems: list[str] = field(default_factory=list)
    """What must not be."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: principal, status, images, whether a cancel was asked for."""
    cpu_s: float = 0.0
    """Of this process, while visiting."""
    wall_s: float = 0.0
