"""The LoRAs of a data folder: the files in `data/loras/`, what each is for, what is wrong with it.

`LoraLibrary` reads the folder at every call, and of a file only the header; the SHA-256 of a whole
file is computed when it is first needed and kept for as long as the file does not change.
"""

import json
import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flux_mcp.errors import InvalidLoraError, LoraMismatchError, UnknownLoraError
from flux_mcp.models.architectures import Architecture, from_config, known_architectures
from flux_mcp.models.families import FAMILIES, FLUX1_CONTROL, Family
from flux_mcp.models.file_hashes import FileHashes
from flux_mcp.models.loras import MAX_WEIGHT
from flux_mcp.models.loras.fit import (
    Placement,
    control_config,
    nearest_misfit,
    place,
    placed_on,
)
from flux_mcp.models.loras.header import ADAPTER_METADATA_KEY, LoraHeader, read_header
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.settings.settings import Settings

SUFFIXES = (".safetensors", ".sft")
"""In lower or upper case; `.sft` is the same format."""
_LONGEST = 200
_MOST_TRIGGERS = 20
# Source: ModelSpec 1.0 (github.com/Stability-AI/ModelSpec) and the keys that kohya's sd-scripts
# write (train_util.py, `ss_*`).
_TITLE_KEYS = ("modelspec.title", "ss_output_name")
_TRIGGER_KEYS = ("modelspec.trigger_phrase", "ss_trigger_words")
_LICENCE_KEYS = ("modelspec.license",)
_BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")

_PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth"})
_LONGEST_NAME = 200
_NO_NAME = re.compile(r'[\\:*?"<>|]')
"""Not in names on every system; `:` also stands before a weight on the command line."""
_PEFT_FILE = "adapter_model"
"""What PEFT's `save_pretrained` calls a file."""
_DEEPEST = 8
"""Folders below each other that are looked into."""


# --- what a file says of itself ------------------------------------------------------------------


class LoraAbout(BaseModel):
    """`<name>.toml` beside `<name>.safetensors`; every key may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    title: str | None = Field(None, max_length=_LONGEST)
    trigger_words: tuple[str, ...] = Field((), max_length=_MOST_TRIGGERS)
    """Words that a prompt needs for the LoRA to show."""
    family: Family | None = None
    """What it was trained for, where its layers fit several families."""
    weight_range: tuple[float, float] | None = None
    """Weights it looks right with."""
    licence: str | None = Field(None, max_length=_LONGEST)
    source: str | None = Field(None, max_length=_LONGEST)
    """Where it came from."""

    @field_validator("weight_range")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not -MAX_WEIGHT <= value[0] <= value[1] <= MAX_WEIGHT:
            raise ValueError(f"give two numbers in order, from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        return value


def read_about(path: Path) -> LoraAbout:
    """Read the TOML file beside a LoRA; no file says nothing.

    Raises:
        InvalidLoraError: it is there and wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return LoraAbout()
    except (OSError, ValueError) as error:
        raise InvalidLoraError(f"{path.name} cannot be read: {error}.", "Fix it.") from error
    try:
        return LoraAbout.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidLoraError(f"{path.name} is not TOML: {error}.", "Fix that line.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidLoraError(
            f"{path.name}: {where}: {first['msg']}.",
            f"Its keys are {', '.join(LoraAbout.model_fields)}.",
        ) from error


def with_metadata(about: LoraAbout, metadata: Mapping[str, str]) -> LoraAbout:
    """Fill in what the trainer's metadata says and the TOML file does not."""
    told = {
        "title": _first(metadata, _TITLE_KEYS),
        "licence": _first(metadata, _LICENCE_KEYS),
        "family": _family(_first(metadata, _BASE_KEYS) or ""),
    }
    triggers = _first(metadata, _TRIGGER_KEYS)
    filled: dict[str, object] = {
        name: value
        for name, value in told.items()
        if value is not None and getattr(about, name) is None
    }
    if triggers and not about.trigger_words:
        words = [word.strip() for word in triggers.split(",")]
        filled["trigger_words"] = tuple(word for word in words if word)[:_MOST_TRIGGERS]
    return about.model_copy(update=filled)


