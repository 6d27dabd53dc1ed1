"""What is downloaded: which repositories, which of their files, whether the disk has room. Pure.

A repository of FLUX weights has more than is needed: the transformer a second time as one file,
images, sometimes pickles. Downloaded is what the parts of `model_index.json` need, and of that only
kinds of files that cannot run code.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from flux_mcp.errors import (
    InvalidRequestError,
    StorageError,
    UnknownModelError,
    WeightsInvalidError,
)
from flux_mcp.models.memory import text_gib, vae_gib
from flux_mcp.models.registry import HelperSpec, ModelSpec, Registry

INDEX = "model_index.json"
GIB = 1024**3
_TEXT_FILES = frozenset({".json", ".txt", ".model", ".jinja"})
"""Configurations, vocabularies, merges, SentencePiece models, chat templates."""
_WEIGHTS = re.compile(r"(diffusion_pytorch_)?model(-\d{5}-of-\d{5})?\.safetensors")
"""Names diffusers and transformers load by default; others are variants (fp16) or adapters."""
_ALONE = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_SAFE_PATH = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at one revision, as the hub describes it."""

    path: str
    size_bytes: int
    key: str
    """The hub's name for its content, and the cache's for its blob: the SHA-256 of a file in LFS
    (64 digits), git's SHA-1 of any other (40 digits)."""


