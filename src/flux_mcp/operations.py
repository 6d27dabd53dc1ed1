"""Operations: what the owner of a server asks of it: is it well, and what has it done.

Owns the counts of the HTTP door and what the last scrape knew; everything else is asked of the
runtime.
"""

from typing import TYPE_CHECKING

from flux_mcp.answers import HealthAnswer
from flux_mcp.health import Health
from flux_mcp.jobs.job import utc_now
from flux_mcp.jobs.tally import Ended, Standing
from flux_mcp.runtime import Runtime
from flux_mcp.traffic import Traffic

if TYPE_CHECKING:
    from flux_mcp.metrics import Metrics


class Operations:
    """Health and metrics of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self.traffic = Traffic()
        self._runtime = runtime
        self._health = Health(self._depth, runtime.executor_state)
        self._metrics: Metrics | None = None
        self._started_at = utc_now()

    async def health(self) -> HealthAnswer:
        """Return whether pictures can be drawn; for probes: at once, and at most a second old."""
        return await self._health()

    async def metrics(self) -> tuple[bytes, str]:
        """Return what Prometheus scrapes, and its content type."""
        if self._metrics is None:
            # Imported by the first scrape: most processes never see one.
            from flux_mcp.metrics import Metrics, Sources  # noqa: PLC0415

            self._metrics = Metrics(
                Sources(
                    jobs=self._count_jobs,
                    state=self._runtime.executor_state,
                    traffic=self.traffic,
                    since=self._started_at,
                )
            )
        return await self._metrics.scrape()

    async def _count_jobs(self, since: str) -> tuple[tuple[Ended, ...], tuple[Standing, ...]]:
        await self._runtime.open()
        tally = self._runtime.rooms.tally
        return await self._runtime.database.call(
            lambda: (tally.ended_since(since), tally.standing())
        )

    async def _depth(self) -> int:
        await self._runtime.open()
        return await self._runtime.database.call(self._runtime.rooms.queue.depth)
