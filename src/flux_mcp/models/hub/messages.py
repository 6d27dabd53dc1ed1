"""Messages between a command and the downloading process: one JSON document a line."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _PullMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class PullOrder(_PullMessage):
    """One repository to have on disk."""

    model: str
    """Registry id; only for messages."""
    repository: str
    revision: str | None
    """The commit to take; `None`: the newest there is, which is recorded."""


class PullRequest(_PullMessage):
    """The one line that the process reads. When its stdin closes after that, it ends at once."""

    orders: tuple[PullOrder, ...] = Field(min_length=1)
    reserve_bytes: int = Field(ge=0)
    """Free space that must be left on the disk."""
    tries: int = Field(6, ge=1)
    """Tries in a row that bring no byte before a file is given up."""
    backoff_s: float = Field(1.0, ge=0)
    """Pause before the second try; each further one waits twice as long, at most 30 s."""


class Listed(_PullMessage):
    """A repository's files are known."""

    type: Literal["listed"] = "listed"
    model: str
    revision: str
    files: int
    size_bytes: int
    missing_bytes: int


class FileProgress(_PullMessage):
    """One file that is being received."""

    path: str
    done_bytes: int
    size_bytes: int


class PullProgress(_PullMessage):
    """How far everything is. Sent twice a second, also while nothing arrives."""

    type: Literal["progress"] = "progress"
    phase: Literal["listing", "downloading", "verifying"]
    done_bytes: int
    total_bytes: int
    speed_bytes_s: float | None
    eta_s: float | None
    files: tuple[FileProgress, ...]
    """Those that are being received now."""


class Pulled(_PullMessage):
    """A repository is complete on disk, and every file has the hash that the hub says."""

    type: Literal["pulled"] = "pulled"
    model: str
    revision: str
    downloaded_bytes: int


class PullFailed(_PullMessage):
    """The last event of a process that failed; what it downloaded is kept for the next try."""

    type: Literal["failed"] = "failed"
    code: str
    message: str
    hint: str


class PullFinished(_PullMessage):
    """The last event of a process that succeeded."""

    type: Literal["finished"] = "finished"


PullEvent = Annotated[
    Listed | PullProgress | Pulled | PullFailed | PullFinished, Field(discriminator="type")
]


def parse_pull_event(line: bytes | str) -> PullEvent:
    """Read one line of the process.

    Raises:
        pydantic.ValidationError: it is no event.
    """
    event: PullEvent = TypeAdapter(PullEvent).validate_json(line)
    return event
