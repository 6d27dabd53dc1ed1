"""From the choices of a caller to the parts of a prompt, random choices included.

A random choice depends on the seed, the names of pack and variable, and the choices with their
weights: the same on every machine.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from flux_mcp.compose.assemble import PromptPart
from flux_mcp.compose.packs import EXTRA, SUBJECT, Pack, Variable
from flux_mcp.compose.problems import nearest, shorten
from flux_mcp.errors import InvalidRequestError

ANY = "*"
MAX_WEIGHT = 100
"""Weights are whole numbers up to this: each unit costs one hash."""

_OPTION = re.compile(r"\s*(?P<name>[^\s:|]+)\s*(?::\s*(?P<weight>\d{1,9})\s*)?")


@dataclass(frozen=True)
class Choice:
    """The values a caller gives for a pack."""

    pack: str
    subject: str | None = None
    """A subject's name, `*`, a weighted choice, or free text where the pack allows it."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The same, by the variable's name. Variables left out take the pack's default."""
    extra: str = ""
    """The caller's own words, at the end of the prompt."""


@dataclass(frozen=True)
class ResolvedArgument:
    """An argument of a pack with its value for one prompt."""

    name: str
    """`subject`, or the variable's name."""
    value: str
    """The name of the choice, or free text."""
    text: str
    source: str
    """As `Block.source`."""
    is_random: bool = False
    """Whether it was picked at random, by the seed."""
    is_default: bool = False
    """Whether it is the pack's default: the caller gave none."""


@dataclass(frozen=True)
class Wildcard:
    """Several choices with their weights, one of which is picked at random."""

    weights: Mapping[str, int]

    def pick(self, *key: str | int) -> str:
        """Return the name of one choice, by weight: the same for the same key."""
        tickets = (
            (_number(*key, name, ticket), name)
            for name, weight in self.weights.items()
            for ticket in range(weight)
        )
        return max(tickets)[1]


def choose(pack: Pack, choice: Choice, seed: int) -> tuple[ResolvedArgument, ...]:
    """Return every argument of the pack with its value, in the pack's order.

    Args:
        pack: The pack.
        choice: The values the caller gives.
        seed: Decides the random choices, each argument's for itself.

    Raises:
        InvalidRequestError: an argument that the pack does not have, that is missing, or a value
            that is none of its choices; the hint names the choices.
    """
    given = {name: value for name, value in choice.variables.items() if value.strip()}
    for name in given:
        if name not in pack.variables:
            raise InvalidRequestError(
                f"The pack '{pack.name}' has no variable '{name}'.",
                nearest(name, pack.variables, what="Variables"),
            )
    if choice.subject is not None and choice.subject.strip():
        given[SUBJECT] = choice.subject
    return tuple(
        _chosen(pack, argument, given.get(argument.name), seed) for argument in pack.arguments
    )


def _chosen(pack: Pack, argument: Variable, given: str | None, seed: int) -> ResolvedArgument:
    value = argument.default if given is None else given
    is_default = given is None
    if value is None:
        what = "subject" if argument.name == SUBJECT else f"variable '{argument.name}'"
        raise InvalidRequestError(
            f"The pack '{pack.name}' needs a {what}: {argument.description}", _choices(argument)
        )
    name = value.strip()
    wildcard = None if name in argument.choices else _wildcard(argument, value)
    if wildcard is not None:
        name = wildcard.pick(seed, pack.name, argument.name)
    if name in argument.choices:
        text = argument.choices[name]
        return ResolvedArgument(
            argument.name, name, text.text, text.source, wildcard is not None, is_default
        )
    if not argument.free_text:
        raise InvalidRequestError(
            f"'{shorten(value)}' is no choice of {argument.name} in the pack '{pack.name}'.",
            nearest(name, argument.choices, what="Choices"),
        )
    source = f"default {argument.name}" if is_default else f"argument {argument.name}"
    return ResolvedArgument(argument.name, value, value, source, is_default=is_default)


