"""Sentences from templates, in which each word knows its part: how two wordings are compared.

A template is `a {size} {colour} {shape} on {background} {ground}`. The part of a word is its field,
or the word itself where the template has it literally: `red` in `a red circle` and in `circle, red`
are the same part, whatever stands around them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random

_FIELD = re.compile(r"\{(?P<name>\w+)\}(?P<after>\W*)")
_ARTICLES = frozenset({"a", "an"})
_SMALL = _ARTICLES | {"the", "on", "in", "at", "of", "to", "with", "near", "is", "into", "shall"}
"""Words without a part: what they mean is in the words beside them."""
_SPLIT_FIELDS = frozenset({"place"})
"""Fields of several words, each a part by itself: `top left` is in `the top left corner`."""


@dataclass(frozen=True)
class Sentence:
    """Words, and the part of each; `None` for those that have none, as articles."""

    words: tuple[str, ...]
    parts: tuple[str | None, ...]

    @property
    def text(self) -> str:
        """The sentence as it is said."""
        return " ".join(self.words)


@dataclass(frozen=True)
class Wording:
    """A sentence, and the plainest one that says the same with the same words."""

    said: Sentence
    plain: Sentence


def sentence(template: str, values: Mapping[str, str]) -> Sentence:
    """Fill a template in; a field without a value goes, with the punctuation at it and its label.

    A label is a word with a colon before a field: `size: {size}`.
    """
    words: list[str] = []
    parts: list[str | None] = []
    for word in template.split():
        field = _FIELD.fullmatch(word)
        if field is None:
            words.append(word)
            parts.append(_part(word))
            continue
        name = field["name"]
        value = values.get(name, "").split()
        if value:
            words += [*value[:-1], value[-1] + field["after"]]
            parts += [_part(one) if name in _SPLIT_FIELDS else f"{{{name}}}" for one in value]
        elif words and words[-1] == f"{name}:":
            del words[-1], parts[-1]
    words[-1] = words[-1].rstrip(",;:")
    for index, (word, following) in enumerate(pairwise(words)):
        if word in _ARTICLES:
            words[index] = "an" if following[0] in "aeiou" else "a"
    return Sentence(tuple(words), tuple(parts))


def varied(random: Random, given: Sentence) -> Sentence:
    """Write as people do: sometimes a capital letter, sometimes a full stop."""
    words = list(given.words)
    if random.random() < 0.2:
        words[0] = words[0][0].upper() + words[0][1:]
    if random.random() < 0.1:
        words[-1] += "."
    return Sentence(tuple(words), given.parts)


def with_word(plain: str, old: str, new: str) -> Wording:
    """Return a sentence as it is, said with another word for one."""
    before = plain.split()
    after = [word.replace(old, new).replace(old.capitalize(), new.capitalize()) for word in before]
    parts = tuple(str(index) for index in range(len(before)))
    return Wording(Sentence(tuple(after), parts), Sentence(tuple(before), parts))


def _part(word: str) -> str | None:
    bare = word.strip(".,:;")
    return None if bare in _SMALL else bare
