"""The inflected forms of an English word: plurals, verb forms, comparatives. Pure.

Forms are made from the forbidden word rather than looked for in the text: the forbidden words are
few and known beforehand. Made by rule, or taken from the irregular nouns and verbs; a form that no
one writes ("carred") does no harm, one that is another word does ("stared" for "star").
"""

import re
from functools import cache, lru_cache

from flux_mcp.compose.audit import special_forms
from flux_mcp.compose.audit.irregular_nouns import PLURALS
from flux_mcp.compose.audit.irregular_verbs import PAST

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
    if word in special_forms.ONLY_PLURAL:
        return frozenset({word, *_irregular_plurals(word)})
    singulars = _singulars(word)
    bases = _family(singulars or {word})
    found = {word}
    for base in bases:
        found |= {base} | _plurals(base)
        if not singulars:
            found |= _verb_forms(base) | _comparatives(base)
    return frozenset(found - special_forms.NOT_A_FORM.get(word, frozenset()))


def _family(bases: set[str]) -> set[str]:
    """Return the words and those derived from them."""
    return bases.union(
        *(family for family in special_forms.FAMILIES if not family.isdisjoint(bases))
    )


def _irregular_plurals(noun: str) -> set[str]:
    return set(PLURALS.get(noun, ()))


def _plurals(noun: str) -> set[str]:
    if noun in PLURALS:
        return _irregular_plurals(noun)
    if noun.endswith("man") and noun not in special_forms.MAN_IS_NO_MAN:
        return {noun[:-3] + "men"}
    return {_with_s(noun)} | ({noun + "es"} if noun.endswith("o") else set())


def _with_s(word: str) -> str:
    if word.endswith("y") and not _VOWEL_THEN_Y.search(word):
        return word[:-1] + "ies"
    return word + ("es" if _HISSING.search(word) else "s")


def _singulars(word: str) -> set[str]:
    """Return what the word may be the plural of; empty if it looks like no plural."""
    irregulars = _irregular_singulars().get(word)
    if irregulars:
        return set(irregulars)
    if word.endswith("men") and word not in special_forms.MEN_ARE_NO_MEN:
        return {word[:-3] + "man"}
    if (
        len(word) < _SHORTEST_PLURAL
        or not word.endswith("s")
        or word in special_forms.ONLY_PLURAL
        or _NEVER_PLURAL.search(word)
    ):
        return set()
    candidates = {word[:-1]}
    if word.endswith("es"):
        candidates.add(word[:-2])
    if word.endswith("ies"):
        candidates.add(word[:-3] + "y")
    return {noun for noun in candidates if word in _plurals(noun)}


@cache
def _irregular_singulars() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for singular, plurals in PLURALS.items():
        for plural in plurals:
            if plural != singular:
                found.setdefault(plural, set()).add(singular)
    return {plural: frozenset(singulars) for plural, singulars in found.items()}


def _verb_forms(verb: str) -> set[str]:
    if len(verb) < _SHORTEST_VERB or verb in special_forms.NO_VERB or _NO_VERB_ENDING.search(verb):
        return set()
    past = set(PAST.get(verb, ()))
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
    """Return what -ed and -ing are put to: "run" doubles, "look" does not, "focus" may."""
    if verb.endswith("c"):
        return {verb, verb + "k"}
    if _ONE_SYLLABLE_DOUBLES.fullmatch(verb):
        return {verb + verb[-1]}
    return {verb, verb + verb[-1]} if _MAY_DOUBLE.search(verb) else {verb}


def _comparatives(word: str) -> set[str]:
    if _ADJECTIVE_IN_Y.search(word):
        return {word[:-1] + "ier", word[:-1] + "iest"}
    if word not in special_forms.ADJECTIVES:
        return set()
    if word.endswith("e"):
        return {word + "r", word + "st"}
    return {stem + end for stem in _stems(word) for end in ("er", "est")}