def _first(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    found = (" ".join(metadata.get(key, "").split()) for key in keys)
    printable = ("".join(c for c in text if c.isprintable())[:_LONGEST] for text in found)
    return next((text for text in printable if text and text != "None"), None)


def _family(base: str) -> Family | None:
    # The newest first: 'FLUX.2 klein' names both what it is and what came before.
    newest_first = reversed(tuple(FAMILIES.items()))
    words = base.lower()
    return next((key for key, row in newest_first if any(w in words for w in row.base_words)), None)


# --- the files of the folder ---------------------------------------------------------------------


@dataclass(frozen=True)
class Lora:
    """One file of the folder that can be used."""

    name: str
    path: Path
    size_bytes: int
    header: LoraHeader
    about: LoraAbout
    families: tuple[Family, ...]
    """Families with a transformer that it fits; usually one."""
    hash_file: Callable[[Path], str] = field(repr=False, compare=False)
    left_out: tuple[str, ...] = ()
    """What in the file is not used, in words."""

    @property
    def sha256(self) -> str:
        """Of the whole file; a plan records it. The first call reads the file: 1 s for a GB.

        Raises:
            InvalidLoraError: the file is gone.
        """
        return self.hash_file(self.path)


@dataclass(frozen=True)
class BadLora:
    """One file that cannot be used, and why."""

    name: str
    path: Path
    error: InvalidLoraError


def _second(name: str, path: Path, first: Path) -> BadLora:
    error = InvalidLoraError(f"{first.name} has the same name.", "Rename one of them.")
    return BadLora(name, path, error)


def _unread_config(path: Path, header: LoraHeader) -> tuple[str, ...]:
    """Say what PEFT's file beside an adapter says of its alpha: a plan pins one file alone."""
    if path.stem != _PEFT_FILE or ADAPTER_METADATA_KEY in header.metadata:
        return ()
    try:
        values = json.loads(path.with_name("adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = float(values["r"]), float(values["lora_alpha"])
        weight = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return ("adapter_config.json beside it",)
    if weight == 1 and not values.get("alpha_pattern"):
        return ()
    as_trained = "" if values.get("alpha_pattern") else f"; it was trained with weight {weight:g}"
    return (f"the alpha in adapter_config.json beside it{as_trained}",)


class LoraLibrary:
    """Every LoRA of a folder.

    Args:
        folder: Where they lie; it need not exist.
        architectures: The transformers whose families are told apart.
    """

    def __init__(self, folder: Path, architectures: Sequence[Architecture]) -> None:
        self.folder = folder
        self._architectures = tuple(architectures)
        self._hashes = FileHashes()

    def __iter__(self) -> Iterator[Lora]:
        """Yield every usable one, by name."""
        return (one for one in self.listing() if isinstance(one, Lora))

    def listing(self) -> tuple[Lora | BadLora, ...]:
        """Return every file by name, also those that cannot be used."""
        first = find_files(self.folder)
        return tuple(
            _second(name, path, first[name])
            if path.suffix.lower() in SUFFIXES and first[name] != path
            else self._read(name, path)
            for name, path in _list_files(self.folder)
        )

    def names(self) -> tuple[str, ...]:
        """Return the names of all files that may be LoRAs; reads none of them."""
        return tuple(find_files(self.folder))

    def find(self, name: str) -> Lora:
        """Return one by its name.

        Raises:
            UnknownLoraError: there is none; the hint names the nearest and all others.
            InvalidLoraError: its file is wrong; the hint says what to do.
        """
        return self.find_all([name])[0]

    def find_all(self, names: Sequence[str]) -> tuple[Lora, ...]:
        """Return several by their names, in their order; the folder is listed once.

        Raises:
            UnknownLoraError: there is none of a name; the hint names the nearest and all others.
            InvalidLoraError: a file is wrong; the hint says what to do.
        """
        if not names:
            return ()
        paths = find_files(self.folder)
        return tuple(self._find_in(paths, name) for name in names)

    def _find_in(self, paths: Mapping[str, Path], name: str) -> Lora:
        name = unicodedata.normalize("NFC", name)
        if name not in paths:
            meant = _nearest(name, paths)
            raise UnknownLoraError(
                f"There is no LoRA '{name[:100]}'.",
                f"{meant}LoRAs: {', '.join(list(paths)[:50])}."
                if paths
                else f"There is none: put .safetensors files into {self.folder}.",
            )
        found = self._read(name, paths[name])
        if isinstance(found, BadLora):
            raise InvalidLoraError(
                f"The LoRA '{name}' cannot be used: {found.error.message}", found.error.hint
            )
        return found

    def _read(self, name: str, path: Path) -> Lora | BadLora:
        try:
            return self._read_good(name, path)
        except InvalidLoraError as error:
            return BadLora(name, path, error)
        except OSError as error:
            return BadLora(
                name,
                path,
                InvalidLoraError(f"It cannot be read: {error.strerror}.", "Look at its rights."),
            )

    def _read_good(self, name: str, path: Path) -> Lora:
        check_file(path, self.folder)
        header = read_header(path)
        about = with_metadata(read_about(path.with_suffix(".toml")), header.metadata)
        placements = [(one, placed_on(header, one)) for one in self._architectures]
        fitting = [one for one, placement in placements if placement is not None]
        if header.is_control or (fitting and all(one.name == FLUX1_CONTROL for one in fitting)):
            raise InvalidLoraError(
                "It is a control LoRA: it turns a model that draws from words into one that "
                "follows edges or depth.",
                "Use flux_structural with a model made for that, or give it a row in models.toml "
                "(docs/models/README.md, 'Your own models').",
            )
        if not fitting:
            raise InvalidLoraError(
                f"It fits no model known here. {nearest_misfit(header, self._architectures)}",
                f"Only LoRAs for {_listed([one.title for one in FAMILIES.values()])} can be used.",
            )
        families = tuple(dict.fromkeys(one.family for one in fitting))
        if about.family in families:
            families = (about.family,)
        return Lora(
            name=name,
            path=path,
            size_bytes=path.stat().st_size,
            header=header,
            about=about,
            families=families,
            left_out=(
                *header.left_out,
                *next(placement.left_out for _, placement in placements if placement is not None),
                *_unread_config(path, header),
            ),
            hash_file=self._sha256,
        )

    def _sha256(self, path: Path) -> str:
        try:
            return self._hashes.sha256(path)
        except OSError as error:
            raise InvalidLoraError(
                f"{path.name} cannot be read: {error.strerror}.", "Look whether it is still there."
            ) from error


def find_files(folder: Path) -> dict[str, Path]:
    """Return every file of a folder that may be a LoRA, by name: its path without its suffix.

    Folders in it are looked into, and are part of the name: `styles/ink`.
    """
    found: dict[str, Path] = {}
    for name, path in _list_files(folder):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(name, path)
    return found


def _list_files(folder: Path) -> list[tuple[str, Path]]:
    """Return names and paths of all files of a folder that are or look like LoRAs, by name."""
    paths: list[Path] = []
    for inside, folders, files in os.walk(folder):
        here = Path(inside)
        depth = len(here.relative_to(folder).parts)
        links = [here / one for one in folders if (here / one).is_symlink()]
        paths += [path for path in links if not _is_inside(path, folder)]
        # Hidden ones are other programs' own: caches, and what macOS keeps beside a file.
        folders[:] = [one for one in folders if one[0] != "." and depth < _DEEPEST]
        paths += [
            here / file
            for file in files
            if file[0] != "." and Path(file).suffix.lower() in {*_PICKLES, *SUFFIXES}
        ]
    named = [(_name_of(path, folder), path) for path in paths]
    # A name that two files have is the first one's.
    return sorted(named, key=lambda one: (one[0], one[1].suffix not in SUFFIXES, one[1].suffix))


def _name_of(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder)
    is_file = inside.suffix.lower() in {*_PICKLES, *SUFFIXES}
    # macOS takes letters with accents apart.
    return unicodedata.normalize("NFC", (inside.with_suffix("") if is_file else inside).as_posix())


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _nearest(name: str, names: Iterable[str]) -> str:
    """Return a sentence with the name that is meant; none where nothing is near."""
    whole = {one.casefold(): one for one in names}
    last = {one.casefold().rpartition("/")[2]: one for one in names}
    near = last | whole
    wanted = name.casefold()
    for suffix in SUFFIXES:
        wanted = wanted.removesuffix(suffix)
    close = get_close_matches(wanted, near, n=1)
    return f"Did you mean '{near[close[0]]}'? " if close else ""


def check_file(path: Path, folder: Path) -> None:
    """Refuse a file that is never opened, by its name and folder.

    Raises:
        InvalidLoraError: a pickle, a name that cannot be used, or a link to somewhere else.
        OSError: its links cannot be resolved.
    """
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise InvalidLoraError(
            "It is a pickle, which can run code and is never loaded.", f"Get it as {SUFFIXES[0]}."
        )
    name = _name_of(path, folder)
    parts = name.split("/")
    is_usable = all(p.isprintable() and p == p.strip() and not _NO_NAME.search(p) for p in parts)
    if not is_usable or len(name) > _LONGEST_NAME:
        raise InvalidLoraError(
            "Its name cannot be used.",
            f'Rename it: no \\ : * ? " < > |, no space at an end, at most {_LONGEST_NAME} letters.',
        )
    real = path.resolve(strict=True)
    if not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise InvalidLoraError(
            "It is not a file of this folder, but a link to somewhere else.", "Copy it here."
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


# --- for an installation, and for a model --------------------------------------------------------


def open_loras(settings: Settings, registry: Registry) -> LoraLibrary:
    """Return the LoRAs of an installation."""
    embedded = [
        from_config(row.id, row.family, config)
        for row in registry
        if row.folder is not None
        and (config := _read_config(settings.weights_dir / row.folder)) is not None
    ]
    known = (*known_architectures(), *(one for one in embedded if one is not None))
    return LoraLibrary(settings.paths.loras, known)


def architecture_of(spec: ModelSpec, folder: Path) -> Architecture | None:
    """Return the layers of a model on this disk; `None` where its files do not say.

    Args:
        spec: The model's row.
        folder: Where its weights lie; of a row with a base, the base's.
    """
    config = _read_config(folder)
    if config is not None and spec.lora:
        config = control_config(config, spec.in_channels)
    return None if config is None else from_config(spec.id, spec.family, config)


def _read_config(folder: Path) -> Mapping[str, object] | None:
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def require_fit(lora: Lora, spec: ModelSpec, architecture: Architecture | None) -> tuple[str, ...]:
    """Refuse a LoRA that a model cannot use.

    Args:
        lora: The LoRA.
        spec: The model's row.
        architecture: The model's layers; `None` leaves the check of sizes to the worker.

    Returns:
        What the caller should know of how it is used.

    Raises:
        LoraMismatchError: it is for another family, or does not fit layer by layer.
    """
    families = " or ".join(lora.families)
    if spec.family not in lora.families:
        raise LoraMismatchError(
            f"The LoRA '{lora.name}' is made for {families}; {spec.id} is of the family "
            f"{spec.family}.",
            f"Leave it out, or choose a model of the family {families}.",
        )
    told = _other_base_notices(lora, spec)
    if architecture is None:
        return told
    try:
        placement = place(lora.header, architecture)
    except LoraMismatchError as error:
        raise LoraMismatchError(
            f"The LoRA '{lora.name}' does not fit {spec.id}: {error.message}",
            "Leave it out, or choose the model it was trained for.",
        ) from None
    return (*told, *_padding_notices(lora, spec, placement))


def _other_base_notices(lora: Lora, spec: ModelSpec) -> tuple[str, ...]:
    """Say so if a trainer names a model of no family here: Chroma's layers have FLUX.1's sizes."""
    base = _first(lora.header.metadata, _BASE_KEYS)
    if base is None or lora.about.family is not None or "flux" in base.casefold():
        return ()
    return (f"The LoRA '{lora.name}' says it was made for '{base}', not for {spec.id}.",)


def _padding_notices(lora: Lora, spec: ModelSpec, placement: Placement) -> tuple[str, ...]:
    return tuple(
        f"The LoRA '{lora.name}' was trained with a first layer of {one.layer.inputs} inputs, that "
        f"of {spec.id} has {one.padding} more: it changes nothing of what comes in there."
        for one in placement.placed
        if one.padding
    )
