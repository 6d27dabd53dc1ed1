"""The classes of words, and the cues, by which the audit reads negations.

`lexicon()` has the classes (lexicon.toml), `cues()` the cues (cues.toml). Both files are read when
they are first needed, and kept.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property

from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.tables import read_table, words


@dataclass(frozen=True, eq=False, repr=False)
class Lexicon:
    """Classes of words; lexicon.toml says what each is for."""

    # Clauses.
    boundaries: frozenset[str]
    relatives: frozenset[str]
    pronouns: frozenset[str]
    prepositions: frozenset[str]
    transparent_before_for: frozenset[str]
    joining: frozenset[str]
    line_determiners: frozenset[str]
    line_beginnings: frozenset[str]
    # Determiners and quantities.
    definite: frozenset[str]
    other_determiners: frozenset[str]
    articles: frozenset[str]
    affirming: frozenset[str]
    universals: frozenset[str]
    approximators: frozenset[str]
    any: frozenset[str]
    quantities: frozenset[str]
    full: frozenset[str]
    narrowing: frozenset[str]
    neutral: frozenset[str]
    # Verbs.
    copulas: frozenset[str]
    other_auxiliaries: frozenset[str]
    commands: frozenset[str]
    showing: frozenset[str]
    other_presence: frozenset[str]
    changing: frozenset[str]
    filling: frozenset[str]
    clearing: frozenset[str]
    activities: frozenset[str]
    no_activities: frozenset[str]
    containing: frozenset[str]
    # Nouns.
    containers: frozenset[str]
    nouns_in_ing: frozenset[str]
    ban_words: frozenset[str]
    sign_words: frozenset[str]
    writing: frozenset[str]
    # Headings of lists.
    heading_words: frozenset[str]
    heading_negations: frozenset[str]
    # Denials behind a thing.
    absent: frozenset[str]
    present: frozenset[str]
    out: frozenset[str]
    picture_words: frozenset[str]
    keeping: frozenset[str]
    stopping: frozenset[str]
    chain: frozenset[str]
    harmless: frozenset[str]
    followers: frozenset[str]
    measures: frozenset[str]
    # What prompts exclude.
    commonly_excluded: tuple[frozenset[str], ...]

    # --- classes made of others -----------------------------------------------------------------

    @cached_property
    def determiners(self) -> frozenset[str]:
        """Determiners that may begin the items of a list."""
        return self.definite | self.other_determiners

    @cached_property
    def auxiliaries(self) -> frozenset[str]:
        """Auxiliary verbs."""
        return self.copulas | self.other_auxiliaries

    @cached_property
    def presence_forms(self) -> frozenset[str]:
        """Every form of the verbs that deny even a known thing behind "not"."""
        return _forms_of(self.showing | self.other_presence)

    @cached_property
    def changing_forms(self) -> frozenset[str]:
        """The verbs of change as they stand before an object: "change", "changing"."""
        return self.changing | {form for form in _forms_of(self.changing) if form.endswith("ing")}

    @cached_property
    def filling_forms(self) -> frozenset[str]:
        """Every form of the verbs of filling."""
        return _forms_of(self.filling)

    @cached_property
    def container_forms(self) -> frozenset[str]:
        """The containers, singular and plural."""
        return _forms_of(self.containers)

    @cached_property
    def writing_forms(self) -> frozenset[str]:
        """Every form of the words of writing."""
        return _forms_of(self.writing)

    @cached_property
    def family_of(self) -> dict[str, int]:
        """The number of its family for every form of a commonly excluded word."""
        return {
            form: number
            for number, family in enumerate(self.commonly_excluded)
            for form in _forms_of(family)
        }

    def is_activity(self, word: str) -> bool:
        """Return whether a word behind a noun says what the thing does: "people walk"."""
        if word.endswith("ing"):
            return word not in self.nouns_in_ing
        return word in self._activity_forms

    @cached_property
    def _activity_forms(self) -> frozenset[str]:
        return _forms_of(self.activities) - self.no_activities


def _forms_of(bases: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*(forms(word) for word in bases))


@cache
def lexicon() -> Lexicon:
    """Return the classes of words; reads lexicon.toml when first called."""
    table = read_table("lexicon")
    families = tuple(words(family) for family in table.pop("commonly_excluded"))
    classes = {name: words(text) for name, text in table.items()}
    return Lexicon(**classes, commonly_excluded=families)


class CueKind(Enum):
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
    """Looks like a negation and is none: "not only", "no shortage of"."""
    ASIDE = "aside"
    """Changes nothing and names no thing in the image: "at all", "in sight"."""
    PLACE = "place"
    """The same, but it leaves other places: "in the background"."""
    EXAMPLE = "example"
    """Carries on with what is being said: "such as", "not even"."""
    AND = "and"
    OR = "or"


Phrase = list[str]


@cache
def cue_phrases() -> dict[CueKind, tuple[str, ...]]:
    """Return the phrases of every kind of cue as cues.toml has them; reads it when first called."""
    table = read_table("cues")
    return {kind: tuple(table[kind.value].strip().split("\n")) for kind in CueKind}


@cache
def cues() -> dict[str, tuple[tuple[Phrase, CueKind], ...]]:
    """Return every cue by its first word, the longest first; verbs in their active forms."""
    found: dict[str, list[tuple[Phrase, CueKind]]] = {}
    for kind, phrases in cue_phrases().items():
        for phrase in phrases:
            first, *rest = phrase.split()
            for one in _active(first) if kind is CueKind.VERB else (first,):
                found.setdefault(one, []).append(([one, *rest], kind))
    return {
        first: tuple(sorted(beginning, key=lambda row: -len(row[0])))
        for first, beginning in found.items()
    }


def _active(verb: str) -> set[str]:
    """Return the forms that take an object: "omitted text" and "the forbidden city" do not."""
    return {form for form in forms(verb) if form == verb or form.endswith(("s", "ing"))}
