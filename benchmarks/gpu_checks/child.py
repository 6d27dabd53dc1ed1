"""The process that runs cases, one after the other, and says so on what was its stdout.

Each line is a JSON object with an `event`: `ready`, or `unusable` where the device cannot be drawn
on at all; then `begin`, `figure`, `rates`, `end`. A case that
fails does not end the process; a fault of the GPU does, because no later call would work.
"""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from flux_mcp.errors import FluxMcpError
from flux_mcp.pipelines.device import (
    choose_device,
    configure_threads,
    describe,
    is_device_fault,
)
from flux_mcp.pipelines.pipe import claim_stdout
from flux_mcp.settings.settings import Settings
from gpu_checks.bench import Bench, Figure, NotRunError
from gpu_checks.cases import Case, chosen
from gpu_checks.rates import Rates
from gpu_checks.scale import SCALES

DEVICE_FAULT_EXIT = 4


class _Lines:
    """Writes events; owns the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, event: str, **facts: Any) -> None:
        self._stream.write(json.dumps({"event": event, **facts}).encode() + b"\n")
        self._stream.flush()


def main(scale: str, scratch: Path, names: Sequence[str], known_rates: str | None) -> None:
    """Run the named cases.

    Args:
        scale: A name of `SCALES`.
        scratch: Folder for weights and compiled code.
        names: Cases, in this order.
        known_rates: What an earlier process of the same run measured, as JSON.
    """
    lines = _Lines(claim_stdout())
    settings = Settings()
    try:
        device = choose_device(settings.device)
    except FluxMcpError as error:
        lines.write("unusable", reason=str(error))
        return
    configure_threads(settings)
    bench = Bench(
        scale=SCALES[scale],
        device=device,
        scratch=scratch,
        report=lambda _figure: None,
        say=lambda text: print(f"    {text}", file=sys.stderr, flush=True),
        measured=None if known_rates is None else Rates(**json.loads(known_rates)),
    )
    lines.write("ready", environment=describe(device).model_dump())
    for case in chosen(list(names)):
        _run(case, bench, lines)


def _run(case: Case, bench: Bench, lines: _Lines) -> None:
    """Run one case and say how it ended; what it held is free afterwards."""
    lines.write("begin", case=case.name)
    before = bench.measured

    def report(figure: Figure) -> None:
        lines.write("figure", case=case.name, **asdict(figure))

    bench.report = report
    ended: dict[str, str] = {}
    is_fault = False
    try:
        case.run(bench)
    except NotRunError as reason:
        ended = {"status": "not run", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases go on
        traceback.print_exc()
        ended = {"status": "failed", "reason": f"{type(error).__name__}: {str(error)[:500]}"}
        is_fault = is_device_fault(error)
    if bench.measured is not None and bench.measured is not before:
        lines.write("rates", rates=asdict(bench.measured))
    lines.write("end", case=case.name, **({"status": "done"} | ended))
    if is_fault:
        sys.stderr.flush()
        os._exit(DEVICE_FAULT_EXIT)
    bench.free()
