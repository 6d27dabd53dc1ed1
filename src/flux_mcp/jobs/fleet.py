"""The seam between the queue and whatever draws: workers, run, cancel. Pure.

The executor knows only `Fleet`. Today's is one child process (worker_process.py); several GPUs,
hosts over ssh or a cluster engine fit behind the same protocol.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flux_mcp.requests.plan import RenderPlan
from flux_mcp.worker_protocol.messages import Environment, JobEvent, Memory, Weights


class WorkerLost(Exception):  # noqa: N818 - the blueprint's word; it is an event more than an error
    """The worker of a running job is gone: it died, broke its stream, or was ended."""


@dataclass(frozen=True)
class Assignment:
    """One job, ready for a worker."""

    job_id: str
    attempt: int
    plan: RenderPlan
    inputs: Mapping[str, bytes]
    """PNG bytes by SHA-256, for every `plan.inputs`."""


@dataclass(frozen=True)
class Report:
    """An event of a running job, with the bytes that came with it."""

    event: JobEvent
    blobs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerInfo:
    """One slot that draws one job at a time."""

    worker_id: str
    is_running: bool
    """Whether its process is up (a stopped slot starts on the next job)."""
    loaded: tuple[str, ...] = ()
    """Pipelines that draw at once, as `kind/model`."""
    environment: Environment | None = None
    """Known once it has been up."""
    pid: int | None = None
    memory: Memory | None = None
    """As it was at its last word; `None` on a CPU and while it is not up."""
    starts: int = 0
    """How many processes this slot has started."""
    waiting: tuple[str, ...] = ()
    """Pipelines whose weights wait in host memory, as `kind/model`."""
    used: tuple[str, ...] = ()
    """Pipelines that its process has drawn with, loaded or not, the longest unused first."""

    @property
    def loaded_by_use(self) -> tuple[str, ...]:
        """What is loaded, in the order in which it will make room: the longest unused first.

        What was loaded and has not drawn yet comes last: it is what draws now.
        """
        new = tuple(pipeline for pipeline in self.loaded if pipeline not in self.used)
        return tuple(pipeline for pipeline in self.used if pipeline in self.loaded) + new


class Fleet(Protocol):
    """Workers. One job per worker; the slot is free before the final event is announced."""

    def workers(self) -> Sequence[WorkerInfo]:
        """Return every slot."""
        ...

    async def warm(self, worker_id: str) -> None:
        """Start the worker without a job. Returns when it is ready.

        Raises:
            WorkerLost: it died while starting.
        """
        ...

    def run(self, worker_id: str, assignment: Assignment) -> AsyncGenerator[Report, None]:
        """Draw, yielding every event, the last of which is `Done`, `Failed` or `Cancelled`.

        Events of another job or attempt are dropped. The caller closes the generator; one closed
        early cancels its job.

        Raises:
            WorkerLost: the worker died before a final event.
        """
        ...

    async def cancel(self, worker_id: str, job_id: str) -> None:
        """Ask for the job to stop at the next step; harmless for a job that is not running."""
        ...

    async def prefetch(self, worker_id: str, weights: Weights | None) -> None:
        """Have a worker read weights into its memory while it draws; `None` for no more of that.

        Advice: each call replaces the one before, a worker that is not running is not started for
        it, and a fleet that cannot do it does nothing.
        """
        ...

    async def kill(self, worker_id: str) -> None:
        """End the worker at once; a job running on it raises `WorkerLost`."""
        ...

    async def release(self, worker_id: str) -> None:
        """Let an idle worker exit, so that its memory is free. It starts again on the next job."""
        ...

    async def close(self) -> None:
        """End every worker and wait until they are gone."""
        ...
