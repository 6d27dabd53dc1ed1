"""In which language a prompt seems to be written, as far as its letters and small words tell.

Cheap and cautious: a language is named where the text shows it, and none where it may be English.
Names, colours and words that the image should show count for nothing. language.toml has the words.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OTHER = "another language than English"
_QUOTED = re.compile(
    r'„[^“”"]*[“”"]|"[^"]*"|“[^”]*”|«[^»]*»|「[^」]*」|『[^』]*』|(?<!\w)\'[^\']*\'(?!\w)'
)
_WORD = re.compile(
    r"(?<![\w/])[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*(?![\w/])"
)  # "w/o" has no Polish "o"
_LONG_SCRIPTS = frozenset({"CJK", "HANGUL", "HIRAGANA", "KATAKANA"})
"""One of their letters says about as much as three of an alphabet's."""
_LONG = 3
_SENTENCE = 5
"""How many words a text must have for such as are in names and terms as well to tell anything."""
_SHARE = 1 / 6
_WEAK_SHARE = 2 / 5
_STRANGE_SHARE = 1 / 3
"""Which part of the words must be of a language: its own, such as are elsewhere too, such as have
letters that English does not have."""
_BEGINS = (".", "!", "?", ":")
"""Behind them a sentence begins, whose first word has a capital letter of its own."""
_FEW_WORDS = 6
"""Up to so many words one article tells a language, if none of them is English."""


def language_of(text: str) -> str | None:
    """Return what a text seems to be written in: "German"; `None` where it may be English.

    Text in quotation marks does not count: the image should show it.
    """
    text = _QUOTED.sub(" ", unicodedata.normalize("NFC", text))
    return _by_script(text) or _by_words(text)


def foreign_language(texts: Iterable[str]) -> str | None:
    """Return the first language other than English that one of the parts of a prompt is in."""
    return next(filter(None, map(language_of, texts)), None)


def audit_notices(texts: Iterable[str]) -> tuple[str, ...]:
    """Return what to say where an audit cannot judge one of the texts it was given."""
    language = foreign_language(texts)
    if language is None:
        return ()
    return (
        f"The audit reads English. This seems to be {language}: it may miss what is forbidden.",
    )


def encoder_notices(texts: Iterable[str], reads_best: str | None, model: str) -> tuple[str, ...]:
    """Return what to say where a model reads another language better than that of its prompt.

    Args:
        texts: The parts of the prompt.
        reads_best: The language that the family's text encoders read best; `None` for many.
        model: What the caller knows it by.
    """
    language = None if reads_best is None else foreign_language(texts)
    if language is None:
        return ()
    said = (
        f"The prompt seems to be {language}; {model} reads {reads_best} best and may draw "
        f"something else. Write it in {reads_best}; words in quotation marks stay as they are."
    )
    return (said,)


# --- letters -------------------------------------------------------------------------------------


def _by_script(text: str) -> str | None:
    """Return the language of a script where most of the letters are of it."""
    scripts = Counter(unicodedata.name(one, " ").split(" ")[0] for one in text if one.isalpha())
    weights = {
        one: number * (_LONG if one in _LONG_SCRIPTS else 1) for one, number in scripts.items()
    }
    known = _tables().scripts
    foreign = {one: weight for one, weight in weights.items() if one in known}
    if sum(foreign.values()) * 2 <= sum(weights.values()):
        return None
    # Japanese is written in Chinese characters as well; Chinese has none of the others.
    kana = [one for one in foreign if one in ("HIRAGANA", "KATAKANA")]
    return known[kana[0] if kana else max(foreign, key=lambda one: foreign[one])]


# --- words ---------------------------------------------------------------------------------------


def _by_words(text: str) -> str | None:
    words = list(_counting(text))
    tables = _tables()
    number = len(_WORD.findall(text))
    english = sum(one in tables.english for one in words)
    found = {
        language: [one for one in words if one in common and one not in tables.english]
        for language, common in tables.common.items()
    }
    best = max(found, key=lambda language: (len(set(found[language])), len(found[language])))
    hits = found[best]
    # What a language shares with English, such as "in", is no evidence against it.
    against = sum(one in tables.english and one not in tables.common[best] for one in words)
    if len(set(hits)) > 1:
        if tables.weak.issuperset(hits):
            # "fleur de la vie poster" is English, "la casa de la playa" is not.
            is_told = number >= _SENTENCE and len(hits) > 2 * english
            share = _WEAK_SHARE
        else:
            is_told, share = len(hits) > against, _SHARE
        if is_told and len(hits) >= share * number:
            return best
    strange = sum(not one.isascii() and one not in tables.loanwords for one in words)
    if strange > 1 and not english and strange >= _STRANGE_SHARE * number:
        return best if hits else OTHER
    if not against and 1 < number <= _FEW_WORDS:
        articles = [name for name, strong in tables.strong.items() if strong & set(words)]
        return OTHER if len(articles) > 1 else next(iter(articles), None)
    return None


def _counting(text: str) -> Iterable[str]:
    """Yield the words that may tell a language, in small letters: no names, and no initials."""
    found = list(_WORD.finditer(text))
    is_loud = text.upper() == text
    for number, match in enumerate(found):
        word = match.group()
        begins = not number or text[: match.start()].rstrip()[-1:] in _BEGINS
        if word.islower() or is_loud or (begins and word.istitle()):
            small = word.lower()
            if small not in _tables().particles or not _in_name(found, number):
                yield small


def _in_name(words: list[re.Match[str]], place: int) -> bool:
    """Return whether a particle stands between words with a capital letter: "Mies van der Rohe"."""
    behind = next(
        (
            one.group()
            for one in words[place + 1 :]
            if one.group().lower() not in _tables().particles
        ),
        "",
    )
    before = words[place - 1].group() if place else ""
    # The first word has its capital letter from its place: "Mache den Himmel blau".
    follows = (place > 1 and before[:1].isupper()) or before.lower() in _tables().particles
    return behind[:1].isupper() and follows


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    english: frozenset[str]
    loanwords: frozenset[str]
    particles: frozenset[str]
    weak: frozenset[str]
    strong: Mapping[str, frozenset[str]]
    common: Mapping[str, frozenset[str]]
    scripts: Mapping[str, str]


@cache
def _tables() -> _Tables:
    rows = tomllib.loads(Path(__file__).with_name("language.toml").read_text(encoding="utf-8"))
    return _Tables(
        english=frozenset(rows["english"].split()),
        loanwords=frozenset(rows["loanwords"].split()),
        particles=frozenset(rows["particles"].split()),
        weak=frozenset((rows["particles"] + rows["weak"]).split()),
        strong={name: frozenset(text.split()) for name, text in rows["strong"].items()},
        common={name: frozenset(text.split()) for name, text in rows["common"].items()},
        scripts=rows["scripts"],
    )
