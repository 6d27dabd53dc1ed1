"""What an entry says: how the client starts this server, or where it finds it; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from flux_mcp.cli.connect.clients import Client, Template
from flux_mcp.errors import UnsupportedOptionError

TOKEN_VARIABLE = "FLUX_MCP_TOKEN"  # noqa: S105  (the name of a variable, not a token)
DEFAULT_URL = "http://127.0.0.1:8421/mcp"
COMMAND = "flux-mcp"
MASK = f"<{TOKEN_VARIABLE}>"


@dataclass(frozen=True)
class Launch:
    """How this installation is started.

    Attributes:
        command: Absolute path of the program: clients start it without a shell or a PATH.
        args: What follows it.
        env: Variables it needs beside those it inherits.
    """

    command: str
    args: tuple[str, ...] = ("serve",)
    env: Mapping[str, str] = field(default_factory=dict)


def stdio_entry(client: Client, name: str, launch: Launch) -> dict[str, Any]:
    """Return the entry with which the client starts the server itself.

    Args:
        client: Whose entry it is.
        name: Of the server.
        launch: How it is started.

    Raises:
        UnsupportedOptionError: the client starts no servers.
    """
    if client.stdio is None:
        raise UnsupportedOptionError(
            f"{client.no_stdio}.", "Add --http, and run the server with 'flux-mcp serve'."
        )
    values = {
        "{name}": name,
        "{command}": launch.command,
        "{args}": list(launch.args),
        "{command_and_args}": [launch.command, *launch.args],
        "{env}": dict(launch.env),
    }
    return _filled(client.stdio, values)


def http_entry(client: Client, name: str, url: str, token: str | None) -> dict[str, Any]:
    """Return the entry with which the client calls a server that runs already.

    Args:
        client: Whose entry it is.
        name: Of the server.
        url: Of the server's `/mcp`.
        token: Is written into the entry as it is; None: the entry names the variable.

    Raises:
        UnsupportedOptionError: the client takes no URL, or no variable in a header.
    """
    if client.http is None:
        raise UnsupportedOptionError(
            f"{client.no_http}.",
            "Leave out --http: several clients that each start the server still share one queue.",
        )
    if token is None and client.token is None:
        raise UnsupportedOptionError(
            f"{client.no_token}.",
            "Add --token-in-file to write the token itself into the file, or leave out --http.",
        )
    template = client.http if token is None else client.http_in_clear or client.http
    shown = client.token if token is None else token
    values = {
        "{name}": name,
        "{url}": url,
        "{authorization}": f"Bearer {shown}",
        "{token}": shown,
        "{token_variable}": TOKEN_VARIABLE,
    }
    return _filled(template, values)


def _filled(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for name, value in template.items():
        if isinstance(value, dict):
            entry[name] = _filled(value, values)
        elif isinstance(value, list):
            entry[name] = [values.get(one, one) for one in value]
        elif value != "{env}" or values["{env}"]:
            entry[name] = values.get(value, value) if isinstance(value, str) else value
    return entry


def is_ours(entry: object) -> bool:
    """Tell whether an entry starts or calls a flux-mcp, be it another or an older one.

    An entry counts that starts `flux-mcp` or `python -m flux_mcp`, or names our token's variable
    or our port: enough to say so to a person, who decides with --replace.
    """
    if not isinstance(entry, dict):
        return False
    found = entry.get("command", "")
    # OpenCode has the program and its arguments in one list.
    command, *args = found if isinstance(found, list) and found else [found]
    names = {PurePosixPath(str(command)).name, PureWindowsPath(str(command)).name}
    if names & {COMMAND, f"{COMMAND}.exe"}:
        return True
    more = entry.get("args")
    args += more if isinstance(more, list) else []
    if "flux_mcp" in args or COMMAND in args:
        return True
    return "url" in {name.lower()[-3:] for name in entry} and (
        TOKEN_VARIABLE in str(entry) or DEFAULT_URL in entry.values()
    )


def is_http(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry calls a server instead of starting one."""
    return "command" not in entry and "cmd" not in entry  # Goose has the latter


def own_command(client: Client, scope: str, name: str, launch: Launch) -> tuple[str, ...]:
    """Return the words of the client's own command that adds the stdio entry; () if it has none."""
    flags = tuple(word for item in launch.env.items() for word in ("--env", f"{item[0]}={item[1]}"))
    several = {"{env}": flags, "{args}": launch.args}
    one = {"{scope}": scope, "{name}": name, "{command}": launch.command}
    return tuple(
        word for part in client.own_command for word in several.get(part, (one.get(part, part),))
    )
