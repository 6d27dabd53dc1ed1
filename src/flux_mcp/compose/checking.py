"""Packs checked as a person or a CI system asks for it: everything, all combinations included."""

from pathlib import Path

from flux_mcp.compose.audit import audit
from flux_mcp.compose.library import pack_folders
from flux_mcp.compose.manifest import MANIFEST
from flux_mcp.compose.problems import has_errors
from flux_mcp.compose.reader import Reading, read_pack
from flux_mcp.compose.rows import Models
from flux_mcp.compose.selfcheck import Judge, check_thoroughly
from flux_mcp.errors import UnknownPackError


def check_packs(
    folder: Path, *, judge: Judge = audit, models: Models | None = None
) -> tuple[Reading, ...]:
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


def check_one(folder: Path, judge: Judge, models: Models | None) -> Reading:
    """Check one pack: its files, then its prompts."""
    reading = read_pack(folder, models)
    if reading.pack is None:
        return reading
    problems = tuple(sorted({*reading.problems, *check_thoroughly(reading.pack, judge)}))
    return Reading(reading.name, None if has_errors(problems) else reading.pack, problems)
