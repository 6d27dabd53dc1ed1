"""The messages between the executor and a worker; each is the header of one frame (frames.py).

Commands go to the worker, events come back. Every event carries the job, the attempt and a sequence
number: one of an older attempt is recognised and dropped. Input images, pixels and previews are the
frame's blobs.

`defer_build` here and in the other stored models: pydantic then builds a validator when it is first
used, and a server answers its first client a twentieth sooner.
"""

from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flux_mcp.errors import FluxMcpError
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import Kind
from flux_mcp.requests.render_plan import RenderPlan

Phase = Literal["loading", "encoding", "denoising", "decoding", "upscaling", "saving"]


class _ProtocolModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ErrorInfo(_ProtocolModel):
    """An error as it is stored with a job and returned to callers."""

    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: FluxMcpError) -> Self:
        """Return a deliberate error as it is stored and sent."""
        return cls(code=error.code, message=error.message, hint=error.hint)

    def __str__(self) -> str:
        """`[code] what is wrong. what to do.`, as the errors of errors.py are written."""
        return f"[{self.code}] {self.message} {self.hint}".rstrip()


# --- executor -> worker ------------------------------------------------------------------------


class RunMessage(_ProtocolModel):
    """Draw this plan. Blobs: each input's PNG under its SHA-256."""

    type: Literal["run"] = "run"
    job_id: str
    attempt: int
    plan: RenderPlan
    preview_every_steps: int = 2
    preview_interval_s: float = 1.25


class CancelMessage(_ProtocolModel):
    """Stop this job at the next step. Of no effect when it is not the one being drawn."""

    type: Literal["cancel"] = "cancel"
    job_id: str


class Weights(_ProtocolModel):
    """Which files a plan draws with, and what they are made into."""

    kind: Kind
    model: str
    revision: str | None
    precision: Precision
    text_precision: Precision | None


class PrefetchMessage(_ProtocolModel):
    """Read these weights into memory while a job is drawn; forget those that were named before.

    Nothing answers it: what cannot be read ahead is read when its job comes.
    """

    type: Literal["prefetch"] = "prefetch"
    weights: Weights | None
    """`None`: read nothing ahead, and forget what was."""


Command = Annotated[RunMessage | CancelMessage | PrefetchMessage, Field(discriminator="type")]


@cache
def _commands() -> TypeAdapter[Command]:
    return TypeAdapter(Command)


def parse_command(header: dict[str, Any]) -> Command:
    """Read a command's header.

    Raises:
        pydantic.ValidationError: it is no message of this protocol.
    """
    return _commands().validate_python(header)


# --- worker -> executor ------------------------------------------------------------------------


class Environment(_ProtocolModel):
    """Where pixels are made: what an image's provenance keeps."""

    torch: str
    diffusers: str
    transformers: str
    device: str
    """`cpu`, `cuda:0`, `mps`."""
    device_name: str
    memory_total_gib: float | None = None
    threads: int
    platform: str


class Memory(_ProtocolModel):
    """What a worker has taken of its GPU's memory, as torch counts it; none on a CPU.

    The driver's context, some hundreds of MB, is in none of these: only `nvidia-smi` shows it.
    """

    allocated_bytes: int = Field(ge=0)
    """In tensors that are alive: weights, mostly."""
    reserved_bytes: int = Field(ge=0)
    """Taken from the driver, in use or kept for the next allocation."""
    total_bytes: int = Field(ge=0)
    """Of the device."""


class WorkerReady(_ProtocolModel):
    """The worker is up; the first event of each worker."""

    type: Literal["ready"] = "ready"
    pid: int
    environment: Environment | None
    """`None`: its libraries or its device cannot be used; every run fails with
    `engine_unavailable`."""
    memory: Memory | None = None


class _JobEvent(_ProtocolModel):
    job_id: str
    attempt: int
    seq: int


class _FinalEvent(_JobEvent):
    loaded: tuple[str, ...] = ()
    """`kind/model` of every pipeline that draws at once: on the GPU, or the one that drew last."""
    waiting: tuple[str, ...] = ()
    """Those whose weights wait in host memory: one copy away from the GPU."""
    memory: Memory | None = None
    """After the job."""


class Progress(_JobEvent):
    """Sent at each change of phase and after each step."""

    type: Literal["progress"] = "progress"
    phase: Phase
    step: int
    """Steps finished, of the whole job."""
    total_steps: int
    eta_s: float | None = None
    message: str = ""
    loaded: tuple[str, ...] | None = None
    """`kind/model` of every pipeline now resident, where that has just changed."""


class Preview(_JobEvent):
    """Blob `preview`: a small WebP of the image as it stands."""

    type: Literal["preview"] = "preview"
    index: int
    step: int
    width: int
    height: int


class GeneratedImage(_JobEvent):
    """Blob `pixels`: raw RGB, 8 bits, row by row. Sent when an image is decoded.

    Of a plan that draws and upscales, those upscaled follow, numbered on in the same order: they
    are finished, and nothing is pasted around them.
    """

    type: Literal["image"] = "image"
    index: int
    seed: int
    width: int
    height: int
    seconds: float
    """From the start of this pass to its pixels."""


class Done(_FinalEvent):
    """The job is finished; the worker is already free for the next."""

    type: Literal["done"] = "done"
    load_s: float
    """Seconds spent loading weights for this job."""
    peak_gib: float | None = None
    """Most of the GPU's memory that was taken, by everything that was loaded, without the driver's
    context; `None` on a CPU."""
    draw_s: float
    """Seconds spent in the pipeline; of a plan of the kind upscale, making the image larger."""
    weights_sha256: str
    """Fingerprint of the transformer files that drew, or SHA-256 of what upscaled; empty for
    lanczos."""
    prefetched_bytes: int = 0
    """Of the weights that were loaded, read before the job came."""


class Failed(_FinalEvent):
    """The job cannot be drawn; the worker is fine and free."""

    type: Literal["failed"] = "failed"
    error: ErrorInfo


class Cancelled(_FinalEvent):
    """The job stopped as asked; the worker is free."""

    type: Literal["cancelled"] = "cancelled"


JobEvent = Progress | Preview | GeneratedImage | Done | Failed | Cancelled
Event = Annotated[
    WorkerReady | Progress | Preview | GeneratedImage | Done | Failed | Cancelled,
    Field(discriminator="type"),
]
FINAL_EVENTS = (Done, Failed, Cancelled)


@cache
def _events() -> TypeAdapter[Event]:
    return TypeAdapter(Event)


def parse_event(header: dict[str, Any]) -> Event:
    """Read an event's header.

    Raises:
        pydantic.ValidationError: it is no message of this protocol.
    """
    return _events().validate_python(header)


def pipeline_key(plan: RenderPlan) -> str:
    """Name the pipeline a plan needs, as events list it: `kind/model`."""
    return f"{plan.kind}/{plan.model}"


def weights_of(plan: RenderPlan) -> Weights:
    """Return which weights a plan draws with."""
    return Weights.model_validate(plan.model_dump(include=set(Weights.model_fields)))
