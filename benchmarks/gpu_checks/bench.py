"""What a case is given: sizes, device, scratch folder, rates; and where its figures go."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_mcp.pipelines.device import GIB, Device, free_caches
from gpu_checks.rates import Rates, measure_rates
from gpu_checks.scale import Scale


class NotRunError(Exception):
    """A case cannot be asked of this machine; its text says why."""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    """In the same unit: what physics allows, by the rates of the same run."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """One process that runs cases."""

    scale: Scale
    device: Device
    scratch: Path
    report: Callable[[Figure], None]
    """Told each figure as soon as it is measured."""
    say: Callable[[str], None]
    """Told what is being done; for people."""
    measured: Rates | None = None

    @property
    def rates(self) -> Rates:
        """What the device can do; measured at the first call."""
        if self.measured is None:
            self.say("measuring what the device can do")
            self.measured = measure_rates(self.device, self.scale)
            self.free()
        return self.measured

    def figure(
        self, name: str, value: float, unit: str, *, floor: float | None = None, **details: Any
    ) -> None:
        """Report a number."""
        self.report(Figure(name, value, unit, floor, details))

    def free(self) -> None:
        """Hand back what nobody holds."""
        gc.collect()
        free_caches(self.device)

    @property
    def free_gib(self) -> float | None:
        """Memory of the GPU that can be had; `None` on a CPU."""
        import torch

        if self.device.kind != "cuda":
            return None
        self.free()
        return float(torch.cuda.mem_get_info(self.device.name)[0]) / GIB
