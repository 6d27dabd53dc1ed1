"""Tokens to look around in: what stands before and behind a place. Pure."""

from collections.abc import Sequence

from flux_mcp.compose.audit.cues import LONGEST, Sort, table
from flux_mcp.compose.audit.tokens import Kind, Token

_PADDING = max(LONGEST, 8)


class View:
    """The tokens of a prompt, by place; places beyond either end hold nothing."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        # Place -1 is the last of the padding, so the front needs none of its own.
        self.keys = [token.key for token in tokens] + [""] * _PADDING
        self._kinds = [token.kind for token in tokens] + [Kind.EDGE] * _PADDING
        self._glued = [token.glued for token in tokens] + [False] * _PADDING
        self._table = table()

    def __len__(self) -> int:
        return len(self.tokens)

    def key(self, place: int) -> str:
        """Return the word or mark at a place; empty beyond the ends."""
        return self.keys[place]

    def kind(self, place: int) -> Kind:
        """Return what is at a place; an edge beyond the ends."""
        return self._kinds[place]

    def is_word(self, place: int) -> bool:
        """Return whether a word is at a place."""
        return self._kinds[place] is Kind.WORD

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