def parts_named(index: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a pipeline that its `model_index.json` names; `[null, null]` is none."""
    return tuple(name for name, what in index.items() if isinstance(what, list) and any(what))


def needed_files(
    repository: str, index: Mapping[str, Any] | None, files: Iterable[HubFile]
) -> tuple[HubFile, ...]:
    """Return the files that are needed, in the order of their paths.

    Args:
        repository: Its name, for messages.
        index: Its `model_index.json`; `None` for one that has none, whose files lie at the top: a
            model of transformers (`config.json`), or safetensors files alone, as of a LoRA.
        files: What the hub lists.

    Raises:
        WeightsInvalidError: there is nothing, or for a part nothing, that may be opened.
    """
    listed = {file.path: file for file in files if _SAFE_PATH.fullmatch(file.path)}
    if index is None and "config.json" in listed:
        whole = {path: file for path, file in listed.items() if _is_of_one_model(path)}
        if any(_WEIGHTS.fullmatch(path) for path in whole):
            return tuple(whole[path] for path in sorted(whole))
    if index is None:
        alone = [file for path, file in sorted(listed.items()) if _ALONE.fullmatch(path)]
        if not alone:
            raise WeightsInvalidError(
                f"{repository} has neither a {INDEX} nor a safetensors file at its top.",
                "Choose another repository in models.toml.",
            )
        return tuple(alone)
    parts = parts_named(index)
    wanted = {path: file for path, file in listed.items() if _is_needed(path, parts)}
    found = {PurePosixPath(path).parts[0] for path in wanted}
    lacking = [part for part in parts if part not in found or _lacks_weights(part, listed, wanted)]
    if not parts or lacking:
        raise WeightsInvalidError(
            f"{repository} has nothing to load for {', '.join(lacking) or 'any part'}: only "
            "safetensors files are opened, never pickles.",
            "Choose another model, or another revision of this one.",
        )
    return tuple(wanted[path] for path in sorted(wanted))


def _is_needed(path: str, parts: Sequence[str]) -> bool:
    if path == INDEX:
        return True
    place = PurePosixPath(path)
    if len(place.parts) != 2 or place.parts[0] not in parts:  # noqa: PLR2004 - part/file
        return False
    return place.suffix in _TEXT_FILES or _WEIGHTS.fullmatch(place.name) is not None


def _is_of_one_model(path: str) -> bool:
    """Whether a file belongs to a model that transformers loads from the top of a repository."""
    place = PurePosixPath(path)
    if len(place.parts) != 1:
        return False
    return place.suffix in _TEXT_FILES or _WEIGHTS.fullmatch(place.name) is not None


def _lacks_weights(part: str, listed: Mapping[str, HubFile], wanted: Mapping[str, HubFile]) -> bool:
    """Whether a part is made of weights, by its files, and none of them may be opened."""
    if f"{part}/config.json" not in listed:
        return False  # a tokenizer, a scheduler, an image processor
    return not any(path.startswith(f"{part}/") and path.endswith(".safetensors") for path in wanted)


def check_disk(missing_bytes: int, free_bytes: int, reserve_bytes: int, place: str) -> None:
    """Refuse a download that would leave less than `reserve_bytes` free.

    Raises:
        StorageError: it would.
    """
    short_bytes = missing_bytes + reserve_bytes - free_bytes
    if short_bytes > 0 and missing_bytes > 0:
        raise StorageError(
            f"{missing_bytes / GIB:.1f} GiB are to be downloaded and {reserve_bytes / GIB:.1f} GiB "
            f"are to stay free (disk_reserve_gib), but {place} has {free_bytes / GIB:.1f} GiB.",
            f"Free {short_bytes / GIB:.1f} GiB, for example with 'flux-mcp models remove', or "
            "choose another data folder with --data-dir.",
        )


def licence_page(repository: str) -> str:
    """Return the page on which a licence is accepted; the hub's own, also for a mirror's files."""
    return f"https://huggingface.co/{repository}"


# --- which models ------------------------------------------------------------------------------


def rows_of(registry: Registry, model: str) -> list[ModelSpec]:
    """Return every row of a model, of any kind.

    Raises:
        UnknownModelError: there is none; the hint names those there are.
    """
    rows = [row for row in registry if row.id == model]
    if not rows:
        known = dict.fromkeys(row.id for row in registry)
        raise UnknownModelError(
            f"There is no model '{model[:60]}'.", f"Models: {', '.join(known)}."
        )
    return rows


def comes_from(row: ModelSpec | HelperSpec) -> str:
    """Say where the weights of a row without a repository are: `comes with the package`, ...."""
    is_own = isinstance(row, ModelSpec) and row.origin is not None
    return "lies in your own files" if is_own else "comes with the package"


def rows_to_pull(
    registry: Registry, models: Sequence[str], is_here: Callable[[ModelSpec], bool]
) -> tuple[ModelSpec, ...]:
    """Return one row for each repository to pull: those of `models`, and bases that are missing.

    Of a LoRA that is a file of the user's own, the base alone.

    Raises:
        UnknownModelError: a model is not in the registry.
        InvalidRequestError: a model comes with the package, or lies in the user's own files.
    """
    wanted: dict[tuple[str, str | None], ModelSpec] = {}
    for model in models:
        for row in rows_of(registry, model):
            base = None if row.base is None else registry.find("text2img", row.base)
            lacks_base = base is not None and base.repository is not None and not is_here(base)
            if row.repository is None and not (row.file is not None and lacks_base):
                raise InvalidRequestError(
                    f"{row.id} {comes_from(row)}: there is nothing to download.",
                    "'flux-mcp models list' shows what can be pulled.",
                )
            for one in (base if lacks_base else None, row):
                if one is not None and one.repository is not None:
                    wanted.setdefault((one.repository, one.revision), one)
    return tuple(wanted.values())


def download_gib(rows: Iterable[ModelSpec], here: Iterable[ModelSpec] = ()) -> float:
    """Return what rows of different repositories download together.

    Text encoders and VAEs of a family are the same files in each of its repositories, and the cache
    has each content once (cache.py): they count once, and not at all if they are here.

    Args:
        rows: What is pulled.
        here: What is on this disk.
    """
    seen = {part for row in here for part in _shared_parts(row)}
    total_gib = 0.0
    for row in rows:
        parts = _shared_parts(row)
        total_gib += row.disk_gib - sum(gib for part, gib in parts.items() if part in seen)
        seen |= parts.keys()
    return total_gib


def _shared_parts(row: ModelSpec) -> dict[str, float]:
    """Return the parts of a whole pipeline that others of its family have as well, in GiB."""
    if row.base is not None or row.form != "folder" or row.repository is None:
        return {}
    pieces = row.pieces
    texts = {
        name: text_gib(replace(pieces, text_encoders=(name,)), "bf16")
        for name in pieces.text_encoders
    }
    return {**texts, pieces.vae: vae_gib(pieces)}


def users_of(registry: Registry, repository: str) -> tuple[str, ...]:
    """Return the ids of all models that need a repository, as their own or as their base."""
    users: dict[str, None] = {}
    for row in registry:
        base = None if row.base is None else registry.find("text2img", row.base)
        if repository in (row.repository, base and base.repository):
            users[row.id] = None
    for helper in registry.helpers.values():
        needed = None if helper.needs is None else registry.helpers[helper.needs]
        if repository in (helper.repository, needed and needed.repository):
            users[helper.id] = None
    return tuple(users)
