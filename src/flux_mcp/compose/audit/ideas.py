"""The commonest ideas of image prompts, and the words that name them.

For contradictions ("no people" against "a crowd of women"), for forbidden patterns that ask for
related words, and for positive rewordings. ideas.toml has the words.
"""

from dataclasses import dataclass
from functools import cache

from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.tables import read_table, words


@dataclass(frozen=True)
class Idea:
    """An idea: to negate one of its broad names denies everything that is named here."""

    name: str
    broad: frozenset[str]
    """Names of the whole idea: "people"."""
    narrow: frozenset[str]
    """Names of a part of it: "no women" does not deny "men"."""
    loose: frozenset[str]
    """Names that often, but not always, mean it: a portrait may be that of a cat."""
    instead: str
    """A positive wording of its absence."""
    letters: bool
    """Whether letters that the image should show are of this idea."""
    groups: frozenset[str]
    """Sure names of a number of them that may be one of other things: "a crowd of birds"."""
    quantities: frozenset[str]
    """The same, but what follows "of" is told by its own name: "a couple of apples"."""
    elsewhere: tuple[str, ...]
    """Phrases in which a word of the idea means something else: "hot dog"."""
    told_by: frozenset[str]
    """Words that mean it only before one of `places`: "a crowded street" has people."""
    places: frozenset[str]


@cache
def ideas() -> tuple[Idea, ...]:
    """Return every idea; reads ideas.toml when first called."""
    return tuple(
        Idea(
            name=name,
            broad=words(row["broad"]),
            narrow=words(row.get("narrow", ""))
            | words(row.get("groups", ""))
            | words(row.get("quantities", "")),
            loose=words(row.get("loose", "")),
            instead=row["instead"],
            letters=row.get("letters", False),
            groups=words(row.get("groups", "")),
            quantities=words(row.get("quantities", "")),
            elsewhere=_phrases(row.get("elsewhere", "")),
            told_by=words(row.get("told_by", "")),
            places=words(row.get("places", "")),
        )
        for name, row in read_table("ideas").items()
    )


def _phrases(text: str) -> tuple[str, ...]:
    """Return the phrases between commas; a line break is a space."""
    return tuple(one for one in (" ".join(part.split()) for part in text.split(",")) if one)


def idea_of(word: str) -> Idea | None:
    """Return the idea that a folded word names as a whole."""
    return _by_broad_name().get(word)


@cache
def _by_broad_name() -> dict[str, Idea]:
    found: dict[str, Idea] = {}
    for idea in ideas():
        for word in idea.broad:
            for form in forms(word):
                found.setdefault(form, idea)
    return found


@cache
def words_of(idea: Idea) -> dict[str, bool]:
    """Return every form of every word of an idea, and whether it is sure to mean it."""
    # "crowded shelves" have no crowd: only "a crowded street" has.
    found = {
        **{form: False for word in idea.loose for form in forms(word)},
        **{form: True for word in idea.broad | idea.narrow for form in forms(word)},
    }
    return {form: sure for form, sure in found.items() if form not in idea.told_by}


def are_related(one: str, other: str) -> bool:
    """Return whether two words surely mean the same idea: "cats" and "dogs"."""
    return not sure_ideas_of(one).isdisjoint(sure_ideas_of(other))


def sure_ideas_of(word: str) -> frozenset[str]:
    """Return the names of the ideas that a word surely means."""
    return _sure_words().get(word, frozenset())


@cache
def _sure_words() -> dict[str, frozenset[str]]:
    """Return the names of the ideas that every sure word means."""
    found: dict[str, set[str]] = {}
    for idea in ideas():
        for word in idea.broad | idea.narrow:
            for form in forms(word):
                found.setdefault(form, set()).add(idea.name)
    return {word: frozenset(names) for word, names in found.items()}
