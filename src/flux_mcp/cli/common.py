"""What every command shares: flags, settings from flags, an open service, errors, output."""

import json
import sys
import textwrap
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flux_mcp.cli.interrupts import EXIT_INTERRUPTED, interruptible
from flux_mcp.errors import (
    CapacityError,
    FluxMcpError,
    InvalidRequestError,
    RequestError,
    SettingsFileError,
    UnknownImageError,
    UnknownJobError,
)
from flux_mcp.settings.environment import has_width

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from flux_mcp.models.registry import Kind
    from flux_mcp.observability.logs import LogFormat
    from flux_mcp.service.service import Service
    from flux_mcp.settings.settings import Settings

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Gallery, queue, images and weights. Else FLUX_MCP_DATA_DIR, else as the user's "
        "config.toml says, else data/ in a checkout, else the user's data folder.",
        show_default=False,
    ),
]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The configuration file, and no other. Else FLUX_MCP_CONFIG, else config.toml in the "
        "data folder and in the user's folder for configuration.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

HELP_FLAGS = {"help_option_names": ["-h", "--help"]}
EXIT_ENGINE, EXIT_REQUEST, EXIT_BUSY = 1, 2, 3
STDIN = "-"
"""Stands for standard input wherever a prompt, a text or an id is an argument."""
MOST_READ_BYTES = 2**20
WIDE = 160
"""Columns where nobody looks at a terminal: a file or a pipe has room for whole prompts."""
LEAST_ROOM = 8
"""Columns that a cut text keeps, however narrow the terminal is."""
_HINTS: dict[type[FluxMcpError], str] = {
    # The hints of these name MCP tools.
    UnknownJobError: "'flux-mcp jobs list --all' shows the jobs there are.",
    UnknownImageError: "'flux-mcp gallery search' shows the images there are.",
}


class ListingGroup(TyperGroup):
    """Commands, each in its help with the whole of its first paragraph."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the flags of the group itself; one that is not given is False.

        Typer's own (`--help`, completion) are None then, and to find that None is no bool typer
        imports pydantic, which takes as long as the rest of a help.
        """
        params = super().get_params(ctx)
        for flag in params:
            if flag.default is None:
                flag.default = False
        return params

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer calls it
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, " ".join((command.help or "").partition("\n\n")[0].split()))
                    for name, command in self.commands.items()
                ]
            )


def new_app(*, is_group: bool = False) -> typer.Typer:
    """Return the `app` of a command's module: one command, or a group that prints its help."""
    return typer.Typer(
        cls=ListingGroup,
        no_args_is_help=is_group,
        context_settings=HELP_FLAGS,
        add_completion=False,
    )


# --- settings and service ----------------------------------------------------------------------


def read_settings(data_dir: Path | None, **flags: Any) -> "Settings":
    """Return the settings of this command: flags over environment over files over defaults.

    Raises:
        typer.Exit: they cannot be used; it has been said why and where.
    """
    # Half of the time that `--help` may take.
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from flux_mcp.settings.settings import Settings  # noqa: PLC0415
    from flux_mcp.settings.sources import problems_of  # noqa: PLC0415

    given = given_flags(data_dir, **flags)
    try:
        return Settings(**given)
    except (ValidationError, SettingsError, SettingsFileError) as error:
        problems = list(problems_of(error, given))
        if wants_json():
            print_error(SettingsFileError.code, "\n".join(problems), "")
        for problem in problems:
            complain(problem)
        raise typer.Exit(EXIT_REQUEST) from error


def given_flags(data_dir: Path | None, **flags: Any) -> dict[str, Any]:
    """Return the flags that were given, by the name of their setting."""
    everything = {"data_dir": data_dir, **flags}
    return {name: value for name, value in everything.items() if value is not None}


def set_up_logging(level: str, log_format: "LogFormat" = "human") -> None:
    """Send the log to stderr: ours from `level` on, that of libraries from warnings on."""
    from flux_mcp.observability import logs  # noqa: PLC0415 - as above

    logs.set_up(level, log_format)


