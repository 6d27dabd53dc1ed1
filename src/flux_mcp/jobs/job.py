"""Job: one request on its way to images, and the statuses it goes through.

          submit            claim                  last image saved
(nothing) ──────► queued ─────────► running ───────────────────────► completed
                    │ ▲                │ │
             cancel │ │ worker lost or │ │ cannot be drawn, or lost twice
                    │ │ server ended   │ └───────────────────────────► failed
                    │ └────────────────┤
                    │                  │ cancel, at the next step
                    └──────────────────┴─────────────────────────────► cancelled
"""

import secrets
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flux_mcp.models.registry import Kind
from flux_mcp.principals import LOCAL
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.worker_protocol.messages import ErrorInfo, Phase

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
ShownStatus = Literal["queued", "running", "stopping", "completed", "failed", "cancelled"]
"""What answers call it: `stopping` is a running job that was asked to stop. Not stored, so that no
transition has to name it: the row has `cancel_requested`, and says `running` until it has ended."""
PreviewSize = Literal["none", "small", "normal"]

FINAL: frozenset[JobStatus] = frozenset({"completed", "failed", "cancelled"})
MAX_ATTEMPTS = 2
"""A job whose worker was lost runs once more; after that the job is taken to be the cause."""


class Job(BaseModel):
    """Everything known about one job."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str
    kind: Kind
    model: str
    status: JobStatus = "queued"
    phase: Phase | None = None
    step: int = 0
    total_steps: int
    message: str = ""
    eta_s: float | None = None
    """Seconds left while running, as the worker sees it."""
    principal: str = LOCAL
    """Who asked for it, and who alone may see it (principals.py)."""
    session: str | None = None
    stage: str | None = None
    parents: tuple[str, ...] = ()
    request: dict[str, Any]
    plan: RenderPlan
    composed: tuple[dict[str, Any], ...] = ()
    """For each image what a pack made its prompt of; empty for plain prompts."""
    notices: tuple[str, ...] = ()
    idempotency_key: str | None = None
    """Unique for its principal."""
    traceparent: str | None = None
    """The trace of the call that submitted it, as W3C Trace Context writes it."""
    attempt: int = 0
    """1 for the first run; a new number for each claim after a lost worker."""
    overtakes: int = 0
    """How often a job that was submitted later has been started before this one."""
    owner: str | None = None
    """The server process that runs it."""
    heartbeat_at: str | None = None
    cancel_requested: bool = False
    id_given: bool = False
    """Whether a caller has been given the id: from then on only an explicit cancel ends the job."""
    unanswered_at: str | None = None
    """When a call about it ended without an answer, while no caller has the id: the same request
    made again is given this job instead of a second one."""
    preview: PreviewSize = "small"
    """How large a preview the caller wants that was given the id last. A call whose result is asked
    for later, as a task, gets the preview that the call asked for."""
    error: ErrorInfo | None = None
    load_s: float | None = None
    draw_s: float | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINAL

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop, and still runs."""
        return self.status == "running" and self.cancel_requested

    @property
    def shown_status(self) -> ShownStatus:
        """Its status as answers call it."""
        return "stopping" if self.is_stopping else self.status


def new_job_id() -> str:
    """Return an unguessable id."""
    return f"job_{secrets.token_urlsafe(12)}"


def utc_now() -> str:
    """Return the time as ISO 8601, UTC, microseconds: text that sorts as time does."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
