"""What a caller chose -> the parts of a prompt. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from flux_mcp.compose.assemble import Part
from flux_mcp.compose.packs import EXTRA, SUBJECT, Pack, Variable
from flux_mcp.compose.problems import nearest, shorten
from flux_mcp.compose.wildcards import ANY, Wildcard, read_wildcard
from flux_mcp.errors import InvalidRequestError


@dataclass(frozen=True)
class Choice:
    """What a caller asks of a pack."""

    pack: str
    subject: str | None = None
    """A subject's name, `*`, a weighted choice, or own words where the pack allows them."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The same, by the variable's name. What is left out takes the pack's default."""
    extra: str = ""
    """Own words behind everything else."""


@dataclass(frozen=True)
class Chosen:
    """What one argument of a pack came to."""

    name: str
    """`subject`, or the variable's name."""
    value: str
    """The name of the choice, or the caller's words."""
    text: str
    source: str
    """As `Block.source`."""
    is_drawn: bool = False
    """Whether the seed chose it."""
    is_default: bool = False
    """Whether the caller left it to the pack."""


def choose(pack: Pack, choice: Choice, seed: int) -> tuple[Chosen, ...]:
    """Return what every argument of the pack comes to, in the pack's order.

    Args:
        pack: The pack.
        choice: What the caller asks.
        seed: Decides what is drawn; each argument draws for itself.

    Raises:
        InvalidRequestError: an argument the pack does not have, that is missing, or a value that is
            none of its choices; the hint names those there are.
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


def _chosen(pack: Pack, argument: Variable, given: str | None, seed: int) -> Chosen:
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
        name = wildcard.draw(seed, pack.name, argument.name)
    if name in argument.choices:
        text = argument.choices[name]
        return Chosen(argument.name, name, text.text, text.source, wildcard is not None, is_default)
    if not argument.free_text:
        raise InvalidRequestError(
            f"'{shorten(value)}' is no choice of {argument.name} in the pack '{pack.name}'.",
            nearest(name, argument.choices, what="Choices"),
        )
    source = f"default {argument.name}" if is_default else f"argument {argument.name}"
    return Chosen(argument.name, value, value, source, is_default=is_default)


def _wildcard(argument: Variable, value: str) -> Wildcard | None:
    if value.strip() == ANY and not argument.choices:
        raise InvalidRequestError(
            f"'{ANY}' has nothing to draw for {argument.name}: it has no choices.",
            "Say it in words.",
        )
    try:
        return read_wildcard(value, argument.weights)
    except InvalidRequestError:
        if argument.free_text:
            # Words with a bar in them, no choices.
            return None
        raise


def _choices(argument: Variable) -> str:
    names = ", ".join(argument.choices)
    own = " or own words" if names else "Own words"
    return f"{names}{own if argument.free_text else ''}."


def notices_about(pack: Pack, chosen: Iterable[Chosen], placed: frozenset[str]) -> tuple[str, ...]:
    """Say what the caller may not expect of what was chosen.

    Args:
        pack: The pack.
        chosen: What `choose` returned.
        placed: Arguments that stand in the prompt.
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


def parts_of(pack: Pack, chosen: Iterable[Chosen], extra: str = "") -> tuple[Part, ...]:
    """Return the parts of the prompt in order: fixed, subject, variables, extra."""
    parts = [Part("fixed", pack.fixed.text, pack.fixed.source)]
    for one in chosen:
        name = one.name if one.name == SUBJECT else f"variable:{one.name}"
        parts.append(Part(name, one.text, one.source, one.name))
    if extra.strip():
        parts.append(Part(EXTRA, extra, f"argument {EXTRA}"))
    return tuple(parts)
