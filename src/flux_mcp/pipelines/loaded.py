"""A pipeline that is ready to draw, as `Residency` returns it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flux_mcp.models.parts import Placement
from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.loading.part_files import PartFiles


@dataclass(frozen=True)
class Resident:
    """A pipeline that is ready to draw."""

    spec: ModelSpec
    pipe: Any
    """The diffusers pipeline that denoises; it has its own scheduler, and no text encoders."""
    prior: Any | None
    """For redux: the FluxPriorReduxPipeline that turns images into tokens."""
    weights_sha256: str
    """Fingerprint of the transformer's files."""
    text_parts: Mapping[PartFiles, str]
    """What encodes prompts and the key of each, in the order of `text_parts`; not always loaded."""
    part_keys: frozenset[str]
    transformer_key: str
    vae_key: str
    placement: Placement
    release: Callable[[], None]
    """Takes what is on the GPU only to work off it again; to be called when a job ends."""
