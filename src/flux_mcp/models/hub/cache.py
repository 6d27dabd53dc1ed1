"""Weights in the hub cache: written, found, and what to say where they are missing.

The layout is huggingface_hub's ("Understand caching" in its documentation): blobs, links to them,
refs. Its other programs find what flux-mcp downloaded, and flux-mcp what they downloaded.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from flux_mcp.errors import (
    DownloadRunningError,
    StorageError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.models.hub.selection import HubFile, licence_page, parts_named, rows_of
from flux_mcp.models.registry import KIND_NAMES, ModelSpec, Registry
from flux_mcp.models.row_files import problem_of_row
from flux_mcp.settings.installation import own_command
from flux_mcp.settings.paths import Paths
from flux_mcp.settings.settings import Settings

logger = logging.getLogger(__name__)

# --- writing -------------------------------------------------------------------------------------


class RepositoryCache:
    """One repository's folder in the hub cache, for a downloading process."""

    def __init__(self, hub: Path, repository: str) -> None:
        self._hub = hub
        self.folder = hub / cache_folder(repository)

    def blob(self, key: str) -> Path:
        """Return the path of the content with this key, whether it exists or not."""
        return self.folder / "blobs" / key

    def snapshot(self, revision: str) -> Path:
        """Return the folder of a commit."""
        return self.folder / "snapshots" / revision

    def has(self, file: HubFile, revision: str) -> bool:
        """Whether the file exists in its size; its content is not read."""
        places = (self.blob(file.key), self.snapshot(revision) / file.path)
        return any(_size(place) == file.size_bytes for place in places)

    def elsewhere(self, file: HubFile) -> Path | None:
        """Return the blob of another repository of this cache with the same content."""
        for other in self._hub.glob(f"models--*/blobs/{file.key}"):
            if _size(other) == file.size_bytes and other != self.blob(file.key):
                return other
        return None

    def borrow(self, file: HubFile) -> bool:
        """Link a blob of another repository of this cache, which takes no disk space.

        FLUX.1 repositories have the same text encoders and VAE, 10 GB. Both names then stand for
        one file, and removing one leaves the other.
        """
        other = self.elsewhere(file)
        if other is None:
            return False
        blob = self.blob(file.key)
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(other, blob)
        except OSError:  # no hard links on this file system: it is downloaded
            return False
        return True

    def link(self, files: Iterable[HubFile], revision: str) -> None:
        """Give every blob its name in the snapshot.

        Raises:
            OSError: the disk refused.
        """
        for file in files:
            pointer, blob = self.snapshot(revision) / file.path, self.blob(file.key)
            if _size(pointer) == file.size_bytes and not blob.is_file():
                continue  # a copy, where links cannot be made
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # Windows without developer mode
                shutil.move(blob, pointer)

    def point_main_at(self, revision: str) -> None:
        """Record the commit of `main`, which is used where no revision is named."""
        ref = self.folder / "refs" / "main"
        ref.parent.mkdir(parents=True, exist_ok=True)
        aside = ref.with_suffix(".tmp")
        aside.write_text(revision, encoding="utf-8")
        aside.replace(ref)


def cache_folder(repository: str) -> str:
    """Return the folder of a repository in the hub cache."""
    return f"models--{repository.replace('/', '--')}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextmanager
def hold_download_lock(paths: Paths) -> Iterator[None]:
    """Hold the lock inside the block; the system frees it when the process dies.

    Raises:
        DownloadRunningError: another process holds it.
    """
    try:
        with FileLock(paths.download_lock, timeout=0):
            yield
    except Timeout as error:
        raise DownloadRunningError(
            "Another process downloads or removes weights in this data folder.",
            "Wait until it has finished: 'flux-mcp models list' shows it.",
        ) from error


# --- finding -------------------------------------------------------------------------------------

State = Literal["installed", "partial", "missing", "invalid"]
"""How many of a model's weights are on this disk: all, some, none; or a file is no weight file, or
not that of its row. From best to worst."""
_SHARD = re.compile(r"-\d+-of-0*(?P<count>\d+)\.safetensors$")


@dataclass(frozen=True)
class Snapshot:
    """One model's files: its folder, the folder of the parts it shares, its revision."""

    folder: Path
    parts_folder: Path
    revision: str | None
    """Commit of the hub repository; `None` for weights that come with the package."""
    loras: tuple[Path, ...] = ()
    """Of a LoRA's row: its files; more than one is refused when it is loaded."""


def find_snapshot(spec: ModelSpec, settings: Settings) -> Snapshot | None:
    """Return the folders of a row's weights, or `None` where they are not all on this disk.

    An incomplete download does not count, nor do files with a wrong header; nor does what cannot
    be read, which is logged.
    """
    try:
        return _look_for(spec, settings)
    except OSError as error:
        logger.warning(
            "weights cannot be read",
            extra={"model": spec.id, "reason": error.strerror or str(error)},
        )
        return None


