"""`{name}` inside a text: found, and filled. Pure.

`{{name}}` stands for the braces themselves. Braces around anything but one word are left alone, so
a prompt may be JSON.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flux_mcp.errors import InvalidRequestError, PromptTooLongError

_PLACEHOLDER = re.compile(r"\{\{(?P<literal>[\w -]+)\}\}|\{(?P<name>[\w -]+)\}")
_MAX_FILLED_CHARACTERS = 20_000
"""A text that grows beyond this is given up: ten times what a prompt may have."""


@dataclass(frozen=True)
class Placeholder:
    """A name in braces, as it was written, and where."""

    name: str
    start: int


def placeholders(text: str) -> Iterator[Placeholder]:
    """Yield every `{name}` of a text in order; names may be misspelt."""
    for found in _PLACEHOLDER.finditer(text):
        if found["name"] is not None:
            yield Placeholder(found["name"], found.start())


def names_in(text: str) -> frozenset[str]:
    """Return the names a text has placeholders for."""
    return frozenset(placeholder.name for placeholder in placeholders(text))


class Filler:
    """Fills placeholders from named texts, each of which may have placeholders too.

    Args:
        text_of: The text for a name. Raises `RequestError` for a name there is nothing for.
    """

    def __init__(self, text_of: Callable[[str], str]) -> None:
        self._text_of = text_of
        self._filled: dict[str, str] = {}
        self._open: list[str] = []

    def fill(self, text: str) -> str:
        """Return the text with every placeholder filled.

        Raises:
            RequestError: a placeholder there is nothing for.
            InvalidRequestError: texts that ask for each other in a circle.
            PromptTooLongError: a text that grows far beyond any prompt.
        """
        filled = _PLACEHOLDER.sub(self._replace, text)
        if len(filled) > _MAX_FILLED_CHARACTERS:
            raise PromptTooLongError(
                f"The prompt grows beyond {_MAX_FILLED_CHARACTERS} characters when its "
                "placeholders are filled.",
                "Say it shorter, or name fewer placeholders.",
            )
        return filled

    def _replace(self, found: re.Match[str]) -> str:
        if found["literal"] is not None:
            return f"{{{found['literal']}}}"
        value = self._value(found["name"])
        follows = found.string[found.end() : found.end() + 1]
        if follows and follows in ",;:.!?)" and value.endswith(".") and not value.endswith(".."):
            # A whole sentence was given for a place inside of one.
            return value[:-1]
        return value

    def _value(self, name: str) -> str:
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise InvalidRequestError(
                f"The placeholders go round in a circle: {circle}.", "Take one of them out."
            )
        if name not in self._filled:
            # Each text is filled once, so that texts which name others twice do not multiply work.
            self._open.append(name)
            self._filled[name] = self.fill(self._text_of(name)).strip()
            self._open.pop()
        return self._filled[name]
