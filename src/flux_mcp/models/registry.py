"""The registry: every model that can be drawn with, as rows read from models.toml.

`Registry[kind]` decides everything a kind needs to know about a model; nothing else in the project
branches on a model's name. What all models of a family have in common stands in families.py, the
user's own rows in user_rows.py, what parts weigh in parts.py; which rows can be loaded here is
decided by planning/support.py. At the end: what the licences of rows mean, from licences.toml.
"""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flux_mcp.errors import InternalError, UnknownModelError
from flux_mcp.models.families import (
    FAMILIES,
    Family,
    FamilySpec,
    FileColumn,
    PartClass,
    PipelineClass,
)
from flux_mcp.models.families import DrawnKind as DrawnKind  # noqa: PLC0414 - as the next
from flux_mcp.models.families import Kind as Kind  # noqa: PLC0414 - everybody has it from here
from flux_mcp.models.memory import Load, LoadedAs, Pieces, gpu_gib
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.settings.settings import Licence

Quality = Literal["low", "standard", "high"]
Structure = Literal["canny", "depth"]
WeightsForm = Literal["folder", "file", "gguf", "lora"]
"""`folder`: a whole pipeline; `file`, `gguf`: a transformer in one file, the other parts from a
pipeline's folder or from files of their own; `lora`: a LoRA merged onto `base`."""
KINDS: tuple[DrawnKind, ...] = ("text2img", "kontext", "fill", "control", "redux", "img2img")
"""Those that models draw; to upscale is a helper's work."""
ROW_KINDS: tuple[DrawnKind, ...] = KINDS[:-1]
"""Those that models.toml has rows for. Image to image is drawn with the rows of text2img."""
KIND_NAMES: Mapping[Kind, str] = {
    "text2img": "generate",
    "kontext": "edit",
    "fill": "fill",
    "control": "structure",
    "redux": "vary",
    "img2img": "img2img",
    "upscale": "upscale",
}
"""What people read and write: as the tools are called, img2img, which two tools draw, and upscale,
which images of every tool may be. Programs get the kinds themselves."""
QUALITIES: tuple[Quality, ...] = ("low", "standard", "high")
FREE_LICENCES: frozenset[Licence] = frozenset({"apache-2.0", "mit"})
"""Those that allow any use of the images and of the weights."""
MODELS_TOML = Path(__file__).with_name("models.toml")
LICENCES_TOML = Path(__file__).with_name("licences.toml")


def kind_of_name(name: str) -> Kind | None:
    """Return the kind that people call so; programs' own names are understood as well."""
    return next((kind for kind, known in KIND_NAMES.items() if name in (kind, known)), None)


