"""All packs: the shipped ones and the user's own.

`PackLibrary` checks the files for changes at each call, and reads again what changed: no thread
watches. A pack with errors is disabled until they are fixed; the others are not affected.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.compose.audit import audit
from flux_mcp.compose.checks import Judge, check_quickly, check_thoroughly
from flux_mcp.compose.manifest import MANIFEST, Models
from flux_mcp.compose.packs import Pack
from flux_mcp.compose.problems import has_errors, nearest, shorten
from flux_mcp.compose.reader import SUBJECTS, PackReading, read_pack
from flux_mcp.errors import InvalidPackError, UnknownPackError
from flux_mcp.models.registry import KINDS, Registry
from flux_mcp.settings.settings import Settings

_SETTLED_NS = 100_000_000
"""A file that changed so shortly before it was read may change again without a new time."""

_Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Of every file of a pack: name, time of its last change in nanoseconds, size, inode."""


def open_library(settings: Settings, registry: Registry) -> "PackLibrary":
    """Return the packs of an installation, with the audit and the models to check them."""
    return PackLibrary(
        settings.packs_dir, settings.paths.packs, judge=audit, models=known_models(registry)
    )


def known_models(registry: Registry) -> Models:
    """Return the ids of the known models, by kind."""
    return {kind: registry[kind] for kind in KINDS}


@dataclass(frozen=True)
class PackChanges:
    """The names of the packs that are different since the last `refresh`."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there are any changes."""
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class _CachedPack:
    """A pack's folder as it was read last."""

    fingerprint: _Fingerprint
    is_settled: bool
    """False if the files changed too shortly before: they are read again next time."""
    reading: PackReading


class PackLibrary:
    """The packs that can be used, and the problems of the others.

    Args:
        shipped: Folder of the packs that come with the server.
        user: Folder of the user's own; it need not exist. A pack of the same name replaces a
            shipped one.
        judge: The audit, to find packs that forbid their own words; `None` skips that check.
        models: Ids of the known models, by kind; `None` allows any.
    """

    def __init__(
        self,
        shipped: Path,
        user: Path | None = None,
        *,
        judge: Judge | None = None,
        models: Models | None = None,
    ) -> None:
        self._roots = (shipped, user) if user is not None else (shipped,)
        self._judge = judge
        self._models = models
        self._cached: dict[Path, _CachedPack] = {}
        self._announced: dict[str, str] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Pack]:
        """Every usable pack, by name."""
        return iter([reading.pack for reading in self.readings() if reading.pack is not None])

    def readings(self) -> tuple[PackReading, ...]:
        """Return every pack by name, also those that cannot be used, with their problems."""
        folders = self._folders_by_name()
        with self._lock:
            cached = {folder: self._cached_pack(folder) for folder in folders.values()}
            self._cached = cached
        return tuple(cached[folders[name]].reading for name in sorted(folders))

    def find(self, name: str) -> Pack:
        """Return a pack by its name.

        Raises:
            UnknownPackError: there is none; the hint names the nearest and all others.
            InvalidPackError: it cannot be used; the hint says how to fix it.
        """
        readings = {reading.name: reading for reading in self.readings()}
        if name not in readings:
            known = [one for one, reading in readings.items() if reading.pack is not None]
            raise UnknownPackError(
                f"There is no pack '{shorten(name)}'.", nearest(name, known, what="Packs")
            )
        reading = readings[name]
        if reading.pack is None:
            errors = [problem for problem in reading.problems if problem.severity == "error"]
            more = f" {len(errors) - 1} more." if len(errors) > 1 else ""
            raise InvalidPackError(
                f"The pack '{name}' cannot be used: {errors[0].place}: {errors[0].message}{more}",
                errors[0].fix,
                problems=reading.problems,
            )
        return reading.pack

    def notices(self) -> tuple[str, ...]:
        """Return a sentence for each shipped pack that one of the user's own replaces."""
        shipped, *others = ({folder.name for folder in pack_folders(root)} for root in self._roots)
        return tuple(
            f"Your own pack '{name}' replaces the shipped one."
            for other in others
            for name in sorted(shipped & other)
        )

    def refresh(self) -> PackChanges:
        """Check the files, and return what is different since the last call.

        Only packs that can be used count. The first call reports every pack as added.
        """
        now = {pack.name: f"{pack.folder} {pack.digest}" for pack in self}
        with self._lock:
            before, self._announced = self._announced, now
        both = sorted(now.keys() & before.keys())
        return PackChanges(
            added=tuple(sorted(now.keys() - before.keys())),
            changed=tuple(name for name in both if now[name] != before[name]),
            removed=tuple(sorted(before.keys() - now.keys())),
        )

    def _folders_by_name(self) -> dict[str, Path]:
        """Return each pack's folder; the later of two roots wins."""
        return {folder.name: folder for root in self._roots for folder in pack_folders(root)}

    def _cached_pack(self, folder: Path) -> _CachedPack:
        known = self._cached.get(folder)
        fingerprint = _fingerprint_of(folder)
        if known is not None and known.is_settled and known.fingerprint == fingerprint:
            return known
        newest = max((changed_ns for _, changed_ns, _, _ in fingerprint), default=0)
        is_settled = not 0 <= time.time_ns() - newest < _SETTLED_NS
        return _CachedPack(fingerprint, is_settled, self._read(folder))

    def _read(self, folder: Path) -> PackReading:
        reading = read_pack(folder, self._models)
        if reading.pack is None or self._judge is None:
            return reading
        problems = (*reading.problems, *check_quickly(reading.pack, self._judge))
        return PackReading(folder.name, None if has_errors(problems) else reading.pack, problems)


