"""Every case: what it asks, what it needs, what runs it. Data; the work is in the named modules."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import psutil

from flux_mcp.models.formats import has_extra
from flux_mcp.models.parts import load_parts
from flux_mcp.pipelines.device import GIB
from gpu_checks.bench import Bench, NotRunError
from gpu_checks.scale import FULL

GROUPS = ("floors", "drawing", "parts", "engine", "product")


@dataclass(frozen=True)
class Needs:
    """What a machine must have; GiB count at full scale only."""

    gpu_gib: float = 0.0
    """Free of the GPU."""
    ram_gib: float = 0.0
    """Of the machine's memory."""
    compute: float = 0.0
    """CUDA compute capability."""
    extra: str | None = None
    """Of this package."""
    folders: bool = False
    """Weights on disk, 36 GB at full scale."""

    def check(self, bench: Bench) -> None:
        """Compare with this machine.

        Raises:
            NotRunError: something is missing; its text says what.
        """
        if bench.device.compute_capability < self.compute:
            raise NotRunError(f"needs a GPU of compute capability {self.compute}")
        if self.extra is not None and not has_extra(self.extra):
            raise NotRunError(f"needs the extra '{self.extra}' of this package")
        if bench.scale is not FULL:
            return
        free_gib, ram_gib = bench.free_gib, psutil.virtual_memory().total / GIB
        if free_gib is None:
            raise NotRunError("needs a CUDA GPU at full scale")
        if free_gib < self.gpu_gib:
            raise NotRunError(f"needs {self.gpu_gib:g} GiB of the GPU, {free_gib:.1f} are free")
        if ram_gib < self.ram_gib:
            raise NotRunError(f"needs {self.ram_gib:g} GiB of host memory, there are {ram_gib:.1f}")

    def __str__(self) -> str:
        """As `--list` shows it."""
        told = [
            f"{self.gpu_gib:g} GiB of the GPU" if self.gpu_gib else "",
            f"{self.ram_gib:g} GiB of host memory" if self.ram_gib else "",
            f"capability {self.compute}" if self.compute else "",
            self.extra or "",
            "36 GB of disk" if self.folders else "",
        ]
        return ", ".join(filter(None, told))


@dataclass(frozen=True)
class Case:
    """One question to a GPU."""

    name: str
    group: str
    question: str
    module: str
    function: str
    needs: Needs = field(default_factory=Needs)
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, bench: Bench) -> None:
        """Measure it; figures go to the bench.

        Raises:
            NotRunError: it cannot be asked of this machine.
            Exception: it failed.
        """
        self.needs.check(bench)
        work = getattr(importlib.import_module(f"gpu_checks.{self.module}"), self.function)
        work(bench, **self.options)


# A whole FLUX.1 in bf16: 31.4 GiB of parts, 5 while it draws (huggingface.co/blog/
# diffusers-quantization: a peak of 36.2), 3 more for Kontext's longer input and the context.
_WHOLE = Needs(gpu_gib=40.0)
_FP8 = Needs(gpu_gib=40.0, compute=load_parts().precision["fp8dq"].min_compute, extra="torchao")
_MODELS = (("dev", "28 steps"), ("schnell", "4 steps"), ("kontext", "28 steps, one reference"))
_WAYS: tuple[tuple[str, str, Needs, Mapping[str, Any]], ...] = (
    ("bf16", "16 bit, eager", _WHOLE, {}),
    ("bf16_compiled", "16 bit, blocks compiled", _WHOLE, {"compiled": True}),
    (
        "fp8_compiled",
        "multiplied in fp8, blocks compiled",
        _FP8,
        {"compiled": True, "precision": "fp8dq"},
    ),
)
_DRAWING = tuple(
    Case(
        f"{model}_{way}",
        "drawing",
        f"{model}, {about}, {how}: seconds of an image at 1024x1024",
        "drawing_cases",
        "draw_model",
        needs,
        MappingProxyType({"model": model, **options}),
    )
    for way, how, needs, options in _WAYS
    for model, about in _MODELS
)
_ON_DISK = Needs(gpu_gib=40.0, ram_gib=40.0, folders=True)

CASES: tuple[Case, ...] = (
    Case(
        "rates",
        "floors",
        "what can the GPU do at its best: products, attention, copies?",
        "part_cases",
        "rates",
        Needs(gpu_gib=8.0),
    ),
    *_DRAWING,
    Case(
        "skipped_steps",
        "drawing",
        "dev with every second step left out / that share of the whole",
        "drawing_cases",
        "skip_steps",
        _WHOLE,
    ),
    Case(
        "vae",
        "parts",
        "decoding and encoding 1024x1024: plain, channels last, compiled",
        "part_cases",
        "vae",
        Needs(gpu_gib=10.0),
    ),
    Case(
        "encoders",
        "parts",
        "T5, CLIP, and SigLIP with Redux",
        "part_cases",
        "encoders",
        Needs(gpu_gib=14.0),
    ),
    Case(
        "switch_resident",
        "engine",
        "switching between two kinds that are both on the GPU",
        "engine_cases",
        "switch_resident",
        Needs(gpu_gib=64.0, ram_gib=64.0, folders=True),
    ),
    Case(
        "switch_from_host",
        "engine",
        "switching between two kinds of which one fits / bytes over the measured bus",
        "engine_cases",
        "switch_from_host",
        Needs(gpu_gib=42.0, ram_gib=96.0, folders=True),
    ),
    Case(
        "five_kinds",
        "engine",
        "five kinds on the GPU: bytes held / bytes of different weights",
        "engine_cases",
        "five_kinds",
        Needs(gpu_gib=112.0, ram_gib=64.0, folders=True),
    ),
    Case(
        "small_gpu_15",
        "engine",
        "dev as planned for a GPU of 15 GiB",
        "engine_cases",
        "small_gpu",
        Needs(gpu_gib=15.0, ram_gib=64.0, folders=True),
        MappingProxyType({"total_gib": 15.0}),
    ),
    Case(
        "small_gpu_8",
        "engine",
        "dev as planned for a GPU of 8 GiB",
        "engine_cases",
        "small_gpu",
        Needs(gpu_gib=8.0, ram_gib=64.0, folders=True),
        MappingProxyType({"total_gib": 8.0}),
    ),
    Case(
        "cancel",
        "engine",
        "from a cancel until the GPU is free, in steps",
        "engine_cases",
        "cancel",
        _ON_DISK,
    ),
    Case(
        "server",
        "product",
        "schnell from prompt to file; dev through the server / bare calls",
        "product_cases",
        "server",
        Needs(gpu_gib=80.0, ram_gib=64.0, folders=True),
    ),
    Case(
        "out_of_memory",
        "product",
        "does the next job draw after the GPU's memory ran out?",
        "product_cases",
        "out_of_memory",
        _ON_DISK,
    ),
    Case(
        "idle_unload",
        "product",
        "what of the GPU is still held after an idle worker went?",
        "product_cases",
        "idle_unload",
        _ON_DISK,
    ),
)


def chosen(names: list[str] | None) -> list[Case]:
    """Return the cases of these names or groups, in their usual order; all without names.

    Raises:
        ValueError: a name is neither.
    """
    known = {case.name for case in CASES} | set(GROUPS)
    for name in names or ():
        if name not in known:
            raise ValueError(f"there is no case '{name}'; --list shows those there are")
    return [case for case in CASES if not names or case.name in names or case.group in names]