@asynccontextmanager
async def opened(settings: "Settings", *, executes: bool) -> AsyncIterator["Service"]:
    """Give an open service and close it in order."""
    # Half a second, which commands without a service need not wait for.
    from flux_mcp.service.service import Service  # noqa: PLC0415

    service = Service(settings, executes=executes)
    try:
        await service.open()
        yield service
    finally:
        await service.close()


# --- running -----------------------------------------------------------------------------------


def run(
    work: Coroutine[Any, Any, None], when_interrupted: Callable[[], str] = lambda: "Stopping."
) -> None:
    """Run a command's work; our errors become a sentence on stderr and an exit code.

    Args:
        work: Cancelled by Ctrl-C or SIGTERM.
        when_interrupted: Returns what is said at once then: what becomes of what it was doing.
    """
    import asyncio  # noqa: PLC0415 - as above

    run_now(lambda: asyncio.run(interruptible(work, lambda: complain(when_interrupted()))))


def run_now(work: Callable[[], None]) -> None:
    """Do the same for work that waits for nothing."""
    try:
        work()
    except (FluxMcpError, KeyboardInterrupt) as error:
        raise typer.Exit(report_error(error)) from error


def report_error(error: FluxMcpError | KeyboardInterrupt, **more: Any) -> int:
    """Say on stderr, and with --json on stdout as well, what ended a command.

    Args:
        error: What ended it.
        more: What the JSON document holds besides.

    Returns:
        The exit code.
    """
    if isinstance(error, KeyboardInterrupt):
        if wants_json():
            print_error("interrupted", "The command was interrupted.", "", **more)
        return EXIT_INTERRUPTED
    hint = _HINTS.get(type(error), error.hint)
    if wants_json():
        print_error(error.code, error.message, hint, **more)
    complain(str(type(error)(error.message, hint)))
    if isinstance(error, RequestError):
        return EXIT_REQUEST
    return EXIT_BUSY if isinstance(error, CapacityError) else EXIT_ENGINE


def agree(question: str) -> None:
    """Ask on a terminal; where nobody can answer, --yes must have been given.

    Raises:
        InvalidRequestError: nobody can answer.
        typer.Abort: the answer was no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequestError(
            f"{question} Nobody can be asked here.", "Give --yes to do it without being asked."
        )
    typer.confirm(question, abort=True, err=True)


# --- standard input ----------------------------------------------------------------------------


def given_or_read(value: str, what: str) -> str:
    """Return an argument, or for `-` what standard input holds, without the space around it.

    Raises:
        InvalidRequestError: that is not text, or more than anybody writes.
    """
    if value != STDIN:
        return value
    raw = sys.stdin.buffer.read(MOST_READ_BYTES + 1)
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"Standard input is no text, and {what} is.", "Write it in UTF-8."
        ) from error
    if len(raw) > MOST_READ_BYTES:
        raise InvalidRequestError(
            f"Standard input has more than {MOST_READ_BYTES} bytes.", f"It is read as {what}."
        )
    return text


def one_given_or_read(value: str, what: str) -> str:
    """Return an id or a name; for `-` the only one on standard input.

    Raises:
        InvalidRequestError: there is none, or there are several.
    """
    found = all_given_or_read((value,), what)
    if len(found) != 1:
        raise InvalidRequestError(
            f"Standard input has {len(found)} words.", f"This command takes one: {what}."
        )
    return found[0]


def all_given_or_read(values: Sequence[str], what: str) -> tuple[str, ...]:
    """Return ids or names; a `-` stands for all those on standard input, apart by space."""
    return tuple(
        word
        for value in values
        for word in (given_or_read(value, what).split() if value == STDIN else (value,))
    )


def read_kind(flag: str, name: str) -> "Kind":
    """Return the kind that a flag names.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    from flux_mcp.models.registry import KIND_NAMES, kind_of_name  # noqa: PLC0415 - as above

    kind = kind_of_name(name)
    if kind is None:
        raise InvalidRequestError(
            f"{flag}: '{plain(name)[:40]}' is not known.", f"Say {', '.join(KIND_NAMES.values())}."
        )
    return kind


