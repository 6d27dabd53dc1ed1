"""`flux-mcp packs list|show|check|new`: packs listed, shown, checked and begun.

Needs neither the database nor the models: a repository of packs can use it in its CI.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from flux_mcp.cli.common import EXIT_ENGINE, console, plain, print_json
from flux_mcp.compose.files import NOTHING
from flux_mcp.compose.library import (
    PackLibrary,
    check_packs,
    known_models,
    open_library,
    pack_folders,
)
from flux_mcp.compose.problems import has_errors, nearest
from flux_mcp.compose.reader import PackReading
from flux_mcp.compose.skeleton import skeleton
from flux_mcp.errors import UnknownPackError
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.installation import command_path
from flux_mcp.settings.settings import Settings


def library_of(settings: Settings) -> PackLibrary:
    """Return the packs of a data folder, with those that come with us."""
    return open_library(settings, open_registry(settings))


# --- looking -----------------------------------------------------------------------------------


def print_packs(settings: Settings, *, as_json: bool) -> None:
    """Print every pack, and every problem of those that cannot be used."""
    library = library_of(settings)
    readings, notices = library.readings(), library.notices()
    if as_json:
        print_json(
            {"packs": [_reading_as_json(reading) for reading in readings], "notices": list(notices)}
        )
        return
    out = console()
    width = max((len(reading.name) for reading in readings), default=0)
    for reading in readings:
        pack = reading.pack
        if pack is None:
            out.print(f"{reading.name:<{width}}  cannot be used:", style="red")
        else:
            out.print(f"{reading.name:<{width}}  {pack.version:<8} {plain(pack.title)}")
        _print_problems([reading], indent="  ")
    for notice in notices:
        out.print(f"Note: {notice}", style="yellow")
    out.print(f"Your own packs: {settings.paths.packs}")
    out.print(f"A new one: {command_path('flux-mcp')} packs new my-style")


def _reading_as_json(reading: PackReading) -> dict[str, Any]:
    pack = reading.pack
    about = {} if pack is None else {"title": pack.title, "description": pack.description}
    return {
        "name": reading.name,
        "usable": pack is not None,
        "version": None if pack is None else pack.version,
        **about,
        "problems": [asdict(problem) for problem in reading.problems],
    }


def print_pack(settings: Settings, name: str, *, as_json: bool) -> None:
    """Print what a pack holds.

    Raises:
        UnknownPackError: there is none of that name.
        InvalidPackError: its files are wrong.
    """
    pack = library_of(settings).find(name)
    if as_json:
        print_json(pack.describe())
        return
    out = console()
    out.print(f"{plain(pack.title)} ({pack.name} {pack.version})", style="bold")
    out.print(f"{plain(pack.description)}\n{pack.folder}\n")
    out.print("Always said:", style="bold")
    out.print(f"  {plain(pack.fixed.text)}")
    for argument in pack.arguments:
        left_out = "must be given" if argument.is_required else f"left out: {argument.default}"
        own = ", or your own words" if argument.free_text else ""
        out.print(
            f"\n{argument.name}: {plain(argument.description)} ({left_out}{own})", style="bold"
        )
        width = max(map(len, argument.choices), default=0)
        for choice, text in argument.choices.items():
            out.print(f"  {choice:<{width}}  {plain(text.text) or NOTHING}")
    if pack.forbidden:
        out.print("\nForbidden:", style="bold")
    for row in pack.forbidden:
        out.print(f"  {row.pattern}: {plain(row.reason)}")


# --- making ------------------------------------------------------------------------------------


def print_checks(settings: Settings, folder: Path | None, *, as_json: bool) -> None:
    """Check packs thoroughly and print every problem.

    Raises:
        UnknownPackError: there is no pack.
        typer.Exit: one cannot be used.
    """
    models = known_models(open_registry(settings))
    folders = _all_folders(settings) if folder is None else [_folder_of(settings, folder)]
    readings = [one for place in folders for one in check_packs(place, models=models)]
    if as_json:
        print_json({"packs": [_reading_as_json(reading) for reading in readings]})
    else:
        _print_problems(readings)
        wrong = sum(has_errors(reading.problems) for reading in readings)
        found = sum(len(reading.problems) for reading in readings)
        console().print(
            f"{_count(len(readings), 'pack')} checked, {wrong} cannot be used, "
            f"{_count(found, 'problem')}.",
            style="red" if wrong else "green",
        )
    if any(has_errors(reading.problems) for reading in readings):
        raise typer.Exit(EXIT_ENGINE)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _folder_of(settings: Settings, asked: Path) -> Path:
    """Return the folder that is meant: as it was given, or a pack by its name alone."""
    if asked.is_dir() or len(asked.parts) != 1:
        return asked
    for root in (settings.paths.packs, settings.packs_dir):
        if (root / asked).is_dir():
            return root / asked
    names = [reading.name for reading in library_of(settings).readings()]
    raise UnknownPackError(
        f"There is neither a folder nor a pack '{asked}'.",
        nearest(str(asked), names, what="Packs"),
    )


def _all_folders(settings: Settings) -> list[Path]:
    own = settings.paths.packs
    return [settings.packs_dir, *([own] if pack_folders(own) else [])]


def _print_problems(readings: Iterable[PackReading], indent: str = "") -> None:
    out = console()
    for reading in readings:
        for problem in reading.problems:
            style = "red" if problem.severity == "error" else "yellow"
            out.print(f"{indent}{problem}", style=style)


def make_pack(settings: Settings, name: str, folder: Path | None) -> None:
    """Write a new pack and say what to do with it.

    Raises:
        InvalidRequestError: the name cannot be one, or is taken.
        StorageError: the disk refuses.
    """
    made = skeleton(name, folder or settings.paths.packs)
    command = command_path("flux-mcp")
    out = console()
    out.print(str(made), style="bold green")
    out.print("Change its texts, then:")
    out.print(f"  {command} packs check {made}")
    if folder is None:
        out.print(f"  {command} packs compose {name}")
    else:
        out.print(f"It is used once it lies in {settings.paths.packs}.")
