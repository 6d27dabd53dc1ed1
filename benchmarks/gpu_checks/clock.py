"""Seconds of work on a device: a clock that waits until the device has done it."""

import statistics
import time
from collections.abc import Callable

from flux_mcp.pipelines.device import Device


def settle(device: Device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    import torch

    if device.kind == "cuda":
        torch.cuda.synchronize(device.name)


def seconds_of(work: Callable[[], object], device: Device) -> float:
    """Return the seconds of one call, from an idle device to an idle device."""
    settle(device)
    started = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - started


def median_seconds(
    work: Callable[[], object], device: Device, repetitions: int, *, warm_ups: int = 1
) -> float:
    """Return the median seconds of a call, after calls that do not count."""
    for _ in range(warm_ups):
        work()
    return statistics.median(seconds_of(work, device) for _ in range(repetitions))
