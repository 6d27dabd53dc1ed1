"""`flux-mcp serve`, and beside it a log of when each event of the worker arrived.

Run as a process of its own by cancel.py: `watched_server.py LOG`. The service is given a fleet that
writes one line of JSON for each event; all else is the product.
"""

import json
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from flux_mcp.cli.common import set_up_logging
from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.server.transports.stdio import serve_stdio
from flux_mcp.server.transports.stdout import StdoutGuard
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings


class WatchedFleet(ProcessFleet):
    """The default fleet with a log of its events."""

    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__(settings)
        self._log = log.open("a", buffering=1, encoding="utf-8")

    async def run(self, assignment: Assignment) -> AsyncGenerator[Report, None]:
        """Draw, logging every event."""
        async for report in super().run(assignment):
            self._write(assignment.job_id, report.event.type, getattr(report.event, "step", None))
            yield report

    async def cancel(self, job_id: str) -> None:
        """Ask for the job to stop at the next step."""
        self._write(job_id, "cancel sent", None)
        await super().cancel(job_id)

    async def close(self) -> None:
        """End the worker."""
        await super().close()
        self._log.close()

    def _write(self, job_id: str, event: str, step: int | None) -> None:
        # The monotonic clock is the same for every process of one machine.
        line: dict[str, Any] = {"at": time.monotonic(), "job_id": job_id, "event": event}
        self._log.write(json.dumps(line | {"step": step}) + "\n")


def main() -> None:
    """Serve until stdin ends."""
    guard = StdoutGuard()
    log = Path(sys.argv[1])
    settings = Settings()
    set_up_logging(settings.log_level)

    def watched(settings: Settings) -> Service:
        return Service(settings, make_fleet=lambda given: WatchedFleet(given, log))

    serve_stdio(settings, guard, watched)


if __name__ == "__main__":
    main()
