"""The two tokenizers: whole words of the captions as one token each, letters for all others.

Words that come with later wordings are appended: no id moves, so what was trained stays valid.

A T5 vocabulary trained by the library spells common words by letters on so small a text, and the
transformer then pays for every letter; so its pieces are the words themselves, by their counts.
"""

import json
import math
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

from training import captions, edits, scenes

TEXT_TOKENS = 32
"""Tokens a prompt is cut or padded to for T5; the registry's `max_sequence_length`."""

_SENTENCES = 20_000
_LETTERS = string.ascii_letters + string.digits + ".,!?'-:;()\"&/+"
_OTHER_WORDS = (
    "please", "simple", "shape", "colour", "color", "grey", "gray", "brown", "gold", "photo", "cat",
    "dog", "robot", "house", "tree", "sky", "sun", "moon", "night", "with", "and", "two", "one",
    "that", "of", "the", "is", "it", "its", "has", "wearing", "holding", "sign", "says", "striped",
    "stripes", "blurry", "ugly", "beautiful", "bright", "dark", "background", "everything",
)  # fmt: skip
"""Words that people may use: each has a token of its own, though no image teaches it."""

LATER_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "backdrop": "background", "before": "on", "behind": "background", "front": "on",
        "over": "above", "coloured": "a", "colored": "a", "there": "a", "only": "just",
        "nothing": "empty", "size": "shape", "place": "shape", "recolour": "recolor",
        "bigger": "larger", "away": "remove", "take": "remove", "rid": "remove", "get": "remove",
        "out": "remove", "without": "remove", "no": "remove", "go": "remove", "instead": "replace",
        "be": "make", "become": "turn", "gets": "make", "must": "make", "shall": "make",
        "should": "make", "please": "please", "shape": "shape", "colour": "colour", "one": "one",
        "is": "is",
    }
)  # fmt: skip
"""Words of the later wordings -> the older word as whose like each begins. T5, which tells capital
letters from small ones, gets both: some old words had no capital."""


def sentences(seed: int) -> list[str]:
    """Return captions and instructions, the text both vocabularies are made from."""
    random = Random(seed)
    found = []
    for _ in range(_SENTENCES):
        scene = scenes.scene(random)
        found.append(captions.caption(random, scene))
        found.append(edits.edit(random, scene).instruction)
    return found


def make_clip_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    """Make CLIP's byte-level BPE, in lower case: each word of the captions is one token.

    A word is spelled from its end (`m</w>`, `um</w>`, `ium</w>`): only a merge that holds the end
    of a word exists, so no other word's merges can break it. The library's trainer would order
    equal counts at random.
    """
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        for token in (byte, byte + "</w>"):
            vocabulary[token] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in sorted(set(_bare_words(corpus)) | set(_OTHER_WORDS)):
        if word.isalpha():
            _spell(word.lower(), vocabulary, merges)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _spell(word: str, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Append what makes a word one token."""
    right = word[-1] + "</w>"
    for left in reversed(word[:-1]):
        if left + right not in vocabulary:
            merges.append((left, right))
            vocabulary[left + right] = len(vocabulary)
        right = left + right


def extended_clip(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Return the tokenizer with `LATER_WORDS` appended, one token each."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = dict(model["vocab"])
    merges = [(left, right) for left, right in model["merges"]]
    for word in LATER_WORDS:
        _spell(word, vocabulary, merges)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def copied_clip(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Return the tokenizer without what calls of it left in its configuration.

    CLIPSeg's processor would warn about the `max_length` of an earlier call at each of its own.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    return CLIPTokenizer(vocab=dict(model["vocab"]), merges=merges, model_max_length=77)


def _bare_words(corpus: list[str]) -> Iterator[str]:
    for sentence in corpus:
        for word in sentence.split():
            yield word.rstrip(".,")


def make_t5_tokenizer(corpus: list[str]) -> T5Tokenizer:
    """Make T5's unigram: words scored by how often they come, letters for the rest."""
    counts: Counter[str] = Counter()
    for word in _bare_words(corpus):
        counts.update((word, word.lower(), word.capitalize()))
    counts.update({word: 5 for word in _OTHER_WORDS if word not in counts})
    total = sum(counts.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    # Sorted by count, then by word: the same pieces from the same captions, always.
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        pieces.append(("\u2581" + word, math.log(count / total)))
    known = {piece for piece, _ in pieces}
    pieces += [(c, -14.0) for c in ("\u2581", *_LETTERS) if c not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def extended_t5(tokenizer: T5Tokenizer) -> T5Tokenizer:
    """Return the tokenizer with `LATER_WORDS` appended, in small letters and with a capital."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pieces = [(piece, score) for piece, score in model["vocab"]]
    known = {piece for piece, _ in pieces}
    # As rare as the rarest whole word, and far likelier than its letters.
    score = min(score for piece, score in pieces if piece[0] == "\u2581" and len(piece) > 1)
    said = [form for word in LATER_WORDS for form in (word, word.capitalize())]
    pieces += [("\u2581" + form, score) for form in said if "\u2581" + form not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
