"""ImageProvenance: the facts of an image as its PNG holds them, enough to draw it again.

A PNG of ours has two text chunks: `flux-mcp`, a JSON document, and `parameters`, the line that
other tools read. The document is a format of its own: the gallery's row (store.py) is another
model, and either may change without the other.

The document names its version and the program that wrote it. A reader takes the keys it knows and
leaves out the others: a file of a newer version can be read as far as this one understands it, and
`newer_notice` says which version wrote it. A key that is missing or has a wrong type is an error.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flux_mcp import __version__
from flux_mcp.errors import InvalidImageError
from flux_mcp.models.registry import Kind
from flux_mcp.requests.geometry import Rectangle
from flux_mcp.requests.render_plan import RenderPlan

METADATA_KEY = "flux-mcp"
PARAMETERS_KEY = "parameters"
DOCUMENT_VERSION = 1
"""Rises when the meaning of a key changes. A new key alone is no new version."""
MAX_INTEGER = 2**63 - 1
"""Largest integer SQLite holds."""
IMAGE_ID = r"^img_[A-Za-z0-9_-]{1,64}$"
CREATED_AT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$"

logger = logging.getLogger(__name__)


def _encodable(text: str) -> str:
    # Half a surrogate pair fits into a str, but into neither a file nor SQLite.
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]


# --- the document ------------------------------------------------------------------------------


class ImageProvenance(BaseModel):
    """Every fact of one image that is known before its file is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    version: int = DOCUMENT_VERSION
    software: str = f"flux-mcp {__version__}"
    """The program that wrote the file."""
    id: str = Field(pattern=IMAGE_ID)
    job_id: str
    index: int = Field(ge=0)
    """Which image of the job, from 0."""
    kind: Kind
    prompt: Text
    composed: dict[str, Any] | None = None
    """What a pack made the prompt of: pack, version, choices, and each block with its source."""
    negative_prompt: Text | None = None
    model: str
    revision: str | None = None
    weights_sha256: str
    precision: str
    loras: list[dict[str, Any]] = Field(default_factory=list)
    """Name, SHA-256 and weight of each, as in the plan."""
    seed: int = Field(ge=0, le=MAX_INTEGER)
    plan: dict[str, Any]
    """The job's `RenderPlan` as JSON; its `seeds` are those of every image of the job."""
    width: int
    height: int
    parents: tuple[str, ...] = ()
    """Gallery images it was drawn from."""
    session: Text | None = None
    stage: Text | None = None
    licence: str
    environment: dict[str, Any]
    """Torch, diffusers, device and the like: what must be the same for the same pixels."""
    seconds: float
    """From the start of its pass to its pixels."""
    created_at: str = Field(pattern=CREATED_AT)
    """UTC, ISO 8601 with microseconds."""

    @property
    def newer_notice(self) -> str | None:
        """What to tell of a file that a newer version wrote; `None` for all others."""
        if self.version <= DOCUMENT_VERSION:
            return None
        return (
            f"The metadata of {self.id} were written by {self.software} (version {self.version}); "
            f"this is flux-mcp {__version__} (version {DOCUMENT_VERSION}) and may miss some facts."
        )

    def render_plan(self) -> RenderPlan:
        """Return the plan to draw it again with.

        Raises:
            InvalidImageError: the plan is of another version of flux-mcp.
        """
        return stored_plan(self.id, self.plan, self.software)


def stored_plan(image_id: str, plan: Mapping[str, Any], software: str | None = None) -> RenderPlan:
    """Return the plan of an image as it was stored, in its file or in its row.

    Args:
        image_id: The image's.
        plan: As JSON.
        software: What wrote it, if that is known.

    Raises:
        InvalidImageError: the plan is of another version of flux-mcp.
    """
    try:
        return RenderPlan.model_validate_json(json.dumps(plan))
    except (ValidationError, ValueError) as error:
        drew = "the version of flux-mcp that drew it" if software is None else software
        raise InvalidImageError(
            f"The plan of {image_id} is not one this version can draw.", f"Use {drew}."
        ) from error


# --- writing -----------------------------------------------------------------------------------


def to_metadata(provenance: ImageProvenance) -> dict[str, str]:
    """Return the text chunks of an image's PNG: `flux-mcp` as JSON, `parameters` as a line."""
    return {
        METADATA_KEY: json.dumps(provenance.model_dump(mode="json"), ensure_ascii=False),
        PARAMETERS_KEY: _parameters(provenance),
    }


def _parameters(provenance: ImageProvenance) -> str:
    """Return the facts as other tools write them: prompt, negative prompt, one line of settings."""
    plan = provenance.plan
    settings = {
        "Steps": plan.get("steps"),
        "CFG scale": plan.get("true_cfg_scale"),
        "Distilled CFG Scale": plan.get("guidance"),
        "Seed": provenance.seed,
        "Size": f"{provenance.width}x{provenance.height}",
        **_region(plan),
        "Model": provenance.model,
        "LoRAs": " ".join(f"{one['name']}:{one['weight']:g}" for one in provenance.loras) or None,
        "Version": f"flux-mcp {__version__}",
    }
    lines = [provenance.prompt]
    if provenance.negative_prompt is not None:
        lines.append(f"Negative prompt: {provenance.negative_prompt}")
    lines.append(", ".join(f"{k}: {v}" for k, v in settings.items() if v is not None))
    # Some readers end a text chunk at a NUL; the JSON keeps it, escaped.
    return "\n".join(lines).replace("\0", " ")


def _region(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return which part of an image was drawn, and at which size, where it was not all of it."""
    region = plan.get("region")
    if region is None:
        return {}
    return {
        "Drawn region": str(Rectangle(**region)),
        "Drawn size": f"{plan['width']}x{plan['height']}",
    }


# --- reading -----------------------------------------------------------------------------------


def from_png(source: Path | bytes) -> ImageProvenance:
    """Return the metadata of a PNG of ours. Decodes no pixels.

    Of a file that a newer version wrote, what is known here; a warning is logged, and
    `newer_notice` says so too.

    Raises:
        InvalidImageError: not a PNG, not ours, damaged, or so much newer that a fact which is known
            here is missing or written otherwise.
    """
    from flux_mcp.gallery.pngs import text_chunks

    document = _document(text_chunks(source))
    version = document.get("version")
    if type(version) is not int or version < 1:
        raise InvalidImageError(
            f"The image's metadata has no version that can be read, but {str(version)[:40]!r}.",
            "Use the file as flux-mcp wrote it.",
        )
    known = {name: document[name] for name in ImageProvenance.model_fields if name in document}
    try:
        provenance = ImageProvenance.model_validate(known)
    except ValidationError as error:
        fields = ", ".join(sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]}))
        if version > DOCUMENT_VERSION:
            raise InvalidImageError(
                f"The image's metadata has version {version} and was written by "
                f"{str(document.get('software'))[:80]}; this flux-mcp reads version "
                f"{DOCUMENT_VERSION} and cannot read: {fields}.",
                "Update flux-mcp.",
            ) from error
        raise InvalidImageError(
            f"The image's metadata is damaged; wrong or missing: {fields}.",
            "Use the file as flux-mcp wrote it.",
        ) from error
    if provenance.newer_notice is not None:
        logger.warning("image metadata of a newer version: %s", provenance.newer_notice)
    return provenance


def _document(chunks: Mapping[str, Any]) -> dict[str, Any]:
    text = chunks.get(METADATA_KEY)
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidImageError(
            "The PNG was not made by flux-mcp, or its metadata was removed.",
            "Use the original file; many programs and sites drop metadata.",
        )
    return document
