"""Text as it is compared: one kind of space, quote and hyphen, no invisible characters. Pure.

Spans are told in the text as it was written, so every folded character knows where it came from.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from flux_mcp.compose.audit import lexicon
from flux_mcp.compose.audit.inflection import words
from flux_mcp.compose.audit.lexicon import LONGEST, Sort, rows, table

_PLAIN = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\uff07\u00b4`", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2013\u2014\u2015\u2e3a\u2e3b", "\u2014"),
    **dict.fromkeys("\u2028\u2029\u0085\u000b\u000c", "\n"),
    **dict.fromkeys("\u3001\uff0c", ","),
    **dict.fromkeys("\u3002\uff0e\uff61", "."),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u00d8", "O"),
    **dict.fromkeys("\u00f8", "o"),
    "\r": " ",
    "\u2026": ".",
}


@dataclass(frozen=True)
class Folded:
    """A folded text and where each of its characters stands in the original."""

    text: str
    _starts: Sequence[int]
    _ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where `text[start:end]` stands in the original; it may not be empty."""
        return self._starts[start], self._ends[end - 1]


def fold(text: str) -> Folded:
    """Return the text as it is compared, in its own letter case.

    Full-width letters and ligatures become plain ones, accents go, a combining mark belongs to the
    letter before it, and what cannot be seen (soft hyphens, zero-width characters) is left out.
    """
    if text.isascii():
        plain = text.replace("`", "'").replace("\r", " ")
        plain = plain.replace("\x0b", "\n").replace("\x0c", "\n")
        return Folded(plain, range(len(text)), range(1, len(text) + 1))
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for place, character in enumerate(text):
        plain = _plain(character)
        if not plain:
            # What adds nothing belongs to the letter before it.
            if ends and unicodedata.combining(character):
                ends[-1] = place + 1
            continue
        folded.append(plain)
        starts.extend([place] * len(plain))
        ends.extend([place + 1] * len(plain))
    return Folded("".join(folded), starts, ends)


def _plain(character: str) -> str:
    """Return what a character is compared as; empty if it counts for nothing."""
    if character.isascii() and character not in "`\r\x0b\x0c":
        return character
    known = _PLAIN.get(character)
    if known is not None:
        return known
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category == "Zs":
        return " "
    decomposed = unicodedata.normalize("NFKD", character)
    return "".join(_PLAIN.get(one, one) for one in decomposed if not unicodedata.combining(one))


class TokenKind(Enum):
    """What a token is to a sentence."""

    WORD = "word"
    COMMA = "comma"
    STOP = "stop"
    """Ends a sentence: full stop, exclamation, question mark, semicolon."""
    COLON = "colon"
    DASH = "dash"
    LINE = "line"
    """A line break."""
    BULLET = "bullet"
    """A mark that begins an entry of a list on lines of its own."""
    OPEN = "open"
    CLOSE = "close"
    SLASH = "slash"
    QUOTE = "quote"
    OTHER = "other"
    EDGE = "edge"
    """The end of a block; nothing goes on behind it."""


@dataclass(slots=True)
class Token:
    """A word or a mark, and where it stands in the original text."""

    key: str
    """The folded word in lower case; for marks the mark itself."""
    kind: TokenKind
    start: int
    end: int
    glued: bool = False
    """Whether a hyphen joins it to the word before it: "free" in "people-free"."""
    hangs: bool = False
    """Whether a hyphen follows it and then no word: "text" in "text- and logo-free"."""


_TOKEN = re.compile(
    r"""[ \t]*+(?:
      (?P<bullet>  (?<![^\n])\d{1,2}[.)](?=[ \t]) )
    | (?P<word>    [^\W_]++(?:'[^\W_]+)*+(?![.,:/]\w) )
    | (?P<comma>   [,|] )
    | (?P<stop>    [.!?;]+ )
    | (?P<hyphen>  (?<=[^\W_])-(?=[^\W_]) )
    | (?P<hangs>   (?<=[^\W_])-(?=[\s,]) )
    | (?P<option>  (?<!\S)--(?=\w) )
    | (?P<dash>    —|--+|(?<!\S)-(?=\s) )
    | (?P<line>    \n(?:\s*\n)* )
    | (?P<colon>   [:=] )
    | (?P<quote>   ["'] )
    | (?P<open>    [(\[{] )
    | (?P<close>   [)\]}] )
    | (?P<without> \b[wW]/[oO](?:[uU][tT])?\b )
    | (?P<letters> \b(?:[^\W\d_]\.){2,} )
    | (?P<number>  \d+(?:[.,:]\d+)+ | [^\W_]++(?:'[^\W_]+)*+ )
    | (?P<slash>   / )
    | (?P<and>     [&+] )
    | (?P<no>      [🚫❌✖✗✘⛔] )
    | (?P<other>   [^\s\w] )
    )""",
    re.VERBOSE,
)
_MARKS = {
    "comma": TokenKind.COMMA,
    "stop": TokenKind.STOP,
    "colon": TokenKind.COLON,
    "dash": TokenKind.DASH,
    "line": TokenKind.LINE,
    "bullet": TokenKind.BULLET,
    "open": TokenKind.OPEN,
    "close": TokenKind.CLOSE,
    "slash": TokenKind.SLASH,
    "quote": TokenKind.QUOTE,
    "other": TokenKind.OTHER,
}
_BULLETS = "—-*•·‣"
_STANDS_FOR = {"without": "without", "and": "and", "no": "no", "option": "--"}
_ENDINGS = ("'s", "'re", "'ve", "'ll", "'d", "'m")
_VERBS = "are could did do does had has have is might must need should was were would"
_NOT = {
    **{f"{verb}n't": verb for verb in words(_VERBS)},
    "can't": "can",
    "won't": "will",
    "shan't": "shall",
    "ain't": "is",
    "cannot": "can",
}
_NOT |= {key.replace("'", ""): verb for key, verb in _NOT.items()}


