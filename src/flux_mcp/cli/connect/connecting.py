"""One call of `flux-mcp connect CLIENT`: from the flags to what was found, shown and done."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flux_mcp.cli.connect import places
from flux_mcp.cli.connect.changes import Change, adding, read_document, removing, status_of
from flux_mcp.cli.connect.clients import Client, Scope
from flux_mcp.cli.connect.entries import (
    COMMAND,
    MASK,
    TOKEN_VARIABLE,
    Launch,
    http_entry,
    is_http,
    stdio_entry,
)
from flux_mcp.cli.connect.files import ClientFile
from flux_mcp.errors import (
    EntryConflictError,
    FluxMcpError,
    InvalidClientFileError,
    InvalidRequestError,
    UnsupportedOptionError,
)
from flux_mcp.server.transports.tokens import owner_token, token_file
from flux_mcp.settings.environment import xdg_folder
from flux_mcp.settings.files import user_config_file, values_in_environment
from flux_mcp.settings.installation import command_file, default_data_dir
from flux_mcp.settings.settings import Settings

DEFAULT_NAME = "flux"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every client takes as a server's name, and what a TOML key is without quotes."""
NOT_FOR_ENTRIES = {"FLUX_MCP_CONFIG", "FLUX_MCP_DATA_DIR", TOKEN_VARIABLE}
"""The first two are named where they matter; over stdio nobody sends a token."""
_BEARER = re.compile(r"\bBearer [^\s\"'$<>]+", re.IGNORECASE)
"""A token as it stands in a header; not one that is named by a variable, or masked already."""

Task = Literal["show", "write", "remove"]


@dataclass(frozen=True)
class ConnectFlags:
    """What a person asked for.

    Attributes:
        name: Of the entry.
        scope: None: the client's usual one.
        file: Instead of the client's own.
        url: None: the client starts the server; else it calls the one there.
        token_in_file: Write the token itself into the entry.
        replace: Also an entry that is not the one we would write.
        pin_data_dir: Name the data folder in the entry even if it is the usual one.
        task: What to do.
    """

    name: str = DEFAULT_NAME
    scope: Scope | None = None
    file: Path | None = None
    url: str | None = None
    token_in_file: bool = False
    replace: bool = False
    pin_data_dir: bool = False
    task: Task = "show"


@dataclass(frozen=True)
class Outcome:
    """What was found and done.

    Attributes:
        client: The client.
        scope: Whose file it is; None if a person named it.
        file: The file; None where the client has none that we know.
        name: Of the entry.
        entry: As it is, or would be, in the file.
        launch: How the client starts this installation.
        change: What was done, or would be.
        done: Whether the file was written.
        backup: The file as it was before; None if there was none or nothing was written.
        secret: The token, which is masked wherever the entry is shown.
        not_named: Variables of settings that are set here, and that the entry does not hand on.
    """

    client: Client
    scope: Scope | None
    file: Path | None
    name: str
    entry: Mapping[str, Any]
    launch: Launch
    change: Change | None
    done: bool = False
    backup: Path | None = None
    secret: str | None = None
    not_named: tuple[str, ...] = ()

    def masked(self, text: str) -> str:
        """Return a text without the token, or any other that the file may hold."""
        if self.secret:
            text = text.replace(self.secret, MASK)
        return _BEARER.sub("Bearer <hidden>", text)


def connect(client: Client, settings: Settings, flags: ConnectFlags) -> Outcome:
    """Do what was asked for.

    Raises:
        RequestError: the flags or the file are wrong, or another entry is in the way.
        StorageError: the file cannot be read or written.
    """
    if not _NAME.fullmatch(flags.name):
        raise InvalidRequestError(
            f"'{flags.name}' is no name for a server.", "Use letters, digits, '-' and '_'."
        )
    launch = launch_of(settings, pin_data_dir=flags.pin_data_dir)
    not_named = () if flags.url is not None else _not_named(launch)
    secret = _secret(settings) if flags.token_in_file else None
    if flags.url is None:
        if flags.token_in_file:
            raise InvalidRequestError(
                "--token-in-file goes with --http.", "A server that a client starts needs no token."
            )
        entry = stdio_entry(client, flags.name, launch)
    else:
        _check_url(flags.url)
        entry = http_entry(client, flags.name, flags.url, secret)
    if client.is_printed and (flags.file is not None or flags.task != "show"):
        raise UnsupportedOptionError(
            f"{client.title}'s configuration cannot be edited without losing its layout.",
            f"'flux-mcp connect {client.id}' prints the entry: paste it by hand.",
        )
    scope = None if flags.file is not None else client.scope(flags.scope)
    file = flags.file or (places.config_file(client, scope) if scope else None)
    if file is None:
        if flags.task != "show":
            raise InvalidRequestError(
                f"There is no file we know for {client.title}.", "Name it with --file."
            )
        return Outcome(
            client, scope, None, flags.name, entry, launch, None, secret=secret, not_named=not_named
        )
    found = ClientFile.read(file)
    try:
        if flags.task == "remove":
            change = removing(client, found.text, flags.name, entry)
        else:
            change = adding(client, found.text, flags.name, entry)
    except (InvalidClientFileError, EntryConflictError) as error:
        raise type(error)(f"{file}: {error.message}", error.hint) from error
    in_the_way = change.status in {"differs", "foreign"} and not flags.replace
    if flags.task == "write" and in_the_way:
        raise EntryConflictError(
            f"{file} has another entry '{flags.name}'.",
            "Look at the difference without --write; then add --replace, or another --name.",
        )
    done = flags.task != "show" and change.changes
    backup = found.write(change.after) if done else None
    return Outcome(
        client, scope, file, flags.name, entry, launch, change, done, backup, secret, not_named
    )  # fmt: skip


