"""Fleet: the protocol between the executor and whatever draws.

The executor uses nothing else. The fleet of today is one child process (process_fleet.py) and draws
one job at a time; several GPUs, hosts over ssh or a cluster engine belong behind this protocol.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.worker_protocol.messages import Environment, JobEvent, Memory, Weights


class WorkerLost(Exception):  # noqa: N818 - an event of a job more than an error
    """The worker of a running job is gone: it died, broke its stream, or was ended."""


class WorkerNotStarted(WorkerLost):
    """No worker could be started for a job, which has not begun: another try may do."""


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
    """How a worker stands. It draws one job at a time."""

    worker_id: str
    """Names it in metrics."""
    is_running: bool
    """Whether its process is up (a stopped worker starts on the next job)."""
    loaded: tuple[str, ...] = ()
    """Pipelines that draw at once, as `kind/model`."""
    environment: Environment | None = None
    """Known once it has been up."""
    pid: int | None = None
    memory: Memory | None = None
    """As its last event said; `None` on a CPU and while it is not up."""
    starts: int = 0
    """How many processes have been started for it."""
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
    """A worker that draws one job at a time; it is free before a final event is announced."""

    def worker(self) -> WorkerInfo:
        """Return how the worker stands, without asking it."""
        ...

    async def warm(self) -> None:
        """Start the worker without a job. Returns when it is ready.

        Raises:
            WorkerLost: it died while starting.
        """
        ...

    def run(self, assignment: Assignment) -> AsyncGenerator[Report, None]:
        """Draw, yielding every event, the last of which is `Done`, `Failed` or `Cancelled`.

        Events of another job or attempt are dropped. The caller closes the generator; one closed
        early cancels its job.

        Raises:
            WorkerNotStarted: the worker died before it was ready.
            WorkerLost: the worker died before a final event.
        """
        ...

    async def cancel(self, job_id: str) -> None:
        """Ask for the job to stop at the next step; harmless for a job that is not running."""
        ...

    async def prefetch(self, weights: Weights | None) -> None:
        """Have the worker read weights into its memory while it draws; `None` for no more of that.

        A hint: each call replaces the one before, a worker that is not running is not started for
        it, and a fleet that cannot do it does nothing.
        """
        ...

    async def kill(self) -> None:
        """End the worker at once; a job running on it raises `WorkerLost`."""
        ...

    async def release(self) -> None:
        """Let an idle worker exit to free its memory. It starts again on the next job."""
        ...

    async def close(self) -> None:
        """End the worker and wait until it is gone."""
        ...
