"""`flux-mcp serve`, and beside it a log of when each event of the worker arrived.

Run as a process of its own by cancel.py: `watched_server.py LOG`. The service is given a fleet that
passes everything on and writes one line of JSON for each event; all else is the product.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from flux_mcp.cli.common import set_up_logging
from flux_mcp.jobs.fleet import Assignment, Report, WorkerInfo
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.server.transports.stdio import WireGuard, serve_stdio
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings


class WatchedFleet:
    """The default fleet with a log of its events. Implements `fleet.Fleet`."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._fleet = ProcessFleet(settings)
        self._log = log.open("a", buffering=1, encoding="utf-8")

    def workers(self) -> Sequence[WorkerInfo]:
        """Return every slot."""
        return self._fleet.workers()

    async def warm(self, worker_id: str) -> None:
        """Start the worker without a job."""
        await self._fleet.warm(worker_id)

    async def run(self, worker_id: str, assignment: Assignment) -> AsyncIterator[Report]:
        """Draw, logging every event."""
        async for report in self._fleet.run(worker_id, assignment):
            self._write(assignment.job_id, report.event.type, getattr(report.event, "step", None))
            yield report

    async def cancel(self, worker_id: str, job_id: str) -> None:
        """Ask for the job to stop at the next step."""
        self._write(job_id, "cancel passed on", None)
        await self._fleet.cancel(worker_id, job_id)

    async def kill(self, worker_id: str) -> None:
        """End the worker at once."""
        await self._fleet.kill(worker_id)

    async def release(self, worker_id: str) -> None:
        """Let an idle worker exit."""
        await self._fleet.release(worker_id)

    async def close(self) -> None:
        """End every worker."""
        await self._fleet.close()
        self._log.close()

    def _write(self, job_id: str, event: str, step: int | None) -> None:
        # The monotonic clock is the same for every process of one machine.
        line: dict[str, Any] = {"at": time.monotonic(), "job_id": job_id, "event": event}
        self._log.write(json.dumps(line | {"step": step}) + "\n")


def main() -> None:
    """Serve until stdin ends."""
    guard = WireGuard()
    log = Path(sys.argv[1])
    settings = Settings()
    set_up_logging(settings.log_level)
    serve_stdio(Service(settings, make_fleet=lambda given: WatchedFleet(given, log)), guard)


if __name__ == "__main__":
    main()
