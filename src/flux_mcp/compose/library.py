"""The packs there are: shipped ones, and the user's own beside them.

`PackLibrary` owns them. It looks at the files whenever it is asked, and reads again what changed:
no thread watches. A pack that is wrong is out of use until it is fixed, and only that one.
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
"""A file changed so shortly before it was read may change again within one tick of its clock."""

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Of every file of a pack: name, time of its last change in nanoseconds, size, inode."""


def open_library(settings: Settings, registry: Registry) -> "PackLibrary":
    """Return the packs of an installation, shipped and own ones, with the audit and the models."""
    return PackLibrary(
        settings.packs_dir, settings.paths.packs, judge=audit, models=known_models(registry)
    )


def known_models(registry: Registry) -> Models:
    """Return the ids of the models there are, by kind."""
    return {kind: registry[kind] for kind in KINDS}


@dataclass(frozen=True)
class PackChanges:
    """What is different since the last `refresh`, by the names of packs."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to announce."""
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class _Shelf:
    """One pack's folder as it was read last."""

    fingerprint: Fingerprint
    is_settled: bool
    """False if the files were too fresh for their fingerprint to be trusted."""
    reading: PackReading


class PackLibrary:
    """Every pack that can be used, and what is wrong with the others.

    Args:
        shipped: Folder of the packs that come with the server.
        user: Folder of the user's own; it need not exist. A pack of the same name replaces a
            shipped one.
        judge: The audit, to find packs that forbid their own words; `None` leaves that out.
        models: Ids of the models there are, by kind; `None` lets a pack name any.
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
        self._shelves: dict[Path, _Shelf] = {}
        self._announced: dict[str, str] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Pack]:
        """Every usable pack, by name."""
        return iter([reading.pack for reading in self.readings() if reading.pack is not None])

    def readings(self) -> tuple[PackReading, ...]:
        """Return every pack by name, also those that are wrong, with their problems."""
        folders = self._folders_by_name()
        with self._lock:
            shelves = {folder: self._shelf(folder) for folder in folders.values()}
            self._shelves = shelves
        return tuple(shelves[folders[name]].reading for name in sorted(folders))

    def find(self, name: str) -> Pack:
        """Return a pack by its name.

        Raises:
            UnknownPackError: there is none; the hint names the nearest and all others.
            InvalidPackError: there is, but it is wrong; the hint says how to fix it.
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
        """Return what a user should know: shipped packs that own ones stand for."""
        shipped, *others = ({folder.name for folder in pack_folders(root)} for root in self._roots)
        return tuple(
            f"Your own pack '{name}' replaces the shipped one."
            for other in others
            for name in sorted(shipped & other)
        )

    def refresh(self) -> PackChanges:
        """Look at the files, and return what is different since this was called last.

        A pack counts as there while it can be used. The first call finds every pack added.
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

    def _shelf(self, folder: Path) -> _Shelf:
        known = self._shelves.get(folder)
        fingerprint = fingerprint_of(folder)
        if known is not None and known.is_settled and known.fingerprint == fingerprint:
            return known
        newest = max((changed_ns for _, changed_ns, _, _ in fingerprint), default=0)
        is_settled = not 0 <= time.time_ns() - newest < _SETTLED_NS
        return _Shelf(fingerprint, is_settled, self._read(folder))

    def _read(self, folder: Path) -> PackReading:
        reading = read_pack(folder, self._models)
        if reading.pack is None or self._judge is None:
            return reading
        problems = (*reading.problems, *check_quickly(reading.pack, self._judge))
        return PackReading(folder.name, None if has_errors(problems) else reading.pack, problems)


def pack_folders(root: Path) -> Sequence[Path]:
    """Return the folders below that are meant as packs: those that are not hidden."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return ()
    return [root / name for name in sorted(names) if not name.startswith(".")]


def fingerprint_of(folder: Path) -> Fingerprint:
    """Return what changes when a file of a pack does, without reading any."""
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
        # Its time changes with every file below; those are looked at themselves.
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
        models: Ids of the models there are, by kind; `None` lets a pack name any.

    Raises:
        UnknownPackError: there is no pack.
    """
    if (folder / MANIFEST).is_file():
        return (check_one(folder.resolve(), judge, models),)
    folders = pack_folders(folder)
    if not folders:
        raise UnknownPackError(
            f"There is no pack in {folder}.", "Name a folder with a pack.json, or one above it."
        )
    return tuple(check_one(path, judge, models) for path in folders)


def check_one(folder: Path, judge: Judge, models: Models | None) -> PackReading:
    """Check one pack: its files, then its prompts."""
    reading = read_pack(folder, models)
    if reading.pack is None:
        return reading
    problems = tuple(sorted({*reading.problems, *check_thoroughly(reading.pack, judge)}))
    return PackReading(reading.name, None if has_errors(problems) else reading.pack, problems)
