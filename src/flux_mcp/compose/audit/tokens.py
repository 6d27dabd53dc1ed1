"""Folded text -> words and marks. Pure.

Contractions become two words ("don't": "do", "not"), possessives lose their ending, and the words
of a hyphenated compound stand apart but know that they are joined.
"""

import re
from dataclasses import dataclass
from enum import Enum

from flux_mcp.compose.audit.folding import fold
from flux_mcp.compose.audit.wordlists import words


class Kind(Enum):
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
    kind: Kind
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
    "comma": Kind.COMMA,
    "stop": Kind.STOP,
    "colon": Kind.COLON,
    "dash": Kind.DASH,
    "line": Kind.LINE,
    "bullet": Kind.BULLET,
    "open": Kind.OPEN,
    "close": Kind.CLOSE,
    "slash": Kind.SLASH,
    "quote": Kind.QUOTE,
    "other": Kind.OTHER,
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
                tokens.append(Token(key, Kind.WORD, start, end, joined))
                joined = False
        else:
            begins_line = not tokens or tokens[-1].kind is Kind.LINE
            is_bullet = begins_line and written in _BULLETS
            tokens.append(Token(written, Kind.BULLET if is_bullet else mark, start, end))
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
