"""LookAhead: has the worker read the weights of the next job while it draws the current one.

It reads the queue and changes nothing there. A guess that turns out wrong costs a read of the disk.
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
from flux_mcp.jobs.scheduler import NextJob, WaitingJob
from flux_mcp.storage.database import DatabaseThread
from flux_mcp.worker_protocol.messages import Weights, weights_of

logger = logging.getLogger(__name__)

PAUSE_S = 0.5
"""At least so long between two looks at the queue: choosing takes hundredths of a second of the
database's thread in a long queue, and a busy one changes many times a second."""
LOOK_AGAIN_S = 5.0
"""How long a change of the queue may stay unseen if one were ever missed."""

Choose = Callable[[Sequence[WaitingJob]], NextJob | None]


@dataclass(frozen=True)
class LookAhead:
    """Finds the next job and sends its weights to the worker as a hint.

    Args:
        queue: Where the next job is looked up.
        database: The thread to do so on.
        changes: Wakes it.
        choose: Returns, for a fleet as it is now, what `claim` will choose with.
        is_on: False: nothing is ever sent.
    """

    queue: JobQueue
    database: DatabaseThread
    changes: Changes
    choose: Callable[[Fleet], Choose]
    is_on: bool

    @asynccontextmanager
    async def beside(self, fleet: Fleet, job: Job) -> AsyncIterator[asyncio.Event]:
        """Look ahead while a job is drawn: from when the event is set to the end of the block.

        Not before: until then the worker still reads, or takes, the weights of this job.
        """
        is_drawing = asyncio.Event()
        task = asyncio.create_task(self._send(fleet, job, is_drawing))
        try:
            yield is_drawing
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def nothing_waits(self, fleet: Fleet) -> None:
        """Drop what was read for a job that did not come, when there is none to draw."""
        if self.is_on and fleet.worker().is_running:
            with _logging_errors():
                await fleet.prefetch(None)

    async def _send(self, fleet: Fleet, job: Job, is_drawing: asyncio.Event) -> None:
        if not self.is_on:
            return
        await is_drawing.wait()
        sent, is_first = None, True
        with _logging_errors():
            while True:
                ticket = self.changes.ticket()
                weights = await self._weights_ahead(fleet, job)
                # The first is always sent: it ends what is left of an older one.
                if is_first or weights != sent:
                    await fleet.prefetch(weights)
                sent, is_first = weights, False
                await asyncio.sleep(PAUSE_S)
                await self.changes.wait(ticket, LOOK_AGAIN_S)

    async def _weights_ahead(self, fleet: Fleet, job: Job) -> Weights | None:
        """Return what the next job needs, if that is something else than this one.

        The worker finds out whether they are loaded already, also for another kind.
        """
        ahead = await self.database.call(self.queue.next_up, self.choose(fleet))
        if ahead is None or ahead.plan.kind == "upscale":
            return None  # an upscaler is small
        weights = weights_of(ahead.plan)
        return None if weights == weights_of(job.plan) else weights


@contextmanager
def _logging_errors() -> Iterator[None]:
    """Log what goes wrong, and go on: a hint must never cost a job that is drawn."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a fleet or the database raises
        logger.warning("weights of the next job cannot be prefetched: %s", error)
