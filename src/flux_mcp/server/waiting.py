"""How long calls wait for a job: what they ask for, as far as their clients wait for the answer."""

from collections import OrderedDict

from flux_mcp.server.timeouts import Session

MAX_SESSIONS = 1000
"""Sessions whose clients are remembered."""
REPEAT_S = 4.0
"""The same call again, after this long, is a second try: the shortest time-out of a client that is
known is 5 s (openai-agents, autogen, google-adk). Calls that are meant come together, or after the
answer."""
WAIT_SHARE = 0.7
"""Of the time after which a client ended a call: later calls are answered by then."""
SHORT_WAIT_S = 4.0
"""For clients that say nothing, and are known by a second try only."""


def wanted_wait_s(given_s: float | None, client_s: float | None, usual_s: float) -> float:
    """Return how long a call wants to wait for its job.

    Args:
        given_s: What the call says.
        client_s: What the row of its client says (clients.py), or a setting instead.
        usual_s: What counts where neither says anything.
    """
    return next(one for one in (given_s, client_s, usual_s) if one is not None)


# --- what is remembered ------------------------------------------------------------------------


class ClientTimeouts:
    """How long calls may wait, by session, as far as their clients have shown it."""

    def __init__(self) -> None:
        self._most_s: OrderedDict[Session, float] = OrderedDict()

    def most_s(self, session: Session | None) -> float | None:
        """Return how long after its begin a call of this session is to be answered at the latest.

        `None` while nothing is known.
        """
        return None if session is None else self._most_s.get(session)

    def timed_out(self, session: Session | None, after_s: float) -> None:
        """Remember that a client ended a call after this many seconds."""
        self._remember(session, WAIT_SHARE * after_s)

    def gave_up(self, session: Session | None) -> None:
        """Remember that a client made a call again while it was still open."""
        self._remember(session, SHORT_WAIT_S)

    def _remember(self, session: Session | None, most_s: float) -> None:
        if session is None:
            return
        self._most_s[session] = min(most_s, self._most_s.get(session, most_s))
        self._most_s.move_to_end(session)
        if len(self._most_s) > MAX_SESSIONS:
            self._most_s.popitem(last=False)
