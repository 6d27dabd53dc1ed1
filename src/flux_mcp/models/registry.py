"""The registry: every model that can be drawn with, as rows read from models.toml.

`Registry[kind]` decides everything a kind needs to know about a model; nothing else in the project
branches on a model's name.
"""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux_mcp.errors import InternalError, UnknownModelError

Kind = Literal["text2img", "kontext", "fill", "control", "redux"]
Quality = Literal["low", "standard", "high"]
Structure = Literal["canny", "depth"]
Precision = Literal["fp32", "bf16", "fp16"]
PipelineClass = Literal[
    "FluxPipeline",
    "FluxKontextPipeline",
    "FluxFillPipeline",
    "FluxControlPipeline",
    "FluxPriorReduxPipeline",
]

KINDS: tuple[Kind, ...] = ("text2img", "kontext", "fill", "control", "redux")
MODELS_TOML = Path(__file__).with_name("models.toml")


class ModelSpec(BaseModel):
    """One model for one kind. A model that does several kinds has several rows with one id."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Kind
    title: str
    family: Literal["flux1", "flux2", "micro"]
    repository: str | None = None
    """Hub repository id; its snapshot is looked for in the hub cache."""
    revision: str | None = None
    """Commit of the repository; `None` takes the one the cache holds, and the plan records it."""
    folder: str | None = None
    """Folder below `Settings.weights_dir`, for weights that come with the package."""
    parts_folder: str | None = None
    """Folder that holds the parts (VAE, encoders, tokenizers) which `folder` leaves out."""
    pipeline: PipelineClass
    base: str | None = None
    """For redux: id of the text2img row that draws from the prior's embeddings."""
    in_channels: int
    """`transformer.config.in_channels` the weights must have; 64, 128 or 384 in FLUX.1, whose
    VAE has 16 latent channels."""
    structures: tuple[Structure, ...] = ()
    """For control: the structures the weights were trained to follow."""
    steps: Mapping[Quality, int]
    max_steps: int
    default_guidance: float
    takes_guidance: bool
    """False for weights without a guidance embedding: they ignore the value."""
    takes_negative_prompt: bool
    """Whether the pipeline class has `negative_prompt` and `true_cfg_scale`."""
    size_multiple: int = 16
    """Width and height are multiples of this: VAE factor 8 times packing 2."""
    min_side_px: int = 256
    max_side_px: int = 4096
    default_pixels: int
    max_pixels: int
    max_reference_images: int = 0
    max_sequence_length: int
    """Text tokens of the second encoder; part of the picture, so part of the plan."""
    precision: Precision
    licence: Literal["apache-2.0", "flux-non-commercial"]
    gated: bool
    disk_gib: float
    vram_gib: Mapping[Literal["resident", "offload"], float]
    qualities: tuple[Quality, ...]
    """Qualities this model is a good answer to; rows are tried in file order."""
    source: str

    @model_validator(mode="after")
    def _is_coherent(self) -> "ModelSpec":
        if (self.repository is None) == (self.folder is None):
            raise ValueError("exactly one of repository and folder names the weights")
        if (self.base is not None) != (self.kind == "redux"):
            raise ValueError("redux rows, and only those, name a base model")
        if bool(self.structures) != (self.kind == "control"):
            raise ValueError("control rows, and only those, name structures")
        if set(self.steps) != {"low", "standard", "high"}:
            raise ValueError("steps must give low, standard and high")
        return self

    @property
    def is_demonstration(self) -> bool:
        """True for the embedded family: not what people hope for, and said so in every result."""
        return self.family == "micro"


class Registry:
    """MODEL_REGISTRY[kind]: rows by kind and id, in file order. Frozen after loading."""

    def __init__(self, rows: tuple[ModelSpec, ...]) -> None:
        self._rows: dict[Kind, dict[str, ModelSpec]] = {kind: {} for kind in KINDS}
        for row in rows:
            if row.id in self._rows[row.kind]:
                raise InternalError(f"models.toml has two rows for {row.id} as {row.kind}.")
            self._rows[row.kind][row.id] = row
        for row in rows:
            if row.base is not None and row.base not in self._rows["text2img"]:
                raise InternalError(f"models.toml: {row.id} names the unknown base {row.base}.")

    def __getitem__(self, kind: Kind) -> Mapping[str, ModelSpec]:
        """Every model of one kind by id, best first."""
        return self._rows[kind]

    def __iter__(self) -> Iterator[ModelSpec]:
        """Every row."""
        return (row for rows in self._rows.values() for row in rows.values())

    def find(self, kind: Kind, model: str) -> ModelSpec:
        """Return the row of `model` for `kind`.

        Raises:
            UnknownModelError: no such row; the hint names those there are.
        """
        row = self._rows[kind].get(model)
        if row is None:
            known = list(self._rows[kind])
            close = get_close_matches(model.lower(), known, n=1)
            meant = f"Did you mean '{close[0]}'? " if close else ""
            raise UnknownModelError(
                f"There is no model '{model}' for {kind}.",
                f"{meant}Models for {kind}: {', '.join(known)}.",
            )
        return row


def load_registry(path: Path = MODELS_TOML) -> Registry:
    """Read and check models.toml.

    Raises:
        InternalError: the file is not valid; the message names the row and the field.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
    rows = []
    for number, table in enumerate(tables, start=1):
        try:
            rows.append(ModelSpec.model_validate(table))
        except ValidationError as error:
            raise InternalError(
                f"{path.name}, model {number} ({table.get('id')}): {error}"
            ) from error
    return Registry(tuple(rows))