def tokenize(text: str, offset: int = 0) -> list[Token]:
    """Return the tokens of a text that begins at `offset` of the prompt."""
    folded = fold(text)
    tokens: list[Token] = []
    joined = False
    for found in _TOKEN.finditer(folded.text):
        kind = found.lastgroup or "other"
        if kind == "hyphen":
            joined = True
            continue
        if kind == "hangs":
            if tokens:
                tokens[-1].hangs = True
            continue
        written = found[kind]
        start, end = folded.span(*found.span(kind))
        start, end = start + offset, end + offset
        mark = _MARKS.get(kind)
        if mark is None:
            for key in _keys(kind, written.casefold()):
                tokens.append(Token(key, TokenKind.WORD, start, end, joined))
                joined = False
        else:
            begins_line = not tokens or tokens[-1].kind is TokenKind.LINE
            is_bullet = begins_line and written in _BULLETS
            tokens.append(Token(written, TokenKind.BULLET if is_bullet else mark, start, end))
    return tokens


def _keys(kind: str, word: str) -> tuple[str, ...]:
    """Return the word, or the two words, that a spelling stands for."""
    if kind in _STANDS_FOR:
        return (_STANDS_FOR[kind],)
    if kind == "letters":
        return (word.replace(".", ""),)
    verb = _NOT.get(word)
    if verb is not None:
        return verb, "not"
    if "'" in word:
        for ending in _ENDINGS:
            word = word.removesuffix(ending)
    return (word,)


_JOINING = words("and or nor plus with")
_DETERMINERS = words("a additional an any extra more other single some such the")
_FOLLOWING = words("and or nor of")


def unwrap(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens without the breaks inside of a sentence; other breaks end one.

    A break is inside where the line before leaves something open (a comma, "no", "the", "in") or
    the next one carries on ("or people").
    """
    return [
        token
        for place, token in enumerate(tokens)
        if token.kind is not TokenKind.LINE or not _is_inside(tokens, place)
    ]


def _is_inside(tokens: Sequence[Token], place: int) -> bool:
    if not 0 < place < len(tokens) - 1 or tokens[place].key.count("\n") > 1:
        return False
    before, behind = tokens[place - 1], tokens[place + 1]
    if behind.kind is not TokenKind.WORD:
        return False
    if before.kind is TokenKind.COMMA:
        return True
    leaves_open = before.kind is TokenKind.WORD and (before.hangs or before.key in _opening())
    return leaves_open or (before.kind is TokenKind.WORD and behind.key in _FOLLOWING)


@cache
def _opening() -> frozenset[str]:
    """Return the words that leave something open."""
    sorts = (Sort.DETERMINER, Sort.LEXICAL, Sort.VERB, Sort.PREDICATE)
    cues = frozenset(row.split()[-1] for sort in sorts for row in rows(sort))
    known = _DETERMINERS | lexicon.PREPOSITIONS | lexicon.DEFINITE | lexicon.COPULAS
    return cues | known | _JOINING


_PADDING = max(LONGEST, 8)


class View:
    """The tokens of a prompt, by place; places beyond either end hold nothing."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        # Place -1 is the last of the padding, so the front needs none of its own.
        self.keys = [token.key for token in tokens] + [""] * _PADDING
        self._kinds = [token.kind for token in tokens] + [TokenKind.EDGE] * _PADDING
        self._glued = [token.glued for token in tokens] + [False] * _PADDING
        self._table = table()

    def __len__(self) -> int:
        return len(self.tokens)

    def key(self, place: int) -> str:
        """Return the word or mark at a place; empty beyond the ends."""
        return self.keys[place]

    def kind(self, place: int) -> TokenKind:
        """Return what is at a place; an edge beyond the ends."""
        return self._kinds[place]

    def is_word(self, place: int) -> bool:
        """Return whether a word is at a place."""
        return self._kinds[place] is TokenKind.WORD

    def is_glued(self, place: int) -> bool:
        """Return whether a hyphen joins the word at a place to the one before it."""
        return self._glued[place]

    def cue_at(self, place: int) -> tuple[int, Sort] | None:
        """Return where the longest cue that begins here ends, and its sort."""
        rows = self._table.get(self.keys[place])
        if rows is None:
            return None
        for phrase, sort in rows:
            behind = place + len(phrase)
            if self.keys[place:behind] != phrase:
                continue
            # "like-minded" is no cue, "no-people" is one.
            if not self._glued[behind] or sort is Sort.DETERMINER or phrase == ["sans"]:
                return behind, sort
        return None