def launch_of(settings: Settings, *, pin_data_dir: bool = False) -> Launch:
    """Return how this installation is started by a program that has no shell.

    It may not have the variables of one either: Codex hands on HOME, PATH and few others.
    """
    program = command_file(COMMAND)
    is_usual = settings.data_dir == default_data_dir() and not pin_data_dir
    env = {"FLUX_MCP_DATA_DIR": str(settings.data_dir)}
    if is_usual and not _moved("XDG_DATA_HOME", ".local/share"):
        env = {}
    users, folder = user_config_file(), _moved("XDG_CONFIG_HOME", ".config")
    if settings.config is None and users is not None and users.is_file() and folder is not None:
        env["XDG_CONFIG_HOME"] = str(folder)
    elif settings.config is not None and settings.config != Path(os.devnull):
        env["FLUX_MCP_CONFIG"] = str(settings.config)
    if program is not None:
        return Launch(str(program), env=env)
    return Launch(sys.executable, ("-m", "flux_mcp", "serve"), env)


def _not_named(launch: Launch) -> tuple[str, ...]:
    """Return the variables of settings that are set here and that the entry does not name."""
    named = {f"FLUX_MCP_{name.upper()}" for name in values_in_environment(Settings)}
    return tuple(sorted(named - set(launch.env) - NOT_FOR_ENTRIES))


def _moved(variable: str, usual: str) -> Path | None:
    """Return the folder of a variable of XDG, if it is another than the usual one below home."""
    folder = xdg_folder(variable)
    return None if folder is None or folder == Path.home() / usual else folder


def _secret(settings: Settings) -> str:
    token = owner_token(settings)
    if token is None:
        raise InvalidRequestError(
            "--token-in-file needs the token, and there is none yet.",
            f"Start the server over HTTP once, which makes {token_file(settings)}; or set "
            f"{TOKEN_VARIABLE} to a token the server admits.",
        )
    return token


def _check_url(url: str) -> None:
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
        raise InvalidRequestError(
            f"'{url}' is no address of a server.", "Write it as http://127.0.0.1:8421/mcp."
        )


@dataclass(frozen=True)
class ClientFinding:
    """One line of the list of clients.

    Attributes:
        client: The client.
        scope: Whose file.
        file: The file; None if we know of none on this platform.
        installed: Whether the client seems to be here.
        status: How its entry stands to ours; None if the file cannot be read.
        problem: Why not.
    """

    client: Client
    scope: Scope
    file: Path | None
    installed: bool
    status: str | None
    problem: str = ""


def survey(clients: tuple[Client, ...], settings: Settings, name: str) -> list[ClientFinding]:
    """Look at every client's file; those of the project only where they are."""
    launch = launch_of(settings)
    found: list[ClientFinding] = []
    for client in clients:
        for scope in client.scopes:
            one = _look(client, scope, launch, name)
            is_usual = scope == client.scopes[0]
            # In one's home, the folder's file may be the person's own.
            if is_usual or (_is_there(one) and one.file != found[-1].file):
                found.append(one)
    return found


def _is_there(one: ClientFinding) -> bool:
    return one.file is not None and one.file.exists()


def _look(client: Client, scope: Scope, launch: Launch, name: str) -> ClientFinding:
    file = None
    installed = False
    try:
        file = places.config_file(client, scope)
        installed = places.seems_installed(file, places.client_folders())
        text = ClientFile.read(file).text
        entries = read_document(text, client.key, client.format).entries
        if name not in entries:
            return ClientFinding(client, scope, file, installed, "absent")
        status = status_of(entries[name], _like(client, name, launch, entries[name]))
        return ClientFinding(client, scope, file, installed, status)
    except FluxMcpError as error:
        return ClientFinding(client, scope, file, installed, None, error.message)


def _like(client: Client, name: str, launch: Launch, found: Any) -> dict[str, Any]:
    """Return the entry we would write in the place of one that was found."""
    url = (
        next((found.get(key) for key in ("url", "httpUrl", "serverUrl") if key in found), None)
        if isinstance(found, dict) and is_http(found)
        else None
    )
    if isinstance(url, str) and client.token is not None and client.http is not None:
        return http_entry(client, name, url, None)
    return stdio_entry(client, name, launch)
