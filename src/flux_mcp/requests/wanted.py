"""What of a request decides which model draws it, and how it is stored and compared. Pure."""

import hashlib
from typing import Any

from flux_mcp.models.candidates import Wanted
from flux_mcp.models.registry import Structure
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    StructuralRequest,
    VariationRequest,
)

_NOT_PART_OF_A_REQUEST = {"wait_s", "preview", "dry_run", "idempotency_key"}


def structure_of(request: DrawRequest) -> Structure | None:
    """Return what a structural request follows."""
    return request.structure if isinstance(request, StructuralRequest) else None


def wanted_of(request: DrawRequest) -> Wanted:
    """Return what of a request decides how it is drawn; a size nobody named is the model's own."""
    references = 0 if request.kind == "text2img" else 1
    if isinstance(request, EditRequest | VariationRequest):
        references = len(request.images)
    return Wanted(
        kind=request.kind,
        quality=request.quality,
        model=request.model,
        structure=structure_of(request),
        width_px=request.width,
        height_px=request.height,
        references=references,
        count=request.count,
        batched=request.batched,
        steps=request.steps,
    )


def as_asked(request: DrawRequest) -> dict[str, Any]:
    """Return the request as it is stored and compared: without how the caller waits for it."""
    asked = request.model_dump(mode="json", exclude=_NOT_PART_OF_A_REQUEST, exclude_none=True)
    return {key: _without_bytes(value) for key, value in asked.items()}


def _without_bytes(value: Any) -> Any:
    """Name a data: URI by its hash: megabytes of base64 do not belong into a row."""
    if isinstance(value, str) and value.startswith("data:"):
        return f"data:sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    return value
