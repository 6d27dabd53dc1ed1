"""Helpers: small models that work beside a pipeline, one for each role. Pure data.

Their rows are in models.toml; `Registry.helpers` holds them.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.setting_types import Licence

HelperRole = Literal["depth", "segmentation", "upscaling", "embedding"]


class HelperSpec(BaseModel):
    """A small model that works beside a pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: HelperRole
    title: str
    repository: str
    revision: str | None = None
    model_class: str
    """The class of transformers 5 that loads it."""
    parameters_m: float
    disk_gib: float
    licence: Licence
    source: str
