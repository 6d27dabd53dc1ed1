"""Operations of a running process: health for probes, metrics for Prometheus.

Health is `ready`, `no_worker` or `degraded`. The last answer is kept for a second, and there is one
query to the database at a time: however often a probe comes, and however busy the database thread
is, it costs at most one indexed query a second and waits at most `PATIENCE_S`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flux_mcp import __version__
from flux_mcp.errors import StorageError
from flux_mcp.jobs.executor import ExecutorState
from flux_mcp.jobs.job import utc_now
from flux_mcp.jobs.queue import EndedJob, QueueLoad, UnfinishedJobs
from flux_mcp.observability.traffic import HttpTraffic
from flux_mcp.service.answers import HealthAnswer, HealthStatus
from flux_mcp.service.runtime import Runtime

if TYPE_CHECKING:
    from flux_mcp.service.metrics import Metrics

logger = logging.getLogger(__name__)

KEPT_S = 1.0
PATIENCE_S = 0.5
"""How long the database may take: probes give up after a second (Kubernetes' `timeoutSeconds`)."""


class Health:
    """Answers probes.

    Args:
        load: Asks the database how many jobs wait and stop; opens it if it is not open.
        state: How it stands with this process and the GPU.
    """

    def __init__(
        self, load: Callable[[], Awaitable[QueueLoad]], state: Callable[[], ExecutorState]
    ) -> None:
        self._load = load
        self._state = state
        self._asking: asyncio.Task[QueueLoad] | None = None
        self._looking = asyncio.Lock()
        self._last: HealthAnswer | None = None
        self._looked_s = float("-inf")

    async def __call__(self) -> HealthAnswer:
        """Return how it stands, at most a second old."""
        async with self._looking:
            if self._last is None or time.monotonic() - self._looked_s >= KEPT_S:
                answer = await self._look()
                if self._last is not None and answer.status != self._last.status:
                    is_bad = answer.status == "degraded"
                    level = logging.WARNING if is_bad else logging.INFO
                    facts = {"status": answer.status, "reason": answer.reason}
                    logger.log(level, "health changed", extra=facts)
                self._last, self._looked_s = answer, time.monotonic()
            return self._last

    async def _look(self) -> HealthAnswer:
        load, wrong = None, ""
        try:
            load = await self._ask()
        except TimeoutError:
            wrong = "the database is busy or still being opened"
        except StorageError:
            wrong = "the database refuses; the log says why"
        state = self._state()
        status, reason = ("degraded", wrong) if wrong else judge(state)
        return HealthAnswer(
            status=status,
            reason=reason,
            leads=state.leads,
            queue_depth=None if load is None else load.queued,
            jobs_stopping=None if load is None else load.stopping,
            version=__version__,
        )

    async def _ask(self) -> QueueLoad:
        """Ask the database; a question it still owes an answer to is not asked again."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._load_now(), name="flux-mcp-health")
        done, _ = await asyncio.wait({self._asking}, timeout=PATIENCE_S)
        if not done:
            raise TimeoutError
        asked, self._asking = self._asking, None
        return asked.result()

    async def _load_now(self) -> QueueLoad:
        return await self._load()


def judge(state: ExecutorState) -> tuple[HealthStatus, str]:
    """Return the status of a process whose database answers, and why it is that. Pure."""
    if state.lock_error is not None:
        return "degraded", "the GPU lock cannot be taken; the log says why"
    if state.is_dead:
        return "degraded", "the executor has stopped or keeps failing; the log says why"
    if state.trouble is not None:
        return "degraded", f"the last worker or job failed: {state.trouble}"
    if state.other_leads:
        return "ready", "another process of this data folder draws"
    if any(worker.is_running for worker in state.workers):
        return "ready", "a worker is up"
    return "no_worker", "no worker runs; the next job starts one"


class Operations:
    """Health and metrics of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self.traffic = HttpTraffic()
        self._runtime = runtime
        self._health = Health(self._load, runtime.executor_state)
        self._metrics: Metrics | None = None
        self._started_at = utc_now()

    async def health(self) -> HealthAnswer:
        """Return whether images can be drawn; for probes: at once, and at most a second old."""
        return await self._health()

    async def metrics(self) -> tuple[bytes, str]:
        """Return what Prometheus scrapes, and its content type."""
        if self._metrics is None:
            # Imported by the first scrape: most processes never see one.
            from flux_mcp.service.metrics import Metrics, Sources  # noqa: PLC0415

            self._metrics = Metrics(
                Sources(
                    jobs=self._count_jobs,
                    state=self._runtime.executor_state,
                    traffic=self.traffic,
                    since=self._started_at,
                )
            )
        return await self._metrics.scrape()

    async def _count_jobs(
        self, since: str
    ) -> tuple[tuple[EndedJob, ...], tuple[UnfinishedJobs, ...]]:
        await self._runtime.open()
        queue = self._runtime.rooms.queue
        return await self._runtime.database.call(
            lambda: (queue.ended_since(since), queue.unfinished())
        )

    async def _load(self) -> QueueLoad:
        await self._runtime.open()
        return await self._runtime.database.call(self._runtime.rooms.queue.load)
