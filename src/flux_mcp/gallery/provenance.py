"""What is known of an image, and its forms inside the PNG: a JSON document, a line to read.

A file alone is enough to draw it again. Knows no table and no folder.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flux_mcp import __version__
from flux_mcp.errors import InvalidImageError
from flux_mcp.models.registry import Kind
from flux_mcp.requests.plan import RenderPlan

METADATA_KEY = "flux-mcp"
PARAMETERS_KEY = "parameters"
DOCUMENT_VERSION = 1
MAX_INTEGER = 2**63 - 1
"""Largest integer SQLite holds."""

_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)


def _encodable(text: str) -> str:
    # Half a surrogate pair fits into a str, but into neither a file nor SQLite.
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class ImageProvenance(BaseModel):
    """Every fact of one image that is known before its file is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str = Field(pattern=r"^img_[A-Za-z0-9_-]{1,64}$")
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
    created_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$")
    """UTC, ISO 8601 with microseconds."""

    def render_plan(self) -> RenderPlan:
        """Return the plan to draw it again with.

        Raises:
            InvalidImageError: the plan is of another version of flux-mcp.
        """
        try:
            return RenderPlan.model_validate_json(json.dumps(self.plan))
        except (ValidationError, ValueError) as error:
            raise InvalidImageError(
                f"The plan of {self.id} is not one this version can draw.",
                "Use the version of flux-mcp that drew it.",
            ) from error


def to_metadata(provenance: ImageProvenance) -> dict[str, str]:
    """Return the text chunks of an image's PNG: `flux-mcp` as JSON, `parameters` as a line."""
    document = {
        "version": DOCUMENT_VERSION,
        "software": f"flux-mcp {__version__}",
        **provenance.model_dump(mode="json"),
    }
    return {
        METADATA_KEY: json.dumps(document, ensure_ascii=False),
        PARAMETERS_KEY: _parameters(provenance),
    }


def _parameters(provenance: ImageProvenance) -> str:
    """Say the facts as other tools do: prompt, negative prompt, then one line of settings."""
    plan = provenance.plan
    settings = {
        "Steps": plan.get("steps"),
        "CFG scale": plan.get("true_cfg_scale"),
        "Distilled CFG Scale": plan.get("guidance"),
        "Seed": provenance.seed,
        "Size": f"{provenance.width}x{provenance.height}",
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


def from_png(source: Path | bytes) -> ImageProvenance:
    """Return what a PNG of ours says of itself. Decodes no pixels.

    Raises:
        InvalidImageError: not a PNG, not ours, or of a newer version.
    """
    document = _document(_text_chunks(source))
    version = document.pop("version", None)
    if version != DOCUMENT_VERSION:
        raise InvalidImageError(
            f"The image's metadata has version {version!r}; this flux-mcp reads "
            f"{DOCUMENT_VERSION}.",
            "Update flux-mcp.",
        )
    document.pop("software", None)
    try:
        return ImageProvenance.model_validate(document)
    except ValidationError as error:
        raise InvalidImageError(
            f"The image's metadata is damaged: {error.error_count()} fields are wrong.",
            "Use the file as flux-mcp wrote it.",
        ) from error


def _text_chunks(source: Path | bytes) -> Mapping[str, Any]:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=("PNG",)) as image:
            # Ours stand before the pixels, so opening has read them.
            return {str(key): value for key, value in image.info.items()}
    except (*_UNREADABLE, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(
            f"This is not a PNG that can be read: {error}.", "Give a PNG made by flux-mcp."
        ) from error


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
