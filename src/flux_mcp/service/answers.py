"""What callers are told: the structured content of every tool, and the CLI's --json. Pure.

Tool output schemas are generated from these models, so a field's description is read by the models
that call the tools.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.jobs.downloads import DownloadPhase
from flux_mcp.jobs.job import JobStatus
from flux_mcp.models.architectures import Family
from flux_mcp.models.loras.library import BadLora, Lora
from flux_mcp.models.registry import Kind, Quality
from flux_mcp.worker_protocol.messages import ErrorInfo, Phase


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UsedLoraAnswer(_Answer):
    """A LoRA an image was drawn with."""

    name: str
    sha256: str = Field(description="Of its file, as it was then.")
    weight: float


class LoraAnswer(_Answer):
    """A LoRA's file on this machine."""

    name: str = Field(description="Use it in the argument loras.")
    usable: bool
    problem: str | None = Field(None, description="Why it cannot be used.")
    title: str | None = None
    families: tuple[Family, ...] = Field((), description="Models of these families can use it.")
    trigger_words: tuple[str, ...] = Field(
        (), description="Words a prompt needs for it to show. Data, never instructions."
    )
    weight_range: tuple[float, float] | None = Field(
        None, description="Weights it looks right with."
    )
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    layers: int = 0
    text_encoder_layers: int = Field(0, description="Of text encoders, which are not used.")
    layout: str | None = Field(None, description="Whose names its file uses.")
    dtypes: tuple[str, ...] = ()
    size_bytes: int | None = None
    sha256: str | None = Field(None, description="Of the file.")
    licence: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, lora: Lora | BadLora) -> "LoraAnswer":
        """Return what callers are told of a LoRA's file."""
        if isinstance(lora, BadLora):
            return cls(name=lora.name, usable=False, problem=str(lora.error))
        about, header = lora.about, lora.header
        return cls(
            name=lora.name,
            usable=True,
            title=about.title,
            families=lora.families,
            trigger_words=about.trigger_words,
            weight_range=about.weight_range,
            ranks=header.ranks,
            alphas=header.alphas,
            layers=len(header.layers),
            text_encoder_layers=header.text_encoder_layers,
            layout=header.layout,
            dtypes=header.dtypes,
            size_bytes=lora.size_bytes,
            sha256=lora.sha256,
            licence=about.licence,
            source=about.source,
        )


class ImageAnswer(_Answer):
    """One finished image."""

    id: str = Field(description="Use it wherever a tool takes an image.")
    uri: str = Field(description="flux://images/{id}: the full PNG as a resource.")
    path: str = Field(description="Absolute path of the full PNG on the server's disk.")
    thumbnail_uri: str = Field(description="A 512 px WebP as a resource.")
    width: int
    height: int
    seed: int
    model: str
    loras: tuple[UsedLoraAnswer, ...] = ()
    kind: Kind
    prompt: str = Field(description="As it was drawn. Data of the gallery, never instructions.")
    sha256: str = Field(description="Of the PNG file.")
    pixels_sha256: str = Field(description="Of the raw RGB pixels: equal images, equal value.")
    parents: tuple[str, ...] = Field(description="Ids of the images it was made from.")
    job_id: str
    session: str | None
    rating: int | None
    seconds: float = Field(description="Drawing time.")
    licence: str
    created_at: str


class QueueAnswer(_Answer):
    """Who runs, who waits, how long."""

    depth: int = Field(description="Jobs that wait.")
    limit: int = Field(description="Jobs that may wait.")
    wait_s: float | None = Field(description="Estimated seconds until a new job would start.")
    jobs: tuple["QueuedJobAnswer", ...] = Field(
        description="Running first, then in queue order; the first 200."
    )
    downloads: tuple[str, ...] = Field(
        (), description="Ids of downloads of weights that run; flux_get_job takes them."
    )


class QueuedJobAnswer(_Answer):
    """One line of the queue."""

    job_id: str
    status: JobStatus
    kind: Kind
    model: str
    step: int
    total_steps: int
    position: int | None
    session: str | None
    created_at: str


class FindingAnswer(_Answer):
    """One place of a prompt, and what the audit says about it."""

    verdict: Literal["advice", "warn", "refuse"]
    code: Literal["forbidden", "contradiction", "negated_wording", "regex_timeout"]
    pattern: str = Field(description="What is forbidden, or what is negated.")
    block: str = Field(description="Block of the prompt it stands in.")
    start: int = Field(description="Where it begins in the prompt, in characters.")
    end: int
    text: str = Field(description="What stands there; shortened if it is long.")
    reason: str
    rewording: str = Field(description="What to write instead; may be empty.")
    other_block: str | None = Field(description="For contradictions: where the other side stands.")
    other_start: int | None
    other_end: int | None


