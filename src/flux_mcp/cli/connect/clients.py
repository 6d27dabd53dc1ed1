"""The MCP clients that can be connected, as rows read from clients.toml; pure."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError

CLIENTS_TOML = Path(__file__).with_name("clients.toml")
UNKNOWN_TIMEOUT = "not known to us; the shortest of others is 5 seconds, many have 60"

Scope = Literal["user", "project"]
Format = Literal["json", "jsonc", "toml", "yaml", "json-list"]
PRINTED: tuple[Format, ...] = ("yaml", "json-list")
"""Documents that are shown, to be pasted by a person, and never edited."""
Platform = Literal["any", "linux", "darwin", "win32"]
Template = dict[str, Any]
"""An entry whose strings may be placeholders; clients.toml lists them."""


class _ClientRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClientVariable(_ClientRow):
    """An environment variable of the client that moves the user's file.

    Attributes:
        name: Its name.
        file: Where the file is then; `{value}` is the variable's value.
    """

    name: str
    file: str


class Client(_ClientRow):
    """One client; the fields are explained at the top of clients.toml."""

    id: str
    title: str
    format: Format
    key: str
    user: dict[Platform, tuple[str, ...]] | None = None
    project: dict[Platform, tuple[str, ...]] | None = None
    variable: ClientVariable | None = None
    stdio: Template | None = None
    http: Template | None = None
    http_in_clear: Template | None = None
    token: str | None = None
    no_stdio: str = ""
    no_http: str = ""
    no_token: str = ""
    own_command: tuple[str, ...] = ()
    after: str
    see: str
    timeout: str = UNKNOWN_TIMEOUT
    logs: str
    tried: str = ""
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...]

    @model_validator(mode="after")
    def _says_why_not(self) -> Self:
        """What a client cannot do has its reason, and what it can has none."""
        if (self.stdio is None) != bool(self.no_stdio):
            raise ValueError(f"{self.id}: give stdio or no_stdio.")
        if (self.http is None) != bool(self.no_http):
            raise ValueError(f"{self.id}: give http or no_http.")
        if self.is_printed and self.scopes:
            raise ValueError(f"{self.id}: files of this format are not edited.")
        if self.http is not None and (self.token is None) != bool(self.no_token):
            raise ValueError(f"{self.id}: give token or no_token.")
        return self

    @property
    def is_printed(self) -> bool:
        """Whether its entry is only shown: a person pastes it where the client keeps it."""
        return self.format in PRINTED

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes this client has a file for that we edit, the usual one first."""
        user: tuple[Scope, ...] = ("user",) if self.user else ()
        return (*user, "project") if self.project else user

    def scope(self, asked: Scope | None) -> Scope | None:
        """Return the asked scope, or the usual one; None where the client has no file we know.

        Raises:
            UnsupportedOptionError: the client has no such scope.
        """
        if asked is not None and asked not in self.scopes:
            known = " and ".join(self.scopes) or "no scope of its own"
            raise UnsupportedOptionError(
                f"{self.title} has no {asked} scope that we know; it has {known}.",
                "Leave out --scope, or name the file with --file.",
            )
        return asked or next(iter(self.scopes), None)


def load_clients(path: Path = CLIENTS_TOML) -> tuple[Client, ...]:
    """Read and check clients.toml."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["client"]
    return tuple(Client.model_validate(row) for row in rows)


def find_client(asked: str, clients: tuple[Client, ...]) -> Client:
    """Return the client with this id.

    Raises:
        InvalidRequestError: there is none; the nearest one is named.
    """
    by_id = {client.id: client for client in clients}
    if asked in by_id:
        return by_id[asked]
    close = get_close_matches(asked, by_id, n=1)
    meant = f"Did you mean '{close[0]}'? " if close else ""
    raise InvalidRequestError(
        f"There is no client '{asked}'.",
        f"{meant}Known: {', '.join(by_id)}. 'generic' prints an entry for any other.",
    )
