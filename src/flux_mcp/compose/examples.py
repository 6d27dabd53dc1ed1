"""Choices to try a pack with: the usual ones, the longest, and every one at least once. Pure."""

from collections.abc import Iterator

from flux_mcp.compose.choosing import Chosen
from flux_mcp.compose.packs import Pack, Variable
from flux_mcp.compose.wildcards import ANY

Example = tuple[Chosen, ...]


def usual(pack: Pack) -> Example:
    """Return the defaults; where one is drawn or must be given, the first choice."""
    return tuple(_usual(argument) for argument in pack.arguments)


def longest(pack: Pack) -> Example:
    """Return the longest choice of every argument."""
    return tuple(_longest(argument) for argument in pack.arguments)


def covering(pack: Pack) -> Iterator[Example]:
    """Yield as few examples as have every choice in them."""
    most = max(len(argument.choices) for argument in pack.arguments)
    for index in range(max(most, 1)):
        yield tuple(_nth(argument, index) for argument in pack.arguments)


def one_by_one(pack: Pack) -> Iterator[Example]:
    """Yield the usual example, then for every other choice the usual one with that choice."""
    start = usual(pack)
    yield start
    for index, argument in enumerate(pack.arguments):
        for name in argument.choices:
            if name != start[index].value:
                yield (*start[:index], _of(argument, name), *start[index + 1 :])


def _usual(argument: Variable) -> Chosen:
    default = argument.default
    if default in argument.choices:
        return _of(argument, str(default))
    if argument.choices and (not argument.free_text or default in (None, ANY)):
        return _nth(argument, 0)
    text = default or ""
    return Chosen(argument.name, text, text, f"default {argument.name}", is_default=True)


def _longest(argument: Variable) -> Chosen:
    texts = argument.choices
    if not texts:
        return _usual(argument)
    return _of(argument, max(texts, key=lambda name: len(texts[name].text)))


def _nth(argument: Variable, index: int) -> Chosen:
    names = list(argument.choices)
    return _of(argument, names[index % len(names)]) if names else _usual(argument)


def _of(argument: Variable, name: str) -> Chosen:
    text = argument.choices[name]
    return Chosen(argument.name, name, text.text, text.source)
