"""Tokens: whose a bearer token is. Kept as hashes.

Read once, at the start of a server that listens. A file of tokens has one a line, `TOKEN` or
`NAME TOKEN`; empty lines and lines that begin with # are comments. What a named token made is seen
by that name alone (principals.py); a token without a name is this machine's owner.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from flux_mcp.errors import TokenFileError
from flux_mcp.principals import LOCAL
from flux_mcp.settings.settings import Settings

MIN_TOKEN_CHARACTERS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what a Bearer header can carry (RFC 6750, 2.1)
_NAME_AND_TOKEN = 2
_OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Tokens:
    """Says whose token it is.

    Args:
        principals: Tokens in clear with the principal of each; only their hashes are kept.
    """

    def __init__(self, principals: Mapping[str, str]) -> None:
        self._principals = {_hash(token): name for token, name in principals.items()}

    def principal_of(self, token: str) -> str | None:
        """Return whose token this is; `None` when it is nobody's.

        Every known token is compared, each in constant time: the time reveals nothing.
        """
        given, found = _hash(token), None
        for known, principal in self._principals.items():
            if hmac.compare_digest(given, known):
                found = principal
        return found


def load_tokens(settings: Settings) -> Tokens:
    """Return the tokens that open this server, and make the file of them if there is none yet.

    Raises:
        TokenFileError: the file cannot be read or written, others could read it, or a line of it is
            no token.
    """
    if settings.token is not None:
        return Tokens({settings.token.get_secret_value(): LOCAL})
    path = token_file(settings)
    _make(path)
    return Tokens(_parse(_read(path), path))


def owner_token(settings: Settings) -> str | None:
    """Return a token of this machine's owner; `None` if there is none, or no file of them yet.

    Raises:
        TokenFileError: the file cannot be read, or a line of it is no token.
    """
    if settings.token is not None:
        return settings.token.get_secret_value()
    path = token_file(settings)
    known = _parse(_read(path), path) if path.exists() else {}
    return next((token for token, name in known.items() if name == LOCAL), None)


def token_file(settings: Settings) -> Path:
    """Return where tokens are kept when no setting holds one."""
    return settings.token_file or settings.paths.tokens


def _hash(token: str) -> bytes:
    # A header may hold any byte; Starlette reads it as latin-1.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _make(path: Path) -> None:
    """Write a new token for this machine's owner, unless the file is there."""
    text = (
        "# Callers over HTTP send one of these: Authorization: Bearer TOKEN\n"
        "# 'NAME TOKEN' gives a caller its own jobs and images. Read at the start of a server.\n"
        f"{secrets.token_urlsafe(32)}\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY)
    except FileExistsError:
        return
    except OSError as error:
        raise TokenFileError(
            f"The token file {path} cannot be made: {error.strerror}.",
            "Make the folder writable, or name another file with the setting token_file.",
        ) from error
    with os.fdopen(number, "w", encoding="ascii") as file:
        file.write(text)


def _read(path: Path) -> str:
    try:
        if sys.platform != "win32" and path.stat().st_mode & _OTHERS:
            raise TokenFileError(
                f"Others can read the token file {path}.", f"Run: chmod 600 '{path}'."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(
            f"The token file {path} cannot be read: {error}.", "It is text, one token a line."
        ) from error


def _parse(text: str, path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, token = words if len(words) == _NAME_AND_TOKEN else (LOCAL, words[0])
        mistake = _mistake(words, name, token, found)
        if mistake:
            # The line itself is not shown: it may be a mistyped token.
            raise TokenFileError(f"{path}, line {number}: {mistake}", "Write: NAME TOKEN.")
        found[token] = name
    if not found:
        raise TokenFileError(
            f"The token file {path} holds no token.", "Delete it, and the next start makes one."
        )
    return found


def _mistake(words: list[str], name: str, token: str, found: Mapping[str, str]) -> str | None:
    if len(words) > _NAME_AND_TOKEN:
        return "there are more than two words."
    if not _NAME.fullmatch(name):
        return "the name may hold letters, digits, '.', '_' and '-', at most 64."
    if len(token) < MIN_TOKEN_CHARACTERS:
        return f"the token is shorter than {MIN_TOKEN_CHARACTERS} characters."
    if not _TOKEN.fullmatch(token):
        return "the token holds characters that a header cannot carry."
    return "the token stands there twice." if token in found else None
