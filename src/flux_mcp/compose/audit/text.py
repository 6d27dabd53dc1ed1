"""A prompt as the audit compares it: folded characters, then tokens, then a view of them by place.

Folding leaves one kind of space, quotation mark and hyphen, and no invisible characters. Spans are
those of the text as it was written: each folded character has its place in the original.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from flux_mcp.compose.audit.lexicon import CueKind, cue_phrases, cues, lexicon
from flux_mcp.compose.audit.tables import words

# --- folding --------------------------------------------------------------------------------------

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
    """A folded text, and the place of each of its characters in the original."""

    text: str
    _starts: Sequence[int]
    _ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of `text[start:end]` in the original; it may not be empty."""
        return self._starts[start], self._ends[end - 1]


def fold(text: str) -> Folded:
    """Return the text as it is compared, in its own letter case.

    Full-width letters and ligatures become plain ones, accents go, a combining mark belongs to the
    letter before it, and invisible characters (soft hyphens, zero-width spaces) are left out.
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
            # A combining mark lengthens the letter before it.
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


# --- tokens ---------------------------------------------------------------------------------------


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
    """The end of a block; no sentence goes on behind it."""


@dataclass(slots=True)
class Token:
    """A word or a mark, and its span in the original text."""

    key: str
    """The folded word in lower case; for marks the mark itself."""
    kind: TokenKind
    start: int
    end: int
    glued: bool = False
    """Whether a hyphen joins it to the word before it: "free" in "people-free"."""
    hangs: bool = False
    """Whether a hyphen without a word follows it: "text" in "text- and logo-free"."""


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
    """Return the word, or the two words, that a spelling means."""
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


# --- line breaks ----------------------------------------------------------------------------------


def unwrap(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens without the line breaks inside of a sentence; other breaks end one.

    A break is inside of a sentence if the line before leaves something open (a comma, "no", "the",
    "in") or the next one carries on ("or people").
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
    if before.kind is not TokenKind.WORD:
        return False
    leaves_open = before.hangs or before.key in _opening()
    return leaves_open or behind.key in lexicon().line_beginnings


@cache
def _opening() -> frozenset[str]:
    """Return the words that leave something open at the end of a line."""
    kinds = (CueKind.DETERMINER, CueKind.LEXICAL, CueKind.VERB, CueKind.PREDICATE)
    ends = {phrase.split()[-1] for kind in kinds for phrase in cue_phrases()[kind]}
    known = lexicon()
    return known.joining.union(
        ends, known.line_determiners, known.prepositions, known.definite, known.copulas
    )


# --- the view -------------------------------------------------------------------------------------

_PADDING = 8
"""How far beyond the ends the audit looks at most: more than a cue has words."""


class TokenView:
    """The tokens of a prompt by place; places beyond either end have no token."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        # Place -1 is the last of the padding: the front needs none of its own.
        self.keys = [token.key for token in tokens] + [""] * _PADDING
        self._kinds = [token.kind for token in tokens] + [TokenKind.EDGE] * _PADDING
        self._glued = [token.glued for token in tokens] + [False] * _PADDING
        self._cues = cues()

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

    def cue_at(self, place: int) -> tuple[int, CueKind] | None:
        """Return the place behind the longest cue that begins here, and its kind."""
        beginning = self._cues.get(self.keys[place])
        if beginning is None:
            return None
        for phrase, kind in beginning:
            behind = place + len(phrase)
            if self.keys[place:behind] != phrase:
                continue
            # "like-minded" is no cue, "no-people" is one.
            if not self._glued[behind] or kind is CueKind.DETERMINER or phrase == ["sans"]:
                return behind, kind
        return None
