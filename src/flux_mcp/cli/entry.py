"""Where the process starts: `serve` at once, every other command through the table in app.py.

An MCP client waits for the list of tools each time it starts a server, and the libraries that read
flags and print help would be a good part of that time. So a plain `flux-mcp serve --flag value ...`
is read here, without them. Whatever is not plain (help, a mistake, a value that a shell would have
expanded) and settings that cannot be used go to serve.py, which has the same flags and says what is
wrong.
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from flux_mcp.settings.environment import forget_unusable_width, look_for_no_plugins

if TYPE_CHECKING:
    from flux_mcp.server.transports.stdout import StdoutGuard
    from flux_mcp.settings.settings import Settings

VALUES = ("data_dir", "config", "transport", "host", "port", "log_level")
"""Settings that a flag of `serve` gives a value, as `--data-dir`."""
SWITCHES = ("preload", "sse", "loopback_without_token")
"""Settings that a flag of `serve` switches on. A test compares both with the flags of serve.py."""
_NOT_PLAIN = frozenset("~$%*?[")
"""What stands for something else: typer expands it on Windows."""

COLLECT_EVERY = 100_000
"""New objects after which a command looks for garbage, instead of Python's 700."""


def main() -> None:
    """Run the command line."""
    open_missing_streams()
    # To reconfigure is to flush: what a library printed must not come before the protocol.
    is_serving = sys.argv[1:2] == ["serve"]
    for stream in (sys.stderr,) if is_serving else (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A prompt may have characters that the terminal's encoding does not.
            stream.reconfigure(errors="backslashreplace")
    forget_unusable_width()
    flags = plain_serve_flags(sys.argv[1:])
    if flags is None or not _serve_at_once(flags):
        # Imports leave no garbage: looking for it would cost a list a tenth of its time, and a
        # fifth when the process ends and all memory goes anyway.
        gc.set_threshold(COLLECT_EVERY)
        atexit.register(gc.freeze)
        look_for_no_plugins()
        from flux_mcp.cli.app import run_command  # noqa: PLC0415 - typer and rich

        run_command()


def open_missing_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Python leaves `sys.stderr` as `None` then, and the next file that is opened gets its number: a
    library that writes to stderr would write into the database.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        with suppress(OSError):
            os.fstat(descriptor)
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional only
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays


def plain_serve_flags(words: Sequence[str]) -> dict[str, Any] | None:
    """Return the settings that a plain call of `serve` gives, by name.

    Args:
        words: What follows the name of the program.

    Returns:
        None where it is another command, or needs more than reading: it is not plain, or wrong.
    """
    if not words or words[0] != "serve":
        return None
    given: dict[str, Any] = {}
    left = list(words[1:])
    while left:
        flag, sign, value = left.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag != f"--{name.replace('_', '-')}" or name in given:
            return None
        if name in SWITCHES and not sign:
            given[name] = True
            continue
        if not sign and left:
            value = left.pop(0)
        if name not in VALUES or not value or value[0] == "-" or _NOT_PLAIN & set(value):
            return None
        if name == "port" and not (value.isascii() and value.isdecimal()):
            return None
        given[name] = int(value) if name == "port" else value
    return given


def _serve_at_once(flags: dict[str, Any]) -> bool:
    """Serve; False where the settings cannot be used, and nothing was done or said."""
    # Not for `--help`: settings take three times as long to import as the rest of it.
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from flux_mcp.errors import FluxMcpError, SettingsFileError  # noqa: PLC0415
    from flux_mcp.server.transports.stdout import StdoutGuard  # noqa: PLC0415
    from flux_mcp.settings.settings import Settings  # noqa: PLC0415

    guard = StdoutGuard()
    try:
        settings = Settings(**flags)
    except (ValidationError, SettingsError, SettingsFileError):
        guard.stderr.close()
        return False
    try:
        serve_with(settings, guard)
    except (FluxMcpError, KeyboardInterrupt) as error:
        from flux_mcp.cli.common import report_error  # noqa: PLC0415 - typer and rich

        sys.exit(report_error(error))
    return True


def serve_with(settings: "Settings", guard: "StdoutGuard") -> None:
    """Serve MCP until the client is gone or a signal comes.

    Args:
        settings: What to serve, and how.
        guard: Keeps everything but the protocol off stdout, from before the imports below.

    Raises:
        FluxMcpError: traces cannot be sent, or the address cannot be listened on.
    """
    from flux_mcp.observability import logs  # noqa: PLC0415

    logs.set_up(settings.log_level, settings.log_format, is_terminal=guard.stderr.is_terminal)
    # Behind the guard: what an import prints would break the protocol.
    from flux_mcp.observability.tracing import start_tracing  # noqa: PLC0415

    start_tracing(settings)
    if settings.transport != "stdio":
        from flux_mcp.server.transports.http import serve_http  # noqa: PLC0415
        from flux_mcp.service.service import Service  # noqa: PLC0415

        serve_http(Service(settings))
        return
    from flux_mcp.server.transports.stdio import serve_stdio  # noqa: PLC0415

    if sys.stdin.isatty():
        sys.stderr.write(
            "Speaking MCP on stdin and stdout: an MCP client starts this (see mcp.json), "
            "'flux-mcp demo' shows it at work. Ctrl-C ends it.\n"
        )
    serve_stdio(settings, guard)