# --- output ------------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> "Console":
    """Return a console that prints what it is given: no markup, no emoji codes, no cut lines."""
    from rich.console import Console  # noqa: PLC0415 - as above

    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or has_width() else WIDE
    return Console(
        stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=wide
    )


def complain(text: str) -> None:
    """Say on stderr what is wrong."""
    console(stderr=True).print(plain(text), style="red")


def plain(text: str) -> str:
    """Return stored text as one line without characters that a terminal would obey."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: int = 1,
    cut_last: bool = False,
    right: Collection[str] = (),
    styles: Sequence[str] = (),
    to_stderr: bool = False,
) -> None:
    """Print columns as wide as they need, or where there is no room for them, a block for each row.

    Not Rich's table, which takes from every column alike when there is little room: ids and words
    are never cut or broken, as the next command needs them.

    Args:
        header: The names of the columns.
        rows: The cells.
        keys: How many of the first columns say what a row is about.
        cut_last: The last column has long prose, and is cut where the terminal ends.
        right: Columns of numbers.
        styles: One for each row.
        to_stderr: Where it is not the result.
    """
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 - as above

    out = console(stderr=to_stderr)
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    room = out.width - sum(widths[:-1]) - 2 * (len(widths) - 1)
    styled = zip(rows, styles or [""] * len(rows), strict=True)
    if room < (LEAST_ROOM if cut_last else widths[-1]):
        _print_blocks(out, header, styled, keys, cut_last=cut_last)
        return
    for row, style in ((header, "bold"), *styled):
        cells = [
            cell.rjust(width) if name in right else set_cell_size(cell, width)
            for name, cell, width in zip(header, row[:-1], widths, strict=False)
        ]
        last = cut_to(room, row[-1]) if cut_last else row[-1]
        if header[-1] in right:
            last = last.rjust(widths[-1])
        out.print("  ".join([*cells, last]).rstrip(), style=style or None)


def _print_blocks(
    out: "Console",
    header: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str]],
    keys: int,
    *,
    cut_last: bool,
) -> None:
    """Print what each row is about, and below it a line for each of the other cells."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 - as above

    width = max(map(cell_len, header[keys:]), default=0)
    room = out.width - width - 4
    for row, style in rows:
        out.print(" ".join(row[:keys]), style=style or "bold")
        for name, cell in zip(header[keys:], row[keys:], strict=True):
            if not cell:
                continue
            shown = cut_to(room, cell) if cut_last and name == header[-1] else cell
            lines = textwrap.wrap(
                shown, max(LEAST_ROOM, room), break_long_words=False, break_on_hyphens=False
            )
            for number, line in enumerate(lines):
                label = name if number == 0 else ""
                out.print(f"  {set_cell_size(label, width)}  {line}")


def cut_to(columns: int, text: str) -> str:
    """Return a text cut to so many columns, but to no fewer than `LEAST_ROOM`."""
    from rich.text import Text  # noqa: PLC0415 - as above

    cut = Text(text)
    cut.truncate(max(LEAST_ROOM, columns), overflow="ellipsis")
    return cut.plain


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line; long values stay whole, to be copied."""
    width = max(len(name) for name in facts)
    out = console()
    for name, value in facts.items():
        if value not in (None, [], {}, ()):
            out.print(f"{name:<{width}}  {plain(_as_text(value))}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    return str(value)


def wants_json() -> bool:
    """Return whether this command was called with --json, however far it has been read."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def print_error(code: str, message: str, hint: str, **more: Any) -> None:
    """Print the one document of a command that failed: `{"error": {code, message, hint}}`."""
    print_json({"error": {"code": code, "message": message, "hint": hint}, **more})


def print_json(value: "BaseModel | dict[str, Any]") -> None:
    """Print a value for programs: exactly the structured content the tools return.

    Once in each command. Lists are values of an object, by the name of what they list.
    """
    if not isinstance(value, dict):
        value = value.model_dump(mode="json")
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8, indent=2) + "\n")
    # Here, where a reader that has gone away is dealt with, not when the process ends.
    sys.stdout.flush()
