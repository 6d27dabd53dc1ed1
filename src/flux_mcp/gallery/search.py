"""A search of the gallery as SQL: filters, words, times, and the cursors between its pages.

Also what the rows need for it: their order (`n`, made of their time), and the words that stand for
columns in the full-text index. Pure: store.py runs the statements.
"""

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flux_mcp.errors import InvalidCursorError, InvalidRequestError
from flux_mcp.gallery.provenance import MAX_INTEGER

MIN_PREFIX_CHARACTERS = 3
"""A word that ends in * finds longer words from here on; shorter beginnings have too many."""
PER_MICROSECOND = 256
"""Places in the order of rows for each microsecond: that many may share one."""
NEAR = 60 * 1_000_000 * PER_MICROSECOND
"""Places by which a row may stand behind its time, so that what was saved last is first: an hour
put back, or a clock set right, is more, and is recorded (`Gallery.add`)."""
_FACETS = ("kind", "model", "session", "principal")
_MAC_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class SearchFilter:
    """Which images to look for; everything that is given must hold."""

    query: str | None = None
    """Words of the prompt, in any order and English inflection; all must occur. `pain*` finds what
    begins so. Nothing else is an operator."""
    kind: str | None = None
    model: str | None = None
    session: str | None = None
    seed: int | None = None
    principal: str | None = None
    """Whose images; `None` for everybody's."""
    created_after: str | None = None
    """ISO 8601 date or time, UTC unless it says otherwise, inclusive."""
    created_before: str | None = None
    """The same, exclusive."""
    limit: int = 20
    cursor: str | None = None
    """`next_cursor` of the page before."""


@dataclass
class Statement:
    """One search: equal columns, a range of `n`, times, and words."""

    equal: dict[str, object]
    at_least: int
    less_than: int
    created_after: str | None
    """As the column has it; so is `created_before`."""
    created_before: str | None
    match: str | None
    finds_nothing: bool
    fingerprint: bytes

    def below(self, n: int) -> None:
        """Leave out what is not older than row `n`."""
        self.less_than = min(self.less_than, n)

    def reach(self, n: int) -> None:
        """Look at rows up to `n` too: some of them stand behind their time."""
        if self.created_before is not None:
            self.less_than = max(self.less_than, n + 1)

    def build(self, limit: int) -> tuple[str, dict[str, object]]:
        """Return the SQL and its values."""
        values: dict[str, object] = {
            **self.equal,
            "at_least": self.at_least,
            "less_than": self.less_than,
            "limit": limit,
        }
        conditions = [f"images.{name} = :{name}" for name in self.equal]
        for name, sign in (("created_after", ">="), ("created_before", "<")):
            if (moment := getattr(self, name)) is not None:
                conditions.append(f"images.created_at {sign} :{name}")
                values[name] = moment
        source, key = f"images {self._index()}", "images.n"
        if self.match is not None:
            conditions.append("images_fts MATCH :match")
            values["match"] = self._match_with_facets(self.match)
            # CROSS JOIN keeps the order: the few rows of a seed, or else the words, come first.
            if "seed" in self.equal:
                source += " CROSS JOIN images_fts ON images_fts.rowid = images.n"
            else:
                source = "images_fts CROSS JOIN images ON images.n = images_fts.rowid"
                key = "images_fts.rowid"
        conditions += [f"{key} >= :at_least", f"{key} < :less_than"]
        where = " AND ".join(conditions)
        sql = f"SELECT images.* FROM {source} WHERE {where} ORDER BY {key} DESC LIMIT :limit"  # noqa: S608 - our own names
        return sql, values

    def _match_with_facets(self, match: str) -> str:
        # A common word in a rare session: the index intersects both before a row is read.
        facets = [_facet(name, self.equal[name]) for name in _FACETS if name in self.equal]
        return " AND ".join([f"prompt : ({match})", *(f"facets : {facet}" for facet in facets)])

    def _index(self) -> str:
        # Named, because SQLite without statistics cannot know that a seed is rarer than a kind.
        rarer = {"seed", "session", "principal"}
        if {"kind", "model"} <= self.equal.keys() and not rarer & self.equal.keys():
            return "INDEXED BY images_kind_model"
        for name in ("seed", "session", "principal", "model", "kind"):
            if name in self.equal:
                return f"INDEXED BY images_{name}"
        return ""


