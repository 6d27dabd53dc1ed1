"""Download: weights on their way to this disk, as anybody may watch them. A value.

It is no job: it has no plan and draws nothing, and it does not wait in the queue. What both have in
common (an id, a status, a message, an end) has the same names.

             begin                    every file checked
(nothing) ──────────► running ──────────────────────────► completed
                         │ │  refused, broken, process lost
                         │ └──────────────────────────────► failed
                         │  cancelled or interrupted
                         └────────────────────────────────► cancelled

Whatever the end, what was received stays on disk, and the same pull goes on from there.
"""

import secrets
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flux_mcp.errors import DownloadLostError
from flux_mcp.requests.messages import ErrorInfo

DownloadStatus = Literal["running", "completed", "failed", "cancelled"]
DownloadPhase = Literal["listing", "downloading", "verifying"]

ID_PREFIX = "dl_"
STALE_S = 60.0
"""A running download gives a sign of life twice a second; after so long without, it is lost."""
_MIB, _GIB = 1024**2, 1024**3
_MINUTE_S = 60


class Download(BaseModel):
    """Everything known about one download. Nothing in it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str
    models: tuple[str, ...]
    status: DownloadStatus = "running"
    phase: DownloadPhase | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    """0 until the hub has said how large the files are."""
    speed_bytes_s: float | None = None
    eta_s: float | None = None
    error: ErrorInfo | None = None
    cancel_requested: bool = False
    heartbeat_at: str
    created_at: str
    finished_at: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status != "running"

    @property
    def step(self) -> int:
        """Percent of the bytes, rounded down."""
        return 100 * self.done_bytes // self.total_bytes if self.total_bytes else 0

    @property
    def total_steps(self) -> int:
        """What `step` ends at."""
        return 100

    @property
    def message(self) -> str:
        """How far it is, in words."""
        names = ", ".join(self.models)
        if not self.total_bytes:
            return f"{names}: asking the hub"
        done = f"{_size(self.done_bytes)} of {_size(self.total_bytes)} ({self.step} %)"
        speed = f", {self.speed_bytes_s / _MIB:.1f} MiB/s" if self.speed_bytes_s else ""
        left = f", about {_duration(self.eta_s)} left" if self.eta_s is not None else ""
        return f"{names}: {done}{speed}{left}"


def new_download_id() -> str:
    """Return an unguessable id."""
    return f"{ID_PREFIX}{secrets.token_urlsafe(12)}"


def is_download_id(job_id: str) -> bool:
    """Whether an id is that of a download and not of a job."""
    return job_id.startswith(ID_PREFIX)


def as_seen(download: Download, now: str) -> Download:
    """Return a download as it is at `now`: without a sign of life for `STALE_S` it has failed."""
    silent = datetime.fromisoformat(now) - datetime.fromisoformat(download.heartbeat_at)
    if download.is_final or silent.total_seconds() <= STALE_S:
        return download
    return download.model_copy(
        update={"status": "failed", "phase": None, "eta_s": None, "error": lost()}
    )


def lost() -> ErrorInfo:
    """Return the error of a download whose process is gone without a word."""
    return ErrorInfo(
        code=DownloadLostError.code,
        message="The command that downloaded is gone.",
        hint="Run it again: it goes on from where it was.",
    )


def _size(size_bytes: int) -> str:
    gib = size_bytes / _GIB
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes / _MIB:.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds / _MINUTE_S:.0f} min" if seconds >= 2 * _MINUTE_S else f"{seconds:.0f} s"
