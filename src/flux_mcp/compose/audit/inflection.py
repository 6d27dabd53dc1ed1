"""The inflected forms of an English word: plurals, verb forms, comparatives.

Forms are made from the forbidden word, not looked for in the text: forbidden words are few and
known beforehand. Rules make most of them; inflection.toml has the irregular words. A form that
nobody writes ("carred") does no harm, one that is another word does ("stared" for "star").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from flux_mcp.compose.audit.tables import read_table, words

_VOWEL_THEN_Y = re.compile(r"[aeiou]y\Z")
_HISSING = re.compile(r"(?:s|x|z|ch|sh)\Z")
_ONE_SYLLABLE_DOUBLES = re.compile(r"(?:[^aeiouy]|qu|y(?=[aeiou]))*[aeiouy][^aeiouwxy]\Z")
_MAY_DOUBLE = re.compile(r"[^aeiou](?:u(?=[aeio]))?[aeiou][^aeiouwxy]\Z")
_ADJECTIVE_IN_Y = re.compile(r"[aeiou].*[^aeiou]y\Z")
_NEVER_PLURAL = re.compile(r"(?:ss|us|is|ous)\Z")
_NO_VERB_ENDING = re.compile(r"(?:[aeiouy].*ing|[^e]ed|man)\Z")
_SHORTEST_PLURAL = 4
_SHORTEST_VERB = 3


@lru_cache(maxsize=2048)
def forms(word: str) -> frozenset[str]:
    """Return every form of a folded word, itself included.

    A plural also gives its singular ("logos": "logo"). Only a base form gives verb forms: "run"
    gives "running" and "ran", but "painting" gives "paintings" and not "painted".
    """
    known = _irregular()
    if word in known.only_plural:
        return frozenset({word, *known.plurals.get(word, ())})
    singulars = _singulars(word)
    bases = _with_derived(singulars or {word})
    found = {word}
    for base in bases:
        found |= {base} | _plurals(base)
        if not singulars:
            found |= _verb_forms(base) | _comparatives(base)
    return frozenset(found.difference(known.not_a_form.get(word, ())))


def is_adjective(word: str) -> bool:
    """Return whether a word is one of the common adjectives that take -er and -est."""
    return word in _irregular().adjectives


# --- irregular words ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class _Irregular:
    """The tables of inflection.toml, which says what each is for."""

    plurals: Mapping[str, tuple[str, ...]]
    past: Mapping[str, tuple[str, ...]]
    not_a_form: Mapping[str, tuple[str, ...]]
    families: tuple[frozenset[str], ...]
    only_plural: frozenset[str]
    plural_in_mans: frozenset[str]
    singular_in_men: frozenset[str]
    no_verb: frozenset[str]
    adjectives: frozenset[str]

    @cached_property
    def singulars(self) -> dict[str, set[str]]:
        """The singulars of every irregular plural."""
        found: dict[str, set[str]] = {}
        for singular, plurals in self.plurals.items():
            for plural in plurals:
                if plural != singular:
                    found.setdefault(plural, set()).add(singular)
        return found


@cache
def _irregular() -> _Irregular:
    """Return the irregular words; reads inflection.toml when first called."""
    table = read_table("inflection")
    return _Irregular(
        plurals=_by_word(table["plurals"]),
        past=_by_word(table["past"]),
        not_a_form=_by_word(table["not_a_form"]),
        families=tuple(words(line) for line in table["families"].strip().split("\n")),
        only_plural=words(table["only_plural"]),
        plural_in_mans=words(table["plural_in_mans"]),
        singular_in_men=words(table["singular_in_men"]),
        no_verb=words(table["no_verb"]),
        adjectives=words(table["adjectives"]),
    )


def _by_word(lines: str) -> dict[str, tuple[str, ...]]:
    """Read lines that have a word, and its forms behind it."""
    found = {}
    for line in lines.strip().split("\n"):
        word, *others = line.split()
        found[word] = tuple(others)
    return found


def _with_derived(bases: set[str]) -> set[str]:
    """Return the words and those derived from them."""
    return bases.union(
        *(family for family in _irregular().families if not family.isdisjoint(bases))
    )


# --- nouns ----------------------------------------------------------------------------------------


def _plurals(noun: str) -> set[str]:
    known = _irregular()
    if noun in known.plurals:
        return set(known.plurals[noun])
    if noun.endswith("man") and noun not in known.plural_in_mans:
        return {noun[:-3] + "men"}
    return {_with_s(noun)} | ({noun + "es"} if noun.endswith("o") else set())


def _with_s(word: str) -> str:
    if word.endswith("y") and not _VOWEL_THEN_Y.search(word):
        return word[:-1] + "ies"
    return word + ("es" if _HISSING.search(word) else "s")


def _singulars(word: str) -> set[str]:
    """Return what the word may be the plural of; empty if it looks like no plural."""
    known = _irregular()
    if word in known.singulars:
        return known.singulars[word]
    if word.endswith("men") and word not in known.singular_in_men:
        return {word[:-3] + "man"}
    if (
        len(word) < _SHORTEST_PLURAL
        or not word.endswith("s")
        or word in known.only_plural
        or _NEVER_PLURAL.search(word)
    ):
        return set()
    candidates = {word[:-1]}
    if word.endswith("es"):
        candidates.add(word[:-2])
    if word.endswith("ies"):
        candidates.add(word[:-3] + "y")
    return {noun for noun in candidates if word in _plurals(noun)}


# --- verbs and adjectives -------------------------------------------------------------------------


def _verb_forms(verb: str) -> set[str]:
    known = _irregular()
    if len(verb) < _SHORTEST_VERB or verb in known.no_verb or _NO_VERB_ENDING.search(verb):
        return set()
    past = set(known.past.get(verb, ()))
    found = {_with_s(verb)}
    if verb.endswith("ie"):
        return found | (past or {verb + "d"}) | {verb[:-2] + "ying"}
    if verb.endswith("e"):
        kept = verb + "ing" if verb.endswith(("ee", "oe", "ye", "nge")) else verb[:-1] + "ing"
        also = {verb[:-1] + "ing"} if kept.endswith("geing") else set()
        return found | (past or {verb + "d"}) | {kept} | also
    if verb.endswith("y") and not _VOWEL_THEN_Y.search(verb):
        return found | (past or {verb[:-1] + "ied"}) | {verb + "ing"}
    stems = _stems(verb)
    past = past or {stem + "ed" for stem in stems}
    return found | past | {stem + "ing" for stem in stems}


def _stems(verb: str) -> set[str]:
    """Return what -ed and -ing are added to: "run" doubles, "look" does not, "focus" may."""
    if verb.endswith("c"):
        return {verb, verb + "k"}
    if _ONE_SYLLABLE_DOUBLES.fullmatch(verb):
        return {verb + verb[-1]}
    return {verb, verb + verb[-1]} if _MAY_DOUBLE.search(verb) else {verb}


def _comparatives(word: str) -> set[str]:
    if _ADJECTIVE_IN_Y.search(word):
        return {word[:-1] + "ier", word[:-1] + "iest"}
    if not is_adjective(word):
        return set()
    if word.endswith("e"):
        return {word + "r", word + "st"}
    return {stem + end for stem in _stems(word) for end in ("er", "est")}
