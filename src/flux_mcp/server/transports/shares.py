"""Shares: what callers have at the same time of something that there is a limited amount of.

A caller with a named token has at most `each`, and all of them together three quarters: the owner
of this machine is never locked out by others.
"""

from collections import Counter

from flux_mcp.principals import LOCAL

OTHERS = 0.75


class Shares:
    """Counts what each caller has.

    Args:
        total: How much there is.
        each: The most one caller with a name may have.
        owner: The most this machine's owner may have; `None` means all there is.
    """

    def __init__(self, total: int, each: int, owner: int | None = None) -> None:
        self.total = total
        self.each = min(each, total)
        self.owner = total if owner is None else min(owner, total)
        self._of_others = max(self.each, int(OTHERS * total))
        self._taken: Counter[str] = Counter()

    def limit(self, principal: str) -> int:
        """Return the most that a caller may have."""
        return self.owner if principal == LOCAL else self.each

    def taken(self, principal: str) -> int:
        """Return how much a caller has."""
        return self._taken[principal]

    def take(self, principal: str, amount: int = 1) -> bool:
        """Give a caller more, unless that is too much; return whether it was given."""
        everybody = self._taken.total() + amount
        others = everybody - self._taken[LOCAL]
        is_too_much = (
            self._taken[principal] + amount > self.limit(principal)
            or everybody > self.total
            or (principal != LOCAL and others > self._of_others)
        )
        if not is_too_much:
            self._taken[principal] += amount
        return not is_too_much

    def give_back(self, principal: str, amount: int = 1) -> None:
        """Take back what a caller had."""
        self._taken[principal] -= amount
        if not self._taken[principal]:
            del self._taken[principal]
