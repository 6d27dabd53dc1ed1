"""Tells the worker what it will probably draw next, while it draws something else.

Owns nothing that outlives an attempt. It looks at the queue and changes nothing there: a guess that
turns out wrong costs a read of the disk.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.fleet import Fleet
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.scheduler import Turn, Waiting
from flux_mcp.storage.database import DatabaseThread
from flux_mcp.worker_protocol.messages import Weights, weights_of

logger = logging.getLogger(__name__)

PAUSE_S = 0.5
"""Between two looks at least: choosing takes hundredths of a second of the database's thread in a
long queue, and a busy one changes many times a second."""
LOOK_AGAIN_S = 5.0
"""How long a change of the queue may stay unseen if one were ever missed."""

Choose = Callable[[Sequence[Waiting]], Turn | None]


@dataclass(frozen=True)
class LookAhead:
    """Looks which job comes next. Holds what every look needs.

    Args:
        queue: Asked for the next job.
        database: Its thread.
        changes: Wakes it.
        choose: Returns, for a fleet as it is now, what `claim` will choose with.
        is_on: False: it never says anything.
    """

    queue: JobQueue
    database: DatabaseThread
    changes: Changes
    choose: Callable[[Fleet], Choose]
    is_on: bool

    @asynccontextmanager
    async def beside(self, fleet: Fleet, worker: str, job: Job) -> AsyncIterator[asyncio.Event]:
        """Look ahead while a job is drawn: from when the event is set to the end of the block.

        Not before: until then the worker still reads, or takes, the weights of this job.
        """
        is_drawing = asyncio.Event()
        task = asyncio.create_task(self._tell(fleet, worker, job, is_drawing))
        try:
            yield is_drawing
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def nothing_waits(self, fleet: Fleet, worker: str) -> None:
        """End what is left of the last guess, when there is no job to draw."""
        if self.is_on and any(info.is_running for info in fleet.workers()):
            with _only_advice():
                await fleet.prefetch(worker, None)

    async def _tell(self, fleet: Fleet, worker: str, job: Job, is_drawing: asyncio.Event) -> None:
        if not self.is_on:
            return
        await is_drawing.wait()
        told, is_first = None, True
        with _only_advice():
            while True:
                ticket = self.changes.ticket()
                weights = await self._weights_ahead(fleet, job)
                # The first word is always said: it ends what is left of an older one.
                if is_first or weights != told:
                    await fleet.prefetch(worker, weights)
                told, is_first = weights, False
                await asyncio.sleep(PAUSE_S)
                await self.changes.wait(ticket, LOOK_AGAIN_S)

    async def _weights_ahead(self, fleet: Fleet, job: Job) -> Weights | None:
        """Return what the next job needs, if that is something else than this one.

        Whether it is loaded already, also for another kind, the worker knows best.
        """
        ahead = await self.database.call(self.queue.next_up, self.choose(fleet))
        if ahead is None:
            return None
        weights = weights_of(ahead.plan)
        return None if weights == weights_of(job.plan) else weights


@contextmanager
def _only_advice() -> Iterator[None]:
    """Log what goes wrong, and go on: advice must never cost a job that is drawn."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a fleet or the database has
        logger.warning("the worker cannot be told of the next job: %s", error)
