"""What this device can do at its best, measured: the denominators of every floor.

Owns nothing. Rates are per second: FLOPs of matrix products and attention, bytes of copies.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flux_mcp.pipelines.device import Device
from gpu_checks.clock import median_seconds
from gpu_checks.scale import Scale

_BATCH = 10
"""Calls in one measurement: the launch of the first then counts little."""


@dataclass(frozen=True)
class Rates:
    """Measured rates of one device."""

    product: float
    """bf16 matrix product, FLOP/s."""
    product_fp8: float | None
    """fp8 with a scale for each row and column; `None` where the device cannot."""
    attention: Mapping[str, float]
    """`backend/tokens` -> FLOP/s."""
    copy_on_device: float
    """Bytes read and written a second."""
    to_device_pinned: float
    to_device: float
    """From ordinary memory."""
    from_device_pinned: float

    def attention_at(self, tokens: int) -> float:
        """Return the rate of the best backend at the measured length nearest to this one."""
        lengths = {int(name.rpartition("/")[2]) for name in self.attention}
        nearest = min(lengths, key=lambda length: abs(length - tokens))
        return max(v for k, v in self.attention.items() if k.endswith(f"/{nearest}"))


@dataclass(frozen=True)
class _Meter:
    device: Device
    scale: Scale

    def seconds(self, work: Any) -> float:
        """Return the seconds of one call, from calls in a row."""

        def several() -> None:
            for _ in range(_BATCH):
                work()

        return median_seconds(several, self.device, self.scale.quick_repetitions) / _BATCH


def measure_rates(device: Device, scale: Scale) -> Rates:
    """Measure every rate; takes some seconds.

    Raises:
        RuntimeError: a rate that every floor needs cannot be measured.
    """
    meter = _Meter(device, scale)
    attention = dict(_attention(meter))
    if not attention:
        raise RuntimeError("no attention backend of torch runs on this device")
    copies = _copies(meter)
    return Rates(
        product=_product(meter),
        product_fp8=_product_fp8(meter),
        attention=attention,
        **copies,
    )


def _product(meter: _Meter) -> float:
    import torch

    side = meter.scale.matrix_side
    # Of the size activations and weights have: power, and so clocks, depend on the numbers.
    a, b = (
        torch.randn(side, side, device=meter.device.name, dtype=torch.bfloat16) for _ in range(2)
    )
    out = torch.empty_like(a)
    return float(2 * side**3 / meter.seconds(lambda: torch.mm(a, b, out=out)))


def _product_fp8(meter: _Meter) -> float | None:
    import torch

    side = meter.scale.matrix_side
    device, dtype = meter.device.name, torch.float8_e4m3fn
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype).t()
    rows = torch.ones(side, 1, device=device)
    columns = torch.ones(1, side, device=device)

    def multiply() -> Any:
        return torch._scaled_mm(  # noqa: SLF001 - torch 2.13 has no public name for it
            a, b, scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    try:
        return float(2 * side**3 / meter.seconds(multiply))
    except (RuntimeError, ValueError):  # a GPU below capability 8.9
        return None


def _attention(meter: _Meter) -> Iterator[tuple[str, float]]:
    """Yield `backend/tokens` and its rate; a backend this device lacks is left out."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    heads = meter.scale.transformer["num_attention_heads"]
    width = meter.scale.transformer["attention_head_dim"]
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    for tokens in meter.scale.tokens:
        q, k, v = (
            torch.randn(1, heads, tokens, width, device=meter.device.name, dtype=torch.bfloat16)
            for _ in range(3)
        )
        for name, backend in backends.items():
            seconds = None
            with suppress(RuntimeError), sdpa_kernel(backend):
                seconds = meter.seconds(
                    lambda q=q, k=k, v=v: torch.nn.functional.scaled_dot_product_attention(q, k, v)
                )
            if seconds is not None:
                yield f"{name}/{tokens}", 4 * tokens**2 * heads * width / seconds


def _copies(meter: _Meter) -> dict[str, float]:
    import torch

    size, device = meter.scale.copy_bytes, meter.device
    here = torch.empty(size, dtype=torch.uint8, device=device.name).random_()
    there = torch.empty_like(here)
    ordinary = here.to("cpu", copy=True)
    # Only a GPU's driver can pin; elsewhere both are the same memory.
    pinned = ordinary.pin_memory() if device.kind == "cuda" else ordinary

    def rate(to: Any, of: Any) -> float:
        work = lambda: to.copy_(of, non_blocking=True)  # noqa: E731 - a name for what is timed
        return size / median_seconds(work, device, max(2, meter.scale.quick_repetitions // 4))

    return {
        # Each byte is read and written.
        "copy_on_device": 2 * rate(there, here),
        "to_device_pinned": rate(here, pinned),
        "to_device": rate(here, ordinary),
        "from_device_pinned": rate(pinned, here),
    }
