"""The words that negate, turn over, or only seem to negate. Data; read by `scopes`.

A row is a phrase as the tokens give it: contractions apart ("do not"), hyphens as spaces. The
longest row that fits is taken, so "not only" wins over "not". Every row stands in a test case.
"""

from enum import Enum
from functools import cache

from flux_mcp.compose.audit.hedges import HEDGES
from flux_mcp.compose.audit.inflection import forms


class Sort(Enum):
    """What a cue does to the words behind it."""

    DETERMINER = "determiner"
    """Negates the things named next: "no", "zero"."""
    LEXICAL = "lexical"
    """The same, and an outer negation turns it over: "not without" affirms."""
    VERB = "verb"
    """As lexical, and it governs whole lists: "avoid text, people, logos"."""
    PREDICATE = "predicate"
    """Negates what is said in the rest of the clause: "not", "never"."""
    EXCEPTION = "exception"
    """Names what is left after a negation, or missing after an "everything"."""
    HEDGE = "hedge"
    """Looks like a negation and is none: "not only", "no shortage of", "hardly any"."""
    ASIDE = "aside"
    """Changes nothing and is no thing in the picture: "at all", "in sight"."""
    PLACE = "place"
    """The same, but it leaves other places: "in the background"."""
    EXAMPLE = "example"
    """Carries on with what is being said: "such as", "not even"."""
    AND = "and"
    OR = "or"


Phrase = list[str]

_ROWS: dict[Sort, tuple[str, ...]] = {
    Sort.DETERMINER: (
        "no",
        "no more",
        "no to",
        "zero",
        "0",
        "non",
        "nary a",
        "none of",
        "is not no",
        "not a",
        "not an",
        "not any",
        "not one",
        "not a single",
        "neither",
        "nothing",
        "nobody",
        "nonexistent",
        "non existent",
    ),
    Sort.LEXICAL: (
        "without",
        "sans",
        "minus",
        "free of",
        "free from",
        "devoid of",
        "void of",
        "empty of",
        "emptied of",
        "vacant of",
        "bare of",
        "barren of",
        "bereft of",
        "clean of",
        "clear of",
        "cleared of",
        "stripped of",
        "purged of",
        "drained of",
        "rid of",
        "lack",
        "lacks",
        "lacking",
        "lacking in",
        "lack of",
        "absence of",
        "absent of",
        "absent any",
        "absent the",
        "exclusion of",
        "removal of",
        "elimination of",
        "omission of",
        "ban on",
        "blank of",
        "exempt from",
        "instead of",
        "rather than",
        "in place of",
        "in lieu of",
        "as opposed to",
        "anything but",
        "everything but",
        "uninhabited by",
        "unoccupied by",
        "unpopulated by",
        "untouched by",
        "undisturbed by",
        "unspoiled by",
        "unspoilt by",
        "unmarked by",
        "unmarred by",
        "uncluttered by",
        "unobstructed by",
        "unadorned by",
        "unadorned with",
    ),
    Sort.VERB: (
        "avoid",
        "exclude",
        "omit",
        "remove",
        "eliminate",
        "erase",
        "delete",
        "leave out",
        "leave off",
        "crop out",
        "edit out",
        "filter out",
        "rule out",
        "keep out",
        "keep away",
        "get rid of",
        "do away with",
        "dispense with",
        "stay away from",
        "stay clear of",
        "steer clear of",
        "refrain from",
        "abstain from",
        "shy away from",
        "fail to",
        "refuse to",
        "hesitate to",
        "forget",
        "prevent",
        "prohibit",
        "forbid",
        "disallow",
        "eschew",
        "shun",
        "suppress",
        "hide all",
        "hide any",
        "hide the",
        "replace",
        "escape",
    ),
    Sort.PREDICATE: (
        "not",
        "never",
        "nowhere",
        "no longer",
        "impossible to",
        "unable to",
        "by no means",
        "in no way",
        "under no circumstances",
        "at no point",
        "at no time",
        "on no account",
    ),
    Sort.EXCEPTION: (
        "except",
        "except for",
        "excepting",
        "with the exception of",
        "other than",
        "apart from",
        "aside from",
        "save for",
        "besides",
        "but for",
        "beyond",
        "outside of",
    ),
    Sort.HEDGE: HEDGES,
    Sort.ASIDE: (
        "at all",
        "so much as",
        "whatsoever",
        "anywhere",
        "of any kind",
        "of any sort",
        "of any type",
        "of any form",
        "in any form",
        "in any way",
        "under any circumstances",
        "in particular",
        "in sight",
        "in view",
        "in frame",
        "in shot",
        "in it",
        "on it",
        "in them",
        "on them",
        "to be seen",
        "to be found",
        "in the composition",
        "in the frame",
        "in the image",
        "in the photo",
        "in the picture",
        "in the scene",
        "in the shot",
    ),
    Sort.PLACE: (
        "nearby",
        "in the background",
        "in the foreground",
        "in the distance",
    ),
    Sort.EXAMPLE: (
        "such as",
        "for example",
        "for instance",
        "eg",
        "ie",
        "like",
        "including",
        "especially",
        "particularly",
        "specifically",
        "namely",
        "even",
        "not even",
        "let alone",
        "much less",
    ),
    Sort.AND: ("and", "plus", "as well as", "along with", "together with"),
    Sort.OR: ("or", "nor"),
}


LONGEST = 6
"""Words in the longest row, and some more."""


@cache
def table() -> dict[str, tuple[tuple[Phrase, Sort], ...]]:
    """Return every cue by its first word, longest first; verbs in their active forms."""
    found: dict[str, list[tuple[Phrase, Sort]]] = {}
    for sort, phrases in _ROWS.items():
        for phrase in phrases:
            first, *rest = phrase.split()
            for one in _active(first) if sort is Sort.VERB else (first,):
                found.setdefault(one, []).append(([one, *rest], sort))
    return {
        first: tuple(sorted(found_here, key=lambda row: -len(row[0])))
        for first, found_here in found.items()
    }


def _active(verb: str) -> set[str]:
    """Return the forms that take an object: "omitted text" and "the forbidden city" do not."""
    return {form for form in forms(verb) if form == verb or form.endswith(("s", "ing"))}


def rows(sort: Sort) -> tuple[str, ...]:
    """Return the rows of a sort, as they are written above."""
    return _ROWS[sort]
