"""Rows for the weights in a `models/` folder of ComfyUI or Forge, which are used where they are.

Files are recognised by their headers; of variants that have the same tensors the name decides, and
that is said. Nothing of the folder is changed or copied.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flux_mcp.errors import FluxMcpError, InvalidRequestError, StorageError
from flux_mcp.models.descriptions import (
    TokenizerKind,
    can_describe,
    describe,
    find_tokenizers,
    tokenizers_of,
)
from flux_mcp.models.families import FileColumn
from flux_mcp.models.hub.cache import find_snapshot
from flux_mcp.models.parts import Precision
from flux_mcp.models.recognition import FoundPart, Role, recognise
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.row_files import UNPACKED, packings
from flux_mcp.models.user_rows import read_own_rows
from flux_mcp.models.weight_headers import is_gguf, is_weight_file, read_weight_header
from flux_mcp.settings.settings import Settings

WEIGHT_FOLDERS = frozenset({
    "diffusion_models", "unet", "checkpoints", "text_encoders", "clip", "vae",
    "stable-diffusion", "text_encoder",
})  # fmt: skip
"""Folders of ComfyUI and Forge that may hold parts of FLUX models; in small letters."""
LORA_FOLDERS = frozenset({"loras", "lora"})
_PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
GIB = 2**30


@dataclass(frozen=True)
class FolderFile:
    """One file of the folder, and what it is."""

    path: Path
    parts: tuple[FoundPart, ...] = ()
    problem: str = ""
    """Why it cannot be used; empty if it can."""


@dataclass(frozen=True)
class AdoptedModel:
    """A model that the folder has, with the row that names its files."""

    id: str
    extends: str
    precision: Precision
    files: Mapping[FileColumn, Path]
    text_precision: Precision | None = None
    folder: Path | None = None
    """Its description; `None` where the model it extends is installed and gives all other parts."""
    notes: tuple[str, ...] = ()
    is_there: bool = False
    """Whether a row names its transformer already."""

    def as_toml(self) -> str:
        """Return the table for a file of own models."""
        lines = ["[[model]]", f"id = {_quoted(self.id)}", f"extends = {_quoted(self.extends)}"]
        if self.folder is not None:
            lines.append(f"folder = {_quoted(str(self.folder))}")
        lines += [f"{column} = {_quoted(str(path))}" for column, path in self.files.items()]
        lines.append(f"precision = {_quoted(self.precision)}")
        if self.text_precision is not None:
            lines.append(f"text_precision = {_quoted(self.text_precision)}")
        size = sum(path.stat().st_size for path in set(self.files.values())) / GIB
        lines.append(f"disk_gib = {size:.1f}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Adoption:
    """What a folder has."""

    folder: Path
    models: tuple[AdoptedModel, ...]
    unused: tuple[FolderFile, ...]
    lora_folder: Path | None
    lora_count: int
    tokenizers: Mapping[TokenizerKind, Path] = field(default_factory=dict)

    @property
    def new(self) -> tuple[AdoptedModel, ...]:
        """Those that no row names yet."""
        return tuple(model for model in self.models if not model.is_there)


def look_through(
    folder: Path, settings: Settings, shipped: Registry, tokenizers: Path | None = None
) -> Adoption:
    """Look at every weight file of a folder, by its header.

    Args:
        folder: `models/` of ComfyUI or Forge, or the folder it is in.
        settings: Whose data folder will have the rows.
        shipped: The rows to extend.
        tokenizers: Another folder to look for tokenizers in.

    Raises:
        InvalidRequestError: it is no such folder, or the file of rows has a mistake.
    """
    models = folder / "models" if (folder / "models").is_dir() else folder
    found = [_look_at(path) for path in _weight_files(models)]
    if not models.is_dir() or not any(_is_one_of(one, WEIGHT_FOLDERS) for one in models.iterdir()):
        raise InvalidRequestError(
            f"{models} has none of the folders of ComfyUI and Forge "
            f"({', '.join(sorted(WEIGHT_FOLDERS))}).",
            "Name the folder 'models', or the one it is in.",
        )
    roots = [*([tokenizers] if tokenizers else []), models.parent, models, settings.paths.hub]
    reader = _Reader(found, settings, shipped, find_tokenizers(roots))
    adopted = tuple(reader.models())
    loras = [one for one in sorted(models.iterdir()) if _is_one_of(one, LORA_FOLDERS)]
    count = sum(is_weight_file(path) for one in loras for path in one.rglob("*"))
    return Adoption(
        models, adopted, tuple(reader.unused()), loras[0] if count else None, count,
        reader.tokenizers,
    )  # fmt: skip


def write_rows(adoption: Adoption, settings: Settings, shipped: Registry) -> Path:
    """Add the rows of new models to the data folder's file, and write their descriptions.

    Raises:
        StorageError: the disk refused.
    """
    path = settings.paths.models
    try:
        for model in adoption.new:
            if model.folder is not None:
                describe(_row(shipped, model.extends), adoption.tokenizers, model.folder)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        tables = [model.as_toml() for model in adoption.new]
        made = "\n".join([*([text.rstrip("\n") + "\n"] if text.strip() else []), *tables])
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text(made, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}.", "Free space, or fix permissions."
        ) from error
    return path


# --- files ---------------------------------------------------------------------------------------


def _is_one_of(path: Path, names: frozenset[str]) -> bool:
    return path.name.lower() in names and path.is_dir()


def _weight_files(models: Path) -> Iterator[Path]:
    if not models.is_dir():
        return
    for folder in sorted(models.iterdir()):
        if _is_one_of(folder, WEIGHT_FOLDERS):
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in _PICKLES or is_weight_file(path):
                    yield path


def _look_at(path: Path) -> FolderFile:
    if path.suffix.lower() in _PICKLES:
        return FolderFile(path, problem="pickles can run code and are never loaded")
    try:
        str(path).encode()
        return FolderFile(path, recognise(read_weight_header(path)))
    except UnicodeEncodeError:
        return FolderFile(path, problem="its name is not UTF-8: rename it")
    except FluxMcpError as error:
        return FolderFile(path, problem=error.message)


_VARIANTS = (
    # Row of parts.toml, channels, guidance, a word of the name -> the model; the first that fits.
    ("flux1-12b", 64, False, "", "flux1-schnell"),
    ("flux1-12b", 64, True, "kontext", "flux1-kontext-dev"),
    ("flux1-12b", 64, True, "krea", "flux1-krea-dev"),
    ("flux1-12b", 64, True, "", "flux1-dev"),
    ("flux1-12b", 384, True, "", "flux1-fill-dev"),
    ("flux1-12b", 128, True, "canny", "flux1-canny-dev"),
    ("flux1-12b", 128, True, "depth", "flux1-depth-dev"),
    ("flux2-klein-4b", 128, False, "", "flux2-klein-4b"),
    ("flux2-klein-9b", 128, False, "", "flux2-klein-9b"),
    ("flux2-32b", 128, True, "", "flux2-dev"),
)
_SAME_TENSORS = "its tensors are those of dev, Krea dev and Kontext dev; its name says neither"


def _variant(part: FoundPart, name: str) -> tuple[str, str]:
    """Return the shipped model a transformer is a variant of, and why none where it is empty."""
    if not part.part:
        return "", part.title
    if "base" in name and part.part.startswith("flux2-klein"):
        return "", "a base model of klein: it draws with guidance and more steps; write its row"
    for row, channels, has_guidance, word, model in _VARIANTS:
        found = (part.part, part.in_channels, part.has_guidance)
        if found == (row, channels, has_guidance) and word in name:
            return model, ""
    if part.in_channels == 128:  # noqa: PLR2004 - FLUX.1's control models
        return "", "a control model whose name says neither canny nor depth"
    return "", f"{part.title} in a variant that is not known ({part.in_channels} channels)"


# --- models --------------------------------------------------------------------------------------

_BITS = ("F32", "BF16", "F16", "Q8_0", "F8_E4M3", "F8_E5M2", "Q6_K", "Q5_K", "Q5_1", "Q5_0")
"""Number types of text encoders and VAEs, best first: 16 bit can be made smaller while loading."""


class _UnusableError(Exception):
    """Why a transformer cannot be used."""


class _Reader:
    """Puts the parts of a folder together to models."""

    def __init__(
        self,
        found: Sequence[FolderFile],
        settings: Settings,
        shipped: Registry,
        tokenizers: dict[TokenizerKind, Path],
    ) -> None:
        self.tokenizers = tokenizers
        self._found = found
        self._settings = settings
        self._shipped = shipped
        self._problems: dict[Path, str] = {one.path: one.problem for one in found if one.problem}
        self._used: set[Path] = set()
        self._there = _rows_there(settings, shipped)
        self._ids = {row.id for row in shipped} | {row.id for row in self._there.values()}

    def models(self) -> Iterator[AdoptedModel]:
        """Yield every model of the folder; what stands in the way of others is kept."""
        for file in self._found:
            part = next((one for one in file.parts if one.role == "transformer"), None)
            if part is None:
                continue
            try:
                model = self._model(file, part)
            except _UnusableError as error:
                self._problems[file.path] = str(error)
                continue
            self._used |= set(model.files.values())
            yield model

    def unused(self) -> Iterator[FolderFile]:
        """Yield the files that no model uses, with the reason."""
        for file in self._found:
            if file.path in self._problems:
                yield FolderFile(file.path, file.parts, self._problems[file.path])
            elif file.path not in self._used:
                title = " and ".join(dict.fromkeys(part.title for part in file.parts))
                is_spare = all(part.part for part in file.parts)
                why = f"{title}: no transformer here needs it" if is_spare else title
                yield FolderFile(file.path, file.parts, why)

    def _model(self, file: FolderFile, part: FoundPart) -> AdoptedModel:
        extends, why = _variant(part, file.path.name.lower())
        if not extends:
            raise _UnusableError(why)
        precision = _precision(part)
        if precision is None:
            raise _UnusableError(
                f"{part.title} stored in {part.number_type}, which is not supported"
            )
        column: FileColumn = "gguf" if is_gguf(file.path) else "file"
        if (there := self._there.get(file.path.resolve())) is not None:
            return AdoptedModel(there.id, extends, there.precision, there.files, is_there=True)
        spec = _row(self._shipped, extends)
        files: dict[FileColumn, Path] = {column: file.path}
        notes = [_SAME_TENSORS] if extends == "flux1-dev" and "dev" not in file.path.name else []
        if find_snapshot(spec, self._settings) is not None:
            notes.append(f"all other parts are those of {extends}, which is installed")
            return AdoptedModel(self._id(file.path), extends, precision, files, notes=tuple(notes))
        text = self._parts(spec, file, files)
        folder = self._settings.data_dir.resolve() / "descriptions" / extends
        return AdoptedModel(
            self._id(file.path), extends, precision, files, text, folder, tuple(notes)
        )

    def _parts(
        self, spec: ModelSpec, file: FolderFile, files: dict[FileColumn, Path]
    ) -> Precision | None:
        """Add the files of other parts; return the precision of the text encoder."""
        if not can_describe(spec):
            raise _UnusableError(
                f"{spec.title} needs the text encoder of its repository, which ComfyUI's file is "
                f"not: 'flux-mcp models pull {spec.id}' first"
            )
        lacking = []
        text_precision: Precision | None = None
        wanted: list[tuple[Role, str]] = [("vae", spec.vae)]
        wanted += [("clip" if e == "clip-l" else "text", e) for e in spec.text_encoders]
        for role, part in wanted:
            chosen = self._best(role, part, file)
            if chosen is None:
                lacking.append({"vae": "its VAE", "clip": "CLIP-L"}.get(role, f"{part} (text)"))
                continue
            path, found = chosen
            columns: dict[Role, FileColumn] = {"vae": "vae_file", "clip": "clip_file"}
            files[columns.get(role, "text_gguf" if is_gguf(path) else "text_file")] = path
            if role == "text":
                precision = _precision(found)
                text_precision = None if precision == "bf16" else precision
        kinds = tokenizers_of(spec).values()
        lacking += [f"the {k.upper()} tokenizer" for k in kinds if k not in self.tokenizers]
        if lacking:
            raise _UnusableError(f"{spec.title}, but the folder lacks {', '.join(lacking)}")
        return text_precision

    def _best(self, role: Role, part: str, beside: FolderFile) -> tuple[Path, FoundPart] | None:
        """Return the best file of a part: the transformer's, one of its own, with most bits."""
        fitting = [
            (file.path != beside.path, one.prefix, _BITS.index(one.number_type), file.path, one)
            for file in self._found
            for one in file.parts
            if (one.role, one.part) == (role, part) and one.number_type in _BITS
            and (role == "text" or not is_gguf(file.path))
        ]  # fmt: skip
        best = min(fitting, key=lambda one: one[:4], default=None)
        return None if best is None else best[3:]

    def _id(self, path: Path) -> str:
        stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"
        name, number = stem, 1
        while name in self._ids:
            number += 1
            name = f"{stem}-local" if number == 2 else f"{stem}-local-{number - 1}"  # noqa: PLR2004
        self._ids.add(name)
        return name


def _precision(part: FoundPart) -> Precision | None:
    """Return what a part is loaded as; `None` for what cannot be."""
    if part.number_type in UNPACKED:
        return "bf16"
    if part.number_type in ("F8_E4M3", "F8_E5M2"):
        return "fp8"
    return packings().get(part.number_type)


def _row(shipped: Registry, model: str) -> ModelSpec:
    return next(row for row in shipped if row.id == model)


def _rows_there(settings: Settings, shipped: Registry) -> dict[Path, ModelSpec]:
    """Return the rows of the data folder's file, by the files of their transformers.

    Raises:
        InvalidRequestError: it has a mistake: rows added to it would not be used.
    """
    own = read_own_rows(settings.paths.models, shipped)
    if own.problems:
        raise InvalidRequestError(
            f"The file of your models has a mistake: {own.problems[0]}",
            "Fix it first: a file with a mistake is not used at all.",
        )
    return {
        path.resolve(): row
        for row in own.rows
        for column, path in row.files.items()
        if column in ("file", "gguf")
    }


def _quoted(text: str) -> str:
    """Return a TOML string; JSON's escapes are TOML's."""
    quoted = json.dumps(text, ensure_ascii=False)
    tomllib.loads(f"a = {quoted}")
    return quoted