def _look_for(spec: ModelSpec, settings: Settings) -> Snapshot | None:
    """Do the same.

    Raises:
        OSError: a folder cannot be read.
    """
    if find_problem(spec, settings) is not None:
        return None
    if spec.lora:
        return _find_lora(spec, settings)
    if not all(path.is_file() for path in spec.files.values()):
        return None
    if spec.folder is not None:
        folder = settings.weights_dir / spec.folder
        parts = settings.weights_dir / (spec.parts_folder or spec.folder)
        snapshot = Snapshot(folder, parts, revision=None)
    else:
        found = _find_in_hub_cache(spec, settings)
        if found is None:
            return None
        snapshot = found
    folders = (snapshot.folder, snapshot.parts_folder)
    return snapshot if _is_complete(snapshot.folder, folders, _own_files(spec)) else None


def find_problem(spec: ModelSpec, settings: Settings) -> WeightsInvalidError | None:
    """Return what is wrong with a row's files that are on this disk, by their headers."""
    if spec.origin is None:
        # The package's own, and what was pulled, were compared with their hashes.
        return problem_of_row(spec)
    named = dict.fromkeys(one for one in (spec.folder, spec.parts_folder) if one is not None)
    return problem_of_row(spec, [settings.weights_dir / folder for folder in named])


def problem_in_words(rows: Iterable[ModelSpec], settings: Settings) -> str | None:
    """Return what is wrong with the files of a model's rows and what to do, or `None`."""
    problems = (find_problem(row, settings) for row in rows)
    return next((f"{one.message} {one.hint}" for one in problems if one is not None), None)


def _find_lora(spec: ModelSpec, settings: Settings) -> Snapshot | None:
    """Return the files of a LoRA: its own, or the safetensors files of its repository."""
    if spec.file is not None:
        folder, revision, files = spec.file.parent, None, [spec.file]
    else:
        cached = settings.paths.hub / cache_folder(spec.repository or "")
        revision = spec.revision or _main_revision(cached)
        # Looked up and not joined: a revision may come from a plan of another process.
        found = {place.name: place for place in (cached / "snapshots").glob("*")}.get(revision)
        if found is None:
            return None
        folder, files = found, sorted(found.glob("*.safetensors"))
    there = tuple(file for file in files if file.is_file())
    return Snapshot(folder, folder, revision, there) if there else None


