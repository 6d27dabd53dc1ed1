"""White space and punctuation as a careful writer leaves them. Pure.

Text inside double quotation marks (`"…"`, `“…”`, `„…“`, `«…»`) is what the picture should show, so
it is never changed; single marks are apostrophes too often to count. Outside of them nothing that
carries meaning is changed: no word, no capital letter, no number.
"""

import re
from collections.abc import Iterator

# Where a quotation begins and ends depends on the marks alone, never on what stands between:
# tidying leaves the marks, so it finds the same quotations again.
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»')
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s+"), " "),
    # Not before a digit: `a .5 mm gap` stays.
    (re.compile(r" +([,;:.!?)\]])(?=[\s,;:.!?)\]]|\Z)"), r"\1"),
    (re.compile(r"([(\[]) +"), r"\1"),
    (re.compile(r"\.{4,}"), "..."),
    (re.compile(r"(?<!\.)\.\.(?!\.)"), "."),
    # Commas and semicolons give way to a stronger mark beside them.
    (re.compile(r"[,;]*;[,;]*"), ";"),
    (re.compile(r",{2,}"), ","),
    (re.compile(r"(?<=[:!?])[,;]+"), ""),
    (re.compile(r"[,;]+(?=[.:!?])"), ""),
)
_LEADING = re.compile(r"\A(?:[,;:.!?]+(?=\s|\Z)|\s)+")
_TRAILING = re.compile(r"[\s,;]+\Z")


def tidy(text: str) -> str:
    """Return the text with single spaces, and without doubled or stranded punctuation.

    `tidy(tidy(text)) == tidy(text)`, and `quotations(tidy(text)) == quotations(text)`.
    """
    pieces = list(_pieces(text))
    tidied = [piece if is_quoted else _tidy_piece(piece) for piece, is_quoted in pieces]
    if pieces and not pieces[0][1]:
        tidied[0] = _LEADING.sub("", tidied[0])
    if pieces and not pieces[-1][1]:
        tidied[-1] = _TRAILING.sub("", tidied[-1])
    return "".join(tidied)


def _tidy_piece(piece: str) -> str:
    before = None
    while before != piece:
        # A rule can make room for one before it: `, ,` becomes `,,` and then `,`.
        before = piece
        for pattern, replacement in _RULES:
            piece = pattern.sub(replacement, piece)
    return piece


def quotations(text: str) -> tuple[str, ...]:
    """Return every quotation of a text with its marks: what the picture should show."""
    return tuple(piece for piece, is_quoted in _pieces(text) if is_quoted)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the whole text in order: quotations (true), and what stands between them (false)."""
    start = 0
    for found in _QUOTED.finditer(text):
        if found.start() > start:
            yield text[start : found.start()], False
        yield found[0], True
        start = found.end()
    if start < len(text):
        yield text[start:], False