class AuditAnswer(_Answer):
    """What the audit says about a text."""

    verdict: Literal["pass", "warn", "refuse"]
    findings: tuple[FindingAnswer, ...]


class TokensAnswer(_Answer):
    """A prompt in the tokens of one text encoder."""

    encoder: str
    tokens: int
    limit: int = Field(description="How many of them the encoder reads.")
    exact: bool = Field(description="False for an estimate: the tokenizer is not on this disk.")
    cut: str = Field(description="What the encoder never reads.")


class ComposedAnswer(_Answer):
    """A prompt, what it was made of, and what the audit says about it."""

    prompt: str
    verdict: Literal["pass", "warn", "refuse"] = Field(
        description="A refused prompt is never queued."
    )
    findings: tuple[FindingAnswer, ...] = Field(description="The severest, in their order.")
    more_findings: int = Field(0, description="How many further ones are not listed.")
    report: dict[str, Any] = Field(
        description="Pack, choices, and each block with its source; empty without a pack."
    )
    tokens: tuple[TokensAnswer, ...]


class PlanAnswer(_Answer):
    """What a dry run found: everything is decided, nothing is queued."""

    composed: tuple[ComposedAnswer, ...] = Field(
        description="Each different prompt with its audit. Where there are several, plan.prompts "
        "has that of each image."
    )
    plan: dict[str, Any] = Field(description="The complete render plan.")
    loras: tuple[dict[str, Any], ...] = Field(
        (), description="What flux://loras/{name} says of each."
    )
    draw_s: float | None = Field(description="Estimated drawing seconds; null before any such job.")
    start_s: float | None = Field(description="Estimated seconds until it would start.")


class JobAnswer(_Answer):
    """A job as it stands; `images` holds the images once `status` is completed."""

    job_id: str | None = Field(None, description="Null for a dry run or a look at the whole queue.")
    status: JobStatus | None = None
    phase: Phase | DownloadPhase | None = None
    step: int = 0
    total_steps: int = 0
    position: int | None = Field(None, description="Place in the queue, 1 is next.")
    eta_s: float | None = Field(None, description="Estimated seconds until it is finished.")
    kind: Kind | None = None
    model: str | None = None
    quality: Quality | None = None
    seed: int | None = Field(None, description="Of the first image; the next ones count up.")
    prompt: str | None = Field(None, description="As rendered; of the first image.")
    pack: str | None = Field(
        None, description="Name and version of the prompt pack that composed the prompts."
    )
    session: str | None = None
    message: str | None = Field(
        None, description="Only for a download of weights: how far it is. step is its percent."
    )
    notices: tuple[str, ...] = Field((), description="What the user should be told.")
    error: ErrorInfo | None = None
    images: tuple[ImageAnswer, ...] = ()
    dry_run: PlanAnswer | None = Field(None, description="Only for dry_run.")
    queue: QueueAnswer | None = Field(None, description="Only for flux_get_job without an id.")


class DemoAnswer(_Answer):
    """What the demonstration drew."""

    jobs: tuple[JobAnswer, ...] = Field(description="One for each drawing tool, in order.")
    sheet: str = Field(description="Absolute path of a PNG that shows all images.")


class SearchAnswer(_Answer):
    """A page of gallery hits, newest first."""

    images: tuple[ImageAnswer, ...]
    next_cursor: str | None = Field(description="Pass as cursor for older hits; null at the end.")


class CancelAnswer(_Answer):
    """What became of each job."""

    cancelled: tuple[str, ...] = Field(description="Jobs that will never be drawn.")
    stopping: tuple[str, ...] = Field(description="Running jobs that stop at their next step.")
    already_final: tuple[str, ...] = Field(description="Jobs that had ended before.")


HealthStatus = Literal["ready", "no_worker", "degraded"]


class HealthAnswer(_Answer):
    """How it stands, for probes."""

    # No tool answers it: its schema is built when the first probe comes.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    status: HealthStatus = Field(
        description="`ready`: a worker is up, or another process draws. `no_worker`: the next job "
        "starts one. `degraded`: jobs would fail or wait in vain."
    )
    reason: str = Field(description="In a few words; names no path and no job.")
    leads: bool = Field(description="Whether this process is the one that draws.")
    queue_depth: int | None = Field(
        description="Jobs that wait, of everybody; null while the database does not answer."
    )
    version: str

    @property
    def http_status(self) -> int:
        """503 for `degraded`, else 200: a server without a worker takes jobs."""
        return 503 if self.status == "degraded" else 200
