"""How many bytes went from host memory to the GPU, as the GPU's own profiler counts them."""

import json
from collections.abc import Callable
from pathlib import Path

TO_THE_GPU = "Memcpy HtoD"
"""How CUDA's profiler names such copies in a trace of torch 2.13."""


def copied_bytes(work: Callable[[], object], folder: Path) -> int:
    """Run something and return the bytes it copied to the GPU; 0 where there is no GPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    return copied_in(json.loads(trace.read_text(encoding="utf-8")))


def copied_in(trace: dict[str, list[dict[str, object]]]) -> int:
    """Return the bytes of a trace's copies to the GPU."""
    total = 0
    for event in trace["traceEvents"]:
        arguments = event.get("args")
        if str(event.get("name", "")).startswith(TO_THE_GPU) and isinstance(arguments, dict):
            total += int(arguments["bytes"])
    return total
