"""What a caller with a named token is told: no path of this machine, nothing to be done on it.

Errors, notices and hints are written for the owner, and name files, folders and commands where that
helps. Every answer to anybody else passes through `ServerPaths` on its way out, whatever made it:
folders that are known are named instead ("<data folder>"), any other absolute path becomes
"<path>". Hints and notices go through `for_others` before: a caller on another machine is told
which of it only the owner can do.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings

_ANY_PATH = re.compile(
    # Two names at least, and no part of a URI, a date or a choice of words (red/green/blue).
    r"(?<![\w/:.<>-])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"`<>|,;()\[\]{}]+){2,}[/\\]?"
)
_OF_THE_CALLER = frozenset({"prompt", "negative_prompt", "query", "session", "idempotency_key"})
"""Keys of what the caller wrote: only folders of ours are hidden in it."""
_AS_IT_IS = frozenset({"data", "blob", "sha256", "pixels_sha256", "uri", "thumbnail_uri", "url"})
_PATH_KEY = "path"
_SENTENCE_END = re.compile(r"(?<=[.:;]) (?=[A-Z])")
_ON_THIS_MACHINE = re.compile(
    rf"\bRun:|\bflux-mcp\b|\bpip install\b|\bserver's log\b|\b[Ss]etting\b|{_ANY_PATH.pattern}"
)
FOR_THE_OWNER = "For whoever runs this server:"


def for_others(advice: str) -> str:
    """Return a hint or notice for a caller on another machine.

    Args:
        advice: Sentences; the first that names a command, a setting or a path of this machine, and
            those after it, are for its owner.
    """
    sentences = _SENTENCE_END.split(advice)
    for number, sentence in enumerate(sentences):
        if _ON_THIS_MACHINE.search(sentence):
            ours = " ".join([FOR_THE_OWNER, *sentences[number:]])
            return " ".join([*sentences[:number], ours])
    return advice


class ServerPaths:
    """What is hidden.

    Args:
        folders: Paths with what is said instead.
    """

    def __init__(self, folders: Mapping[Path, str]) -> None:
        # The longest first: the data folder is in the home.
        found = {str(path): name for path, name in folders.items() if len(path.parts) > 1}
        self._names = dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @classmethod
    def of(cls, settings: Settings) -> "ServerPaths":
        """Return those of a server."""
        named: list[tuple[Path | None, str]] = [
            (settings.data_dir, "<data folder>"),
            (settings.weights_dir, "<weights folder>"),
            (settings.packs_dir, "<packs folder>"),
            (settings.models_file, "<models file>"),
            (settings.token_file, "<token file>"),
            (settings.config, "<configuration file>"),
            *((folder, "<allowed folder>") for folder in settings.allowed_dirs),
            (PACKAGE_DIR, "<package>"),
            (Path(sys.prefix), "<python>"),
            (Path(sys.base_prefix), "<python>"),
            (Path(tempfile.gettempdir()), "<temporary folder>"),
        ]
        folders: dict[Path, str] = {}
        for path, name in named:
            if path is not None:
                folders.setdefault(path, name)
                folders.setdefault(path.resolve(), name)
        return cls(folders)

    def hidden_in(self, text: str, *, by_caller: bool = False) -> str:
        """Return a text without paths.

        Args:
            text: What would be said.
            by_caller: Whether the caller wrote it: then other paths in it are its own.
        """
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text if by_caller else _ANY_PATH.sub("<path>", text)

    def hidden(self, value: Any, key: str = "") -> Any:
        """Return a result without paths: models, dictionaries, lists and texts, all the way down.

        Args:
            value: What would be answered.
            key: Under which it stands.
        """
        if isinstance(value, str):
            return self._hidden_text(value, key)
        if isinstance(value, BaseModel):
            parts = {name: getattr(value, name) for name in value.model_fields_set}
            fresh = {name: self.hidden(part, name) for name, part in parts.items()}
            return value.model_copy(update=fresh)
        if isinstance(value, dict):
            return {name: self.hidden(part, str(name)) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.hidden(part, key) for part in value)
        return value

    def _hidden_text(self, text: str, key: str) -> str:
        if key in _AS_IT_IS:
            return text
        hidden = self.hidden_in(text, by_caller=key in _OF_THE_CALLER)
        return "" if key == _PATH_KEY and hidden != text else hidden

    def hidden_error(self, error: MCPError) -> MCPError:
        """Return an error without paths."""
        data = self.hidden(error.data)
        return MCPError(code=error.code, message=self.hidden_in(error.message), data=data)