def statement_for(wanted: SearchFilter) -> Statement:
    """Return the search for what is wanted, still without its cursor and limit.

    Raises:
        InvalidRequestError: a date cannot be read.
    """
    given = {
        name: getattr(wanted, name)
        for name in ("kind", "model", "session", "seed", "principal")
        if getattr(wanted, name) is not None
    }
    after = _parse_time("created_after", wanted.created_after)
    before = _parse_time("created_before", wanted.created_before)
    match = None if wanted.query is None else _match_expression(wanted.query)
    text = json.dumps([sorted(given.items()), match, after, before])
    return Statement(
        equal=given,
        at_least=_clamp(-MAX_INTEGER if after is None else after * PER_MICROSECOND),
        less_than=_clamp(MAX_INTEGER if before is None else before * PER_MICROSECOND + NEAR),
        created_after=_column_time(after),
        created_before=_column_time(before),
        match=match,
        finds_nothing=match == "" or not all(is_storable(value) for value in given.values()),
        fingerprint=hashlib.sha256(text.encode()).digest(),
    )


def _match_expression(query: str) -> str | None:
    """Return an FTS5 expression in which every word is quoted, so none of them is an operator.

    `None` for a query of spaces: no words to ask for. Empty for words that are only punctuation,
    which the index does not hold.
    """
    # The index holds neither NUL, which ends FTS5's parsing, nor halves of surrogate pairs.
    clean = "".join(" " if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in query)
    if not clean.split():
        return None
    return " AND ".join(_quote(word) for word in clean.split() if any(c.isalnum() for c in word))


def _quote(word: str) -> str:
    stem = word.removesuffix("*")
    is_prefix = stem != word and stem[-1:].isalnum() and len(stem) >= MIN_PREFIX_CHARACTERS
    return '"' + stem.replace('"', '""') + '"' + ("*" if is_prefix else "")


def facets_of(row: Mapping[str, object]) -> str:
    """Return the words that stand for a row's columns in the full-text index."""
    return " ".join(_facet(name, row[name]) for name in _FACETS if row[name] is not None)


def _facet(name: str, value: object) -> str:
    """Return a made-up word that stands for `name = value` in the full-text index.

    Two values may share one: the column itself is compared as well.
    """
    return f"{name}{hashlib.sha256(str(value).encode()).hexdigest()[:12]}x"


# --- values ------------------------------------------------------------------------------------


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970; UTC unless it says otherwise."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def is_storable(value: object) -> bool:
    """Whether SQLite can hold it at all; what it cannot hold, no row has."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return not any("\ud800" <= character <= "\udfff" for character in str(value))


def _parse_time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return microseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(
            f"{name}: {text[:40]!r} is not an ISO 8601 date or time.",
            "Write 2026-01-31 or 2026-01-31T18:00:00Z.",
        ) from error


def _column_time(moment: int | None) -> str | None:
    """Return a moment as the column `created_at` has it; `None` if no row can have it."""
    if moment is None:
        return None
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)
    except OverflowError:  # before the year 1, or after 9999
        return None
    return time.isoformat(timespec="microseconds")


def _clamp(n: int) -> int:
    return max(-MAX_INTEGER, min(MAX_INTEGER, n))


# --- cursors: where a page ended, signed together with the filters it belongs to ---------------


def make_cursor(n: int, fingerprint: bytes, key: bytes) -> str:
    """Return the cursor to what comes after row `n` of a search."""
    return _signed(struct.pack(">q", n), fingerprint, key).decode()


def read_cursor(cursor: str, fingerprint: bytes, key: bytes) -> int:
    """Return the row a cursor was made at.

    Raises:
        InvalidCursorError: it was made with another key, or for a search with another fingerprint.
    """
    try:
        text = cursor.encode("ascii")
        place = base64.b64decode(text, altchars=b"-_", validate=True)[:8]
    except ValueError:
        text = place = b""
    # The text itself, not what it decodes to: its last letter has bits that decode to nothing.
    if not hmac.compare_digest(text, _signed(place, fingerprint, key)):
        raise InvalidCursorError(
            "The cursor does not belong to this search.",
            "Use next_cursor unchanged, with the same query and filters; or leave it out.",
        )
    return int(struct.unpack(">q", place)[0])


def _signed(place: bytes, fingerprint: bytes, key: bytes) -> bytes:
    mac = hmac.new(key, place + fingerprint, hashlib.sha256).digest()[:_MAC_BYTES]
    return base64.urlsafe_b64encode(place + mac)