def pack_folders(root: Path) -> Sequence[Path]:
    """Return the folders of packs below a folder: those that are not hidden."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return ()
    return [root / name for name in sorted(names) if not name.startswith(".")]


def _fingerprint_of(folder: Path) -> _Fingerprint:
    """Return times, sizes and inodes of a pack's files: different if a file changes."""
    found: list[tuple[str, int, int, int]] = []
    for prefix, place in (("", folder), (f"{SUBJECTS}/", folder / SUBJECTS)):
        try:
            with os.scandir(place) as entries:
                found += [_stat_of(prefix, entry) for entry in entries]
        except OSError:
            continue
    return tuple(sorted(found))


def _stat_of(prefix: str, entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        about = entry.stat()
    except OSError:
        # A link that leads nowhere.
        return f"{prefix}{entry.name}", 0, 0, 0
    if entry.is_dir():
        # Its time changes with every file below it; those have entries of their own.
        return f"{prefix}{entry.name}", 0, 0, about.st_ino
    # The second changes even when the first is set back, as copying with times does.
    changed_ns = max(about.st_mtime_ns, about.st_ctime_ns)
    return f"{prefix}{entry.name}", changed_ns, about.st_size, about.st_ino


def check_packs(
    folder: Path, *, judge: Judge = audit, models: Models | None = None
) -> tuple[PackReading, ...]:
    """Check one pack, or every pack of a folder.

    Args:
        folder: A pack (it has a pack.json), or a folder of packs.
        judge: The audit.
        models: Ids of the known models, by kind; `None` allows any.

    Raises:
        UnknownPackError: there is no pack.
    """
    if (folder / MANIFEST).is_file():
        return (_check_one(folder.resolve(), judge, models),)
    folders = pack_folders(folder)
    if not folders:
        raise UnknownPackError(
            f"There is no pack in {folder}.", "Name a folder with a pack.json, or one above it."
        )
    return tuple(_check_one(path, judge, models) for path in folders)


def _check_one(folder: Path, judge: Judge, models: Models | None) -> PackReading:
    """Check one pack: its files, then its prompts."""
    reading = read_pack(folder, models)
    if reading.pack is None:
        return reading
    problems = tuple(sorted({*reading.problems, *check_thoroughly(reading.pack, judge)}))
    return PackReading(reading.name, None if has_errors(problems) else reading.pack, problems)