def _wildcard(argument: Variable, value: str) -> Wildcard | None:
    if value.strip() == ANY and not argument.choices:
        raise InvalidRequestError(
            f"'{ANY}' picks one of the choices, and {argument.name} has none.",
            "Give it as text.",
        )
    try:
        return read_wildcard(value, argument.weights)
    except InvalidRequestError:
        if argument.free_text:
            # Free text that has a bar in it.
            return None
        raise


def _choices(argument: Variable) -> str:
    names = ", ".join(argument.choices)
    own = " or own words" if names else "Own words"
    return f"{names}{own if argument.free_text else ''}."


def notices_about(
    pack: Pack, chosen: Iterable[ResolvedArgument], placed: frozenset[str]
) -> tuple[str, ...]:
    """Return what may surprise the caller about the chosen values, as sentences.

    Args:
        pack: The pack.
        chosen: What `choose` returned.
        placed: Names of the arguments whose texts are in the prompt.
    """
    notices = []
    for one in chosen:
        argument = pack.subject if one.name == SUBJECT else pack.variables[one.name]
        if one.value not in argument.choices and not one.is_default:
            close = get_close_matches(one.value.strip().lower(), argument.choices, n=1, cutoff=0.8)
            if close:
                notices.append(
                    f"{one.name} '{shorten(one.value)}' is taken as own words; '{close[0]}' is a "
                    "choice."
                )
        if not one.is_default and one.text and one.name not in placed:
            notices.append(
                f"{one.name} '{shorten(one.value)}' has no place in this prompt: none of its texts "
                f"has {{{one.name}}}."
            )
    return tuple(notices)


def parts_of(
    pack: Pack, chosen: Iterable[ResolvedArgument], extra: str = ""
) -> tuple[PromptPart, ...]:
    """Return the parts of the prompt in order: fixed, subject, variables, extra."""
    parts = [PromptPart("fixed", pack.fixed.text, pack.fixed.source)]
    for one in chosen:
        name = one.name if one.name == SUBJECT else f"variable:{one.name}"
        parts.append(PromptPart(name, one.text, one.source, one.name))
    if extra.strip():
        parts.append(PromptPart(EXTRA, extra, f"argument {EXTRA}"))
    return tuple(parts)


# --- random choices -------------------------------------------------------------------------------


def read_wildcard(text: str, choices: Mapping[str, int]) -> Wildcard | None:
    """Read what a caller gave as a choice; `None` where it is no wildcard.

    Args:
        text: `*`, or names of choices with `|` between them and perhaps a `:weight`.
        choices: The weight of every choice; `*` never picks those of weight 0.

    Raises:
        InvalidRequestError: a wildcard that names no choice, or whose weights are all 0.
    """
    if text.strip() == ANY:
        return Wildcard(choices)
    if "|" not in text:
        return None
    weights: dict[str, int] = {}
    for option in text.split("|"):
        found = _OPTION.fullmatch(option)
        if found is None:
            raise InvalidRequestError(
                f"'{shorten(option.strip())}' in '{shorten(text)}' is not a choice with a weight.",
                "Write choices like noir:3|pastel:1, with whole numbers.",
            )
        if found["name"] not in choices:
            raise InvalidRequestError(
                f"'{shorten(found['name'])}' in '{shorten(text)}' is no choice.",
                nearest(found["name"], choices, what="Choices"),
            )
        weight = int(found["weight"] or 1)
        weights[found["name"]] = weights.get(found["name"], 0) + weight
    if not 0 < max(weights.values()) <= MAX_WEIGHT:
        raise InvalidRequestError(
            f"The weights of '{shorten(text)}' must be whole numbers up to {MAX_WEIGHT}, "
            "not all 0.",
            "Write choices like noir:3|pastel:1.",
        )
    return Wildcard(weights)


def _number(*key: str | int) -> bytes:
    parts = [str(part).encode() for part in key]
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).digest()
