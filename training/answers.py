"""The results of an evaluation: measures of each image, their means, and the goals."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

import numpy as np

from training.drawing import Pixels
from training.judge import Verdict

AT_LEAST: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "text2img": {
            "background": 0.97,
            "colour": 0.97,
            "shape": 0.90,
            "place": 0.90,
            "telegraphic: all": 0.90,
        },
        "kontext": {"edit done": 0.85, "rest untouched": 0.90},
        "fill": {"inside right": 0.85},
        "control": {"canny: edge F1": 0.80},
        "redux": {"colours": 0.90},
        "segmentation": {"IoU": 0.85},
        "depth": {"correlation": 0.95},
    }
)
AT_MOST: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "fill": {"outside: mean difference of 255": 3.0},
        "segmentation": {"absent: share marked": 0.02},
        "depth": {"relative error": 0.1},
    }
)


@dataclass(frozen=True)
class Row:
    """The mean of one measure over the images it applies to."""

    name: str
    value: float | None
    """A share, unless the name says otherwise; `None` if no image had it."""
    count: int
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; `None` without one."""
        if self.value is None or self.at_least is self.at_most:
            return None
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is not None and self.value >= self.at_least


@dataclass(frozen=True)
class Panel:
    """One example for the sheet: the given image, if any, and the generated one."""

    caption: str
    images: tuple[Pixels, ...]
    right: bool


@dataclass(frozen=True)
class Answers:
    """The measures of all images of a kind, collected one by one."""

    measures: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    panels: list[Panel] = field(default_factory=list)

    def add(self, name: str, value: float | None) -> None:
        """Add the measure of one image; `None` does not count."""
        if value is not None:
            self.measures[name].append(float(value))

    def add_verdict(self, verdict: Verdict, names: Collection[str], prefix: str = "") -> None:
        """Add some answers of a verdict."""
        for name, value in asdict(verdict).items():
            if name in names:
                self.add(prefix + name, value)

    def rows(self, kind: str) -> tuple[Row, ...]:
        """Return the means: those with a goal first, measured or not, then the others by name."""
        at_least, at_most = AT_LEAST.get(kind, {}), AT_MOST.get(kind, {})
        names = dict.fromkeys((*at_least, *at_most, *sorted(self.measures)))
        return tuple(
            Row(
                name,
                float(np.mean(self.measures[name])) if name in self.measures else None,
                len(self.measures.get(name, ())),
                at_least.get(name),
                at_most.get(name),
            )
            for name in names
        )