def _main_revision(cached: Path) -> str:
    """Return the commit that a repository's cache has as `main`; empty if it has none."""
    try:
        return (cached / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _own_files(spec: ModelSpec) -> Mapping[str, Path]:
    """Return the files that replace a part's weights, by the part's class."""
    files = (
        (class_name, spec.own_file(part))
        for (_, class_name), part in spec.family_spec.part_classes.items()
    )
    return {name: path for name, path in files if path is not None}


def _is_complete(folder: Path, folders: Sequence[Path], own_files: Mapping[str, Path]) -> bool:
    """Whether every part that `model_index.json` names is complete in one of the folders.

    For a part whose weights are in a file of their own, the folder needs only its config.json.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    for part in parts_named(index):
        places = [place / part for place in folders]
        if (own := own_files.get(index[part][-1])) is not None:
            described = any((place / "config.json").is_file() for place in places)
            if not (described and own.is_file()):
                return False
        elif not any(_is_whole(place) for place in places):
            return False
    return True


def _is_whole(part: Path) -> bool:
    """Whether a part's folder has files, and all the weights they promise.

    In the hub cache a file is a link to a blob that is only there once it is complete.
    """
    if not part.is_dir():
        return False
    files = {path.name for path in part.iterdir() if path.is_file()}
    weights = {name for name in files if name.endswith(".safetensors")}
    if not weights and "config.json" not in files:
        return bool(files)  # a tokenizer, a scheduler, an image processor
    shards = [found for name in weights if (found := _SHARD.search(name)) is not None]
    promised = int(shards[0]["count"]) if shards else 1
    return "config.json" in files and len(shards or weights) >= promised


def _find_in_hub_cache(spec: ModelSpec, settings: Settings) -> Snapshot | None:
    """Return where a row's repository is in the hub cache, `None` if it is not there.

    Raises:
        OSError: it cannot be read.
    """
    folder = repository_folder(spec.repository, spec.revision, "model_index.json", settings)
    return None if folder is None else Snapshot(folder, folder, revision=folder.name)


def repository_folder(
    repository: str | None, revision: str | None, file: str, settings: Settings
) -> Path | None:
    """Return the snapshot of a repository in the hub cache; `None` where it lacks `file`.

    Raises:
        OSError: it cannot be read.
    """
    cache = settings.paths.hub
    if repository is None or not (cache / cache_folder(repository)).is_dir():
        return None
    # The hub's library takes what it must not read for what is not there.
    os.listdir(cache / cache_folder(repository))  # noqa: PTH208 - raises at once
    # Imported here: it takes a quarter of a second, which is not needed without hub weights.
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    found = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def state_of(spec: ModelSpec, settings: Settings) -> State:
    """Return whether the own weights of `spec` are on this disk: all, some of them, or none."""
    if find_snapshot(spec, settings) is not None:
        return "installed"
    if find_problem(spec, settings) is not None:
        return "invalid"
    repository = spec.repository
    if repository is None:
        return "missing"
    try:
        is_begun = any((settings.paths.hub / cache_folder(repository)).glob("*/*"))
    except OSError:  # it cannot be read, but is there
        is_begun = True
    return "partial" if is_begun else "missing"


def state_of_model(model: str, registry: Registry, settings: Settings) -> State:
    """Return the state of a model: that of its least complete row, its base counted with it.

    Raises:
        UnknownModelError: there is none with that id.
    """
    states = {_state_with_base(row, registry, settings) for row in rows_of(registry, model)}
    return max(states, key=get_args(State).index)


def _state_with_base(spec: ModelSpec, registry: Registry, settings: Settings) -> State:
    """Return the state of a row; one whose base is missing counts as partial."""
    own = state_of(spec, settings)
    if own != "installed" or spec.base is None:
        return own
    base = state_of(registry.find("text2img", spec.base), settings)
    return "installed" if base == "installed" else "partial"


def is_installed(spec: ModelSpec, registry: Registry, settings: Settings) -> bool:
    """Whether a row's weights and its base's are on this disk."""
    if find_snapshot(spec, settings) is None:
        return False
    if spec.base is None:
        return True
    return find_snapshot(registry.find("text2img", spec.base), settings) is not None


def require_snapshot(spec: ModelSpec, registry: Registry, settings: Settings) -> Snapshot:
    """Return the folders of a row's weights, once its base's are on this disk as well.

    Raises:
        WeightsMissingError: some are missing; the hint is the command that installs them.
        WeightsInvalidError: a file is no weight file, or another model's, by its header.
        StorageError: a folder cannot be read.
    """
    if spec.base is not None:
        require_snapshot(registry.find("text2img", spec.base), registry, settings)
    try:
        snapshot = _look_for(spec, settings)
    except OSError as error:
        raise StorageError(
            f"The weights of {spec.id} cannot be read: {error.strerror}: {error.filename}.",
            "Fix its permissions.",
        ) from error
    if snapshot is None:
        if (problem := find_problem(spec, settings)) is not None:
            raise problem
        raise WeightsMissingError(
            f"The weights of {spec.id} ({KIND_NAMES[spec.kind]}) are not on this machine.",
            install_hint(spec, settings),
        )
    return snapshot


# --- what to do where weights are missing --------------------------------------------------------


def install_hint(spec: ModelSpec, settings: Settings) -> str:
    """Return what to do about missing weights of a row."""
    gone = [path for path in spec.files.values() if not path.exists()]
    if gone:
        return f"Put the file there: {gone[0]}; or fix its row in {spec.origin}."
    if spec.origin is not None and spec.repository is None:
        return _describe_folder(spec, settings)
    if spec.repository is None:
        return "They come with the package: install it again, or restore them from git."
    return f"Run: {install_command(spec, settings)}."


def _describe_folder(spec: ModelSpec, settings: Settings) -> str:
    """Return what a row's own folder lacks: with files for all weights, it still has the rest."""
    folder = settings.weights_dir / str(spec.folder)
    index = folder / "model_index.json"
    if not index.is_file():
        return f"{folder} needs a model_index.json, as diffusers writes it."
    try:
        parts = parts_named(json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return f"{index} cannot be read."
    lacking = [part for part in parts if not (folder / part).is_dir()]
    what = f" It lacks {', '.join(lacking)}." if lacking else ""
    return (
        f"{folder} needs, for each part, its config.json and weights, or the row a file for them; "
        f"and tokenizers and scheduler.{what}"
    )


def install_command(spec: ModelSpec, settings: Settings) -> str:
    """Return the command that downloads a row's model, and what must be done before."""
    gate = (
        f" (accept the licence at {licence_page(spec.repository)} first; it asks for a token)"
        if spec.gated and spec.repository is not None
        else ""
    )
    return f"{pull_command((spec.id,), settings)}{gate}"


def pull_command(models: Sequence[str], settings: Settings) -> str:
    """Return the command that downloads hub models and their bases, and nothing else."""
    return own_command(f"models pull {' '.join(models)}", settings.data_dir)
