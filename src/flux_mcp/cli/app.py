"""The commands of `flux-mcp`: a table, and a group that imports a command when it is called."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from flux_mcp import __version__
from flux_mcp.cli.common import HELP_FLAGS, ListingGroup, complain, print_error, wants_json
from flux_mcp.cli.interrupts import ended_by_signals

_HELP = (
    "FLUX on your own GPU, for every MCP client.\n\n"
    "Start with 'flux-mcp doctor' to see what is installed and what to do next, or with "
    "'flux-mcp demo' to see images made."
)


WIDEST_HELP = 100
"""Columns; longer lines are hard to read."""


@dataclass(frozen=True)
class CommandRow:
    """One command, or group of commands.

    Attributes:
        module: Its module.
        about: Its line in `flux-mcp --help`, and the first paragraph of its own help.
        app: What the module has it as, a `typer.Typer`.
    """

    module: str
    about: str
    app: str = "app"


COMMANDS: Mapping[str, CommandRow] = {
    "serve": CommandRow(
        "flux_mcp.cli.commands.serve",
        "Serve MCP: over stdin and stdout for clients that start it, or over HTTP.",
    ),
    "generate": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Generate an image and wait for it. Ctrl-C cancels it.",
        "generate",
    ),
    "edit": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Change an image as an instruction says, and wait for it. Ctrl-C cancels it.",
        "edit",
    ),
    "fill": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Generate inside a mask and keep the rest. Ctrl-C cancels it.",
        "fill",
    ),
    "vary": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Generate something like one or several images. Ctrl-C cancels it.",
        "vary",
    ),
    "structure": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Generate an image that follows the edges of another. Ctrl-C cancels it.",
        "structure",
    ),
    "upscale": CommandRow(
        "flux_mcp.cli.commands.drawing",
        "Make an image 2 or 4 times as wide and high. Ctrl-C cancels it.",
        "upscale",
    ),
    "import": CommandRow(
        "flux_mcp.cli.commands.importing",
        "Bring images in, wherever they are, and print the ids that tools take.",
    ),
    "demo": CommandRow(
        "flux_mcp.cli.commands.demo",
        "Start the real server, call each tool that generates, and show the images.",
    ),
    "doctor": CommandRow(
        "flux_mcp.cli.commands.doctor",
        "Show GPU, memory, what fits in each quality, what is here, and what to do next.",
    ),
    "connect": CommandRow(
        "flux_mcp.cli.commands.connect",
        "Show an MCP client's entry for this server; write it, or take it out again.",
    ),
    "jobs": CommandRow("flux_mcp.cli.commands.jobs", "Look at the queue and cancel jobs."),
    "gallery": CommandRow("flux_mcp.cli.commands.gallery", "Find and show finished images."),
    "models": CommandRow(
        "flux_mcp.cli.commands.models", "See, plan, download, check, remove models."
    ),
    "loras": CommandRow("flux_mcp.cli.commands.loras", "Look at the LoRAs of the data folder."),
    "packs": CommandRow("flux_mcp.cli.commands.packs", "Use, audit, check and write prompt packs."),
}
"""Every command, in the order of `flux-mcp --help`."""


def run_command() -> None:
    """Run the command that the process was called with, and end the process."""
    with ended_by_signals():
        _root()()


def command_tree() -> TyperGroup:
    """Return every command with all of its flags, for programs that look through them."""
    tree = _root()
    tree.commands.update({name: load(name) for name in COMMANDS})
    return tree


def load(name: str) -> TyperCommand | TyperGroup:
    """Import a command, or group of commands, and return it."""
    row = COMMANDS[name]
    app: typer.Typer = getattr(import_module(row.module), row.app)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101 - typer makes no other
    command.name = name
    command.help = command.help or row.about  # a group says no more than its line
    _fit_help(command)
    return command


def _fit_help(command: TyperCommand | TyperGroup) -> None:
    """Have help and mistakes printed as plain text, as wide as the terminal.

    Without Rich's boxes: they cut the names of flags where there is little room, and take longer to
    import than everything else that `--help` needs.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST_HELP)
    command.rich_markup_mode = None
    # Click's mark for a paragraph whose lines stay as they are.
    command.help = re.sub(r"\n(?=Example: )", "\n\n\b\n", command.help or "") or None
    command.context_settings = {**command.context_settings, "terminal_width": width}
    for below in getattr(command, "commands", {}).values():
        _fit_help(below)


class _LateCommand(TyperCommand):
    """A command by its line of help; the command itself is imported when it is called."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Return a context of the command itself, which reads the flags and runs."""
        assert self.name is not None  # noqa: S101 - `_Root` gives each its name
        return load(self.name).make_context(*args, **more)


class _RootGroup(ListingGroup):
    """The commands of the table."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, row in COMMANDS.items():
            self.add_command(_LateCommand(name, help=row.about))

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command; with --json a mistake in its flags is a JSON document as well."""
        if not wants_json():
            return super().main(*args, **more)
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
        except typer.TyperException as error:
            hint = "--help after the command lists its flags."
            print_error("usage", error.format_message(), hint)
            complain(error.format_message())
            code = error.exit_code
        except typer.Abort:
            print_error("aborted", "The answer was no.", "")
            code = 1
        raise SystemExit(code if isinstance(code, int) else 0)


def _root() -> TyperGroup:
    app = typer.Typer(
        name="flux-mcp",
        cls=_RootGroup,
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=HELP_FLAGS,
    )
    app.callback()(_root_flags)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)  # noqa: S101 - it has a callback
    _fit_help(command)
    return command


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - typer calls it
    if is_asked:
        typer.echo(f"flux-mcp {__version__}")
        raise typer.Exit


def _root_flags(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
