"""What a worker says of a job: numbered events on the wire. Knows not how a job is drawn."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from flux_mcp.pipelines.wire import Wire
from flux_mcp.requests.messages import (
    Phase,
    Picture,
    Preview,
    Progress,
    RunMessage,
)


class _Stamp(TypedDict):
    job_id: str
    attempt: int
    seq: int


class JobEvents:
    """Numbers one job's events and writes them: the `Reports` of steps.py."""

    def __init__(self, message: RunMessage, wire: Wire) -> None:
        self._message = message
        self._wire = wire
        self._seq = 0

    def progress(
        self,
        phase: Phase,
        step: int,
        *,
        eta_s: float | None = None,
        message: str = "",
        loaded: tuple[str, ...] | None = None,
    ) -> None:
        """Send how far the job is."""
        event = Progress(
            **self.stamp(),
            phase=phase,
            step=step,
            total_steps=self._message.plan.total_steps,
            eta_s=eta_s,
            message=message,
            loaded=loaded,
        )
        self._wire.send(event)

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Send a small picture of how it stands."""
        width, height = size
        event = Preview(**self.stamp(), index=index, step=step, width=width, height=height)
        self._wire.send(event, {"preview": webp})

    def picture(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Send a finished picture."""
        height, width, _channels = pixels.shape
        event = Picture(
            **self.stamp(), index=index, seed=seed, width=width, height=height, seconds=seconds
        )
        self._wire.send(event, {"pixels": pixels.tobytes()})

    def stamp(self) -> _Stamp:
        """Return the fields every event has, with the next sequence number."""
        stamp = _Stamp(job_id=self._message.job_id, attempt=self._message.attempt, seq=self._seq)
        self._seq += 1
        return stamp