class ModelSpec(BaseModel):
    """One model for one kind. A model that does several kinds has several rows with one id."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: DrawnKind
    title: str
    family: Family
    repository: str | None = None
    """Hub repository id; its snapshot is looked for in the hub cache."""
    revision: str | None = None
    """Commit of the repository; `None` takes the one the cache holds, and the plan records it."""
    folder: str | None = None
    """Folder below `Settings.weights_dir`, for weights that come with the package; the whole path
    in a user's row."""
    file: Path | None = None
    """One safetensors file that holds the transformer; the other parts come from `repository` or
    `folder`. So does `gguf`. In a LoRA's row: the LoRA, and then nothing else names weights."""
    gguf: Path | None = None
    """One GGUF file that holds the transformer."""
    text_file: Path | None = None
    """One safetensors file that holds the large text encoder (T5, Qwen3)."""
    text_gguf: Path | None = None
    """One GGUF file that holds the large text encoder."""
    clip_file: Path | None = None
    """One safetensors file that holds FLUX.1's small text encoder (CLIP)."""
    vae_file: Path | None = None
    """One safetensors file that holds the VAE."""
    lora: bool = False
    """Whether the repository or `file` holds a LoRA, which is merged onto `base`."""
    parts_folder: str | None = None
    """Folder that holds the parts (VAE, encoders, tokenizers) which `folder` leaves out."""
    pipeline: PipelineClass
    base: str | None = None
    """Id of the text2img row that draws from a redux prior's embeddings, or takes the LoRA."""
    in_channels: int
    """`transformer.config.in_channels` the weights must have; 64, 128 or 384 in FLUX.1, whose
    VAE has 16 latent channels; 128 in FLUX.2, whose VAE has 32."""
    structures: tuple[Structure, ...] = ()
    """For control: the structures the weights were trained to follow."""
    steps: Mapping[Quality, int]
    max_steps: int
    default_guidance: float
    takes_guidance: bool
    """False for weights without a guidance embedding: they ignore the value."""
    takes_negative_prompt: bool
    """Whether a prompt can be steered away from, by true CFG."""
    size_multiple: int = 16
    """Width and height are multiples of this: VAE factor 8 times packing 2."""
    min_side_px: int = 256
    max_side_px: int = 4096
    default_pixels: int
    max_pixels: int
    max_reference_images: int = 0
    max_sequence_length: int
    """Text tokens of the second encoder. They decide pixels, so a plan records them."""
    transformer: str
    """What it weighs and costs: a row of parts.toml. The next three are such rows too."""
    text_encoders: tuple[str, ...]
    vae: str
    extras: tuple[str, ...] = ()
    precision: Precision
    """What the transformer is stored in; 16 bit can be made smaller while loading."""
    text_precision: Precision | None = None
    """Of the large text encoder; `None` for what the transformer computes in."""
    licence: Licence
    gated: bool = False
    disk_gib: float = Field(ge=0)
    qualities: tuple[Quality, ...]
    """Qualities this model is a good answer to."""
    source: str
    origin: Path | None = None
    """The user's file that has this row; `None` for those that come with the package."""

    @model_validator(mode="after")
    def _is_coherent(self) -> "ModelSpec":
        if self.kind not in ROW_KINDS:
            raise ValueError(f"{self.kind} is drawn with the row for text2img and needs none")
        if self.lora:
            self._require_one_lora()
        elif (self.repository is None) == (self.folder is None):
            raise ValueError("exactly one of repository and folder names the weights")
        self._require_used_files()
        if self.parts_folder is not None and self.folder is None:
            raise ValueError("parts_folder goes with folder; without it, it is not used")
        if (self.base is not None) != (self.kind == "redux" or self.lora):
            raise ValueError("redux and LoRA rows, and only those, name a base model")
        if bool(self.structures) != (self.kind == "control"):
            raise ValueError("control rows, and only those, name structures")
        if set(self.steps) != {"low", "standard", "high"}:
            raise ValueError("steps must give low, standard and high")
        self._require_family()
        return self

    def _require_used_files(self) -> None:
        """Refuse files that nothing would be read from."""
        given = self.files
        for one, other, what in (
            ("file", "gguf", "the transformer"),
            ("text_file", "text_gguf", "the large text encoder"),
        ):
            if one in given and other in given:
                raise ValueError(f"{one} and {other} both name {what}; give one")
        known = {c for part in self.family_spec.part_classes.values() for c in part.columns}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"{self.family_spec.title} has no part for {unknown[0]}")
        unused = sorted(set(given) - ({"file"} if self.lora else set()))
        if unused and (self.lora or self.kind == "redux"):
            raise ValueError(
                f"{unused[0]} is not used by this row: its base's row names the files that draw"
            )

    def _require_family(self) -> None:
        """Refuse what no model of the family has."""
        family = self.family_spec
        pipelines = family.pipelines.get(self.kind, ())
        if not pipelines:
            raise ValueError(f"{family.title} has {', '.join(family.pipelines)}, not {self.kind}")
        if self.pipeline not in pipelines:
            raise ValueError(
                f"{family.title} draws {self.kind} with {' or '.join(pipelines)}, "
                f"not {self.pipeline}"
            )
        if self.takes_negative_prompt and self.kind not in family.negative_prompt_kinds:
            raise ValueError(f"{self.pipeline} takes no negative prompt")

    def _require_one_lora(self) -> None:
        if (self.repository is None) == (self.file is None) or self.folder:
            raise ValueError("exactly one of repository and file names a LoRA")
        if self.kind != "control":
            raise ValueError("only control models are made of a LoRA; others go into data/loras/")

    @field_validator("transformer", "vae")
    @classmethod
    def _is_a_known_part(cls, name: str, info: ValidationInfo) -> str:
        _require_part(info.field_name or "", name)
        return name

    @field_validator("text_encoders", "extras")
    @classmethod
    def _are_known_parts(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in names:
            _require_part((info.field_name or "").removesuffix("s"), name)
        return names

    @property
    def family_spec(self) -> FamilySpec:
        """What it has in common with all models of its family."""
        return FAMILIES[self.family]

    @property
    def drawing_pipeline(self) -> PipelineClass:
        """The class that draws: `pipeline`, or the one for image to image with its parts."""
        is_img2img = self.kind == "img2img"
        return self.family_spec.img2img[self.pipeline] if is_img2img else self.pipeline

    @property
    def form(self) -> WeightsForm:
        """What its files are."""
        if self.lora:
            return "lora"
        if self.gguf is not None:
            return "gguf"
        return "folder" if self.file is None else "file"

    @property
    def files(self) -> Mapping[FileColumn, Path]:
        """The files it names for single parts, by column."""
        columns: tuple[FileColumn, ...] = get_args(FileColumn)
        given = ((column, getattr(self, column)) for column in columns)
        return {column: path for column, path in given if path is not None}

    def own_file(self, part: PartClass) -> Path | None:
        """Return the file that holds the weights of a part, where it names one."""
        files = self.files
        return next((files[column] for column in part.columns if column in files), None)

    @property
    def pieces(self) -> Pieces:
        """What it is made of."""
        return Pieces(self.transformer, self.text_encoders, self.vae, self.extras)

    @property
    def references_are_tokens(self) -> bool:
        """Whether reference images lengthen the transformer's input."""
        return self.kind == "kontext"

    @property
    def most_references(self) -> int:
        """Images that a request may name: those it reads, or more that are joined into one."""
        joined = self.family_spec.joined_references if self.kind == "kontext" else 0
        return max(self.max_reference_images, joined)

    @property
    def vram_gib(self) -> Mapping[Literal["resident", "offload"], float]:
        """GiB of a GPU's memory it takes at its default size, as its weights are stored."""
        load = Load(self.default_pixels / 1e6, 1 if self.max_reference_images else 0)
        resident = LoadedAs(self.precision, self.text_precision or "bf16", "resident")
        offload = LoadedAs(self.precision, self.text_precision or "bf16", "model_offload")
        return {
            "resident": gpu_gib(self.pieces, resident, load),
            "offload": gpu_gib(self.pieces, offload, load),
        }

    @property
    def is_free(self) -> bool:
        """Whether its licence allows any use."""
        return self.licence in FREE_LICENCES

    @property
    def access_requirements(self) -> tuple[bool, bool]:
        """What its use requires, for sorting: a licence that forbids some uses, an account."""
        return (not self.is_free, self.gated)

    @property
    def is_demonstration(self) -> bool:
        """Whether it only shows how the server works; every result says so."""
        return self.family_spec.is_demonstration


HelperRole = Literal["depth", "segmentation", "outlines", "upscaling", "embedding", "caption"]
"""What a helper gives: a depth map of an image, a mask from words, the outlines of what is in
boxes, a larger image, numbers that say how alike images and words are, and a sentence about an
image."""


LANCZOS = "lanczos"
"""The upscaler that is no model: it only interpolates."""


class HelperSpec(BaseModel):
    """A small model that works beside a pipeline; several of a role, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: HelperRole
    title: str
    repository: str | None = None
    revision: str | None = None
    folder: str | None = None
    """Below `weights_dir`, for one that comes with the package and knows only what micro draws."""
    model_class: str
    """The class of transformers 5 that loads it."""
    needs: str | None = None
    """The id of another helper that it works with."""
    extra: str | None = None
    """What has to be installed beside this package, a row of formats.toml."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Of segmentation: how sure it must be of what it finds, unless the caller says otherwise."""
    factor: int | None = Field(None, ge=2)
    """Of an upscaler: what one pass makes of an image's width and height."""
    parameters_m: float
    disk_gib: float
    licence: Licence
    gated: bool = False
    source: str

    @model_validator(mode="after")
    def _lies_in_one_place(self) -> "HelperSpec":
        if (self.repository is None) == (self.folder is None):
            raise ValueError("a helper has a repository or a folder")
        if (self.role == "segmentation") != (self.threshold is not None):
            raise ValueError("segmentation has a threshold, and nothing else has")
        if (self.role == "upscaling") != (self.factor is not None):
            raise ValueError("upscaling has a factor, and nothing else has")
        return self

    @property
    def is_free(self) -> bool:
        """Whether its licence allows any use."""
        return self.licence in FREE_LICENCES

    @property
    def is_demonstration(self) -> bool:
        """Whether it knows only what the demonstration model draws."""
        return self.folder is not None


class Registry:
    """MODEL_REGISTRY[kind]: rows by kind and id, in order of preference. Frozen after loading.

    For image to image each row of text2img is there as well: the weights are the same.

    Args:
        rows: Every row.
        helpers: The models that work beside pipelines.
        notices: What should be known about the user's own rows: what they replace, what is wrong.

    Raises:
        InternalError: two rows for one model and kind, or a base that is no text2img row.
    """

    def __init__(
        self,
        rows: tuple[ModelSpec, ...],
        helpers: tuple[HelperSpec, ...] = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        self._rows: dict[Kind, dict[str, ModelSpec]] = {kind: {} for kind in KIND_NAMES}
        for row in rows:
            if row.id in self._rows[row.kind]:
                raise InternalError(f"models.toml has two rows for {row.id} as {row.kind}.")
            self._rows[row.kind][row.id] = row
        for row in rows:
            if row.base is not None and row.base not in self._rows["text2img"]:
                raise InternalError(f"models.toml: {row.id} names the unknown base {row.base}.")
        self._rows["img2img"] = {
            row.id: row.model_copy(update={"kind": "img2img", "max_reference_images": 1})
            for row in self._rows["text2img"].values()
            if row.pipeline in row.family_spec.img2img
        }
        self.helpers: Mapping[str, HelperSpec] = {row.id: row for row in helpers}
        for helper in helpers:
            if helper.needs is not None and helper.needs not in self.helpers:
                raise InternalError(f"models.toml: {helper.id} needs the unknown {helper.needs}.")
        self.notices = notices

    def __getitem__(self, kind: Kind) -> Mapping[str, ModelSpec]:
        """Every model of one kind by id, best first."""
        return self._rows[kind]

    def __iter__(self) -> Iterator[ModelSpec]:
        """Every row there is a table for; those of image to image are not among them."""
        return (row for kind in ROW_KINDS for row in self._rows[kind].values())

    def is_demonstration(self, kind: Kind, model: str) -> bool:
        """Whether a model only shows how the server works; False for one that is gone."""
        row = self.helpers.get(model) if kind == "upscale" else self._rows[kind].get(model)
        return row is not None and row.is_demonstration

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
                f"There is no model '{model}' for {KIND_NAMES[kind]}.",
                f"{meant}Models for {KIND_NAMES[kind]}: {', '.join(known)}.",
            )
        return row


def load_registry(path: Path = MODELS_TOML) -> Registry:
    """Read and check models.toml.

    Raises:
        InternalError: the file is not valid; the message names the row and the field.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    rows = []
    for number, table in enumerate(document["model"], start=1):
        try:
            rows.append(ModelSpec.model_validate(table))
        except ValidationError as error:
            raise InternalError(
                f"{path.name}, model {number} ({table.get('id')}): {error}"
            ) from error
    helpers = tuple(HelperSpec.model_validate(table) for table in document.get("helper", ()))
    return Registry(tuple(rows), helpers)


def _require_part(table: str, name: str) -> None:
    """Refuse a part that parts.toml does not have.

    Raises:
        ValueError: it names those there are.
    """
    known = getattr(load_parts(), table)
    if name not in known:
        raise ValueError(f"there is no {table} '{name}'; there are {', '.join(known)}")


# --- licences ------------------------------------------------------------------------------------


class LicenceRow(BaseModel):
    """What one class of licences means, in a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    source: str


@cache
def load_licences() -> Mapping[Licence, LicenceRow]:
    """Return the rows of licences.toml, read at the first call."""
    table = tomllib.loads(LICENCES_TOML.read_text(encoding="utf-8"))
    return TypeAdapter(dict[Licence, LicenceRow]).validate_python(table)
