"""Log lines on stderr: for people, or one JSON object a line.

A line is a short sentence without values, and fields. Fields come from the call (`extra=`), from
the block it stands in (`log_fields`), and from whom the task acts for (principals.py); None leaves
a field out.

No line above the level debug has what a user wrote: no prompt, no path of an image. Code that logs
names ids and codes only; the text of an exception, which may quote its input, is left out here,
except where it says what an operator must know (`_safe_text`).
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO

from flux_mcp.errors import FluxMcpError, RequestError
from flux_mcp.principals import LOCAL, acting
from flux_mcp.settings.environment import wants_colour

LogFormat = Literal["human", "json"]
Fields = Mapping[str, Any]

_fields: ContextVar[Fields] = ContextVar("flux_mcp_log_fields", default=MappingProxyType({}))

_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}
_CAUSE = "The above exception was the direct cause of this one:"


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Put fields on every line of the block, and of tasks that are started there."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def set_up(
    level: str,
    log_format: LogFormat = "human",
    stream: TextIO | None = None,
    *,
    is_terminal: bool | None = None,
) -> None:
    """Send the log to stderr: ours from `level` on, that of libraries from warnings on.

    Args:
        level: debug, info, warning or error.
        log_format: How a line looks.
        stream: Instead of stderr.
        is_terminal: Whether a person looks at it; `None` asks the stream, which a relay hides.
    """
    out = sys.stderr if stream is None else stream
    by_person = out.isatty() if is_terminal is None else is_terminal
    handler = logging.StreamHandler(out)
    handler.addFilter(Ambient())
    quotes = level == "debug"
    if log_format == "json":
        handler.setFormatter(JsonLines(quotes=quotes))
    else:
        handler.setFormatter(HumanLines(quotes=quotes, colour=wants_colour(by_person)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("flux_mcp").setLevel(level.upper())
    # What a library warns of is a line like any other.
    logging.captureWarnings(capture=True)


class Ambient(logging.Filter):
    """Gives each record the fields of the task that wrote it; the call's own go before them."""

    def __init__(self) -> None:
        super().__init__()
        # A server has it imported already; `--help`, which writes no log, need not wait for it.
        from opentelemetry import trace  # noqa: PLC0415

        self._current_span = trace.get_current_span

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        who = acting()
        span = self._current_span().get_span_context()
        ambient = {
            "principal": None if who == LOCAL else who,
            "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
            **_fields.get(),
        }
        for name, value in ambient.items():
            if name not in record.__dict__:
                record.__dict__[name] = value
        return True


class _LogFormatter(logging.Formatter):
    """Base of both formats: fields and exceptions of a record.

    Args:
        quotes: Whether the text of every exception may be shown.
    """

    def __init__(self, *, quotes: bool) -> None:
        super().__init__()
        self._quotes = quotes
        plain = logging.LogRecord("", 0, "", 0, "", (), None)
        self._not_fields = frozenset({*vars(plain), "message", "asctime", "taskName"})

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what a record has beside its message; seconds to the millisecond."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in vars(record).items()
            if name not in self._not_fields and value is not None
        }

    def exception(self, record: logging.LogRecord) -> str | None:
        """Return a record's exception as text, `None` where it has none."""
        error = record.exc_info[1] if record.exc_info else None
        return None if error is None else explain(error, quotes=self._quotes)


class JsonLines(_LogFormatter):
    """One JSON object a line: `ts`, `level`, `logger`, `message`, fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ASCII, so that no terminal or encoding can break it."""
        line = {
            "ts": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        exception = self.exception(record)
        if exception is not None:
            line["exception"] = exception
        return json.dumps(line, default=str)


class HumanLines(_LogFormatter):
    """Time, level, logger, message, then fields as name=value; an exception on its own lines.

    Args:
        quotes: As in the base class.
        colour: Whether to colour warnings and errors and to dim the fields.
    """

    def __init__(self, *, quotes: bool, colour: bool) -> None:
        super().__init__(quotes=quotes)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in local time."""
        moment = _moment(record).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        head = f"{moment} {record.levelname} {record.name}: {_printable(record.getMessage())}"
        tail = " ".join(f"{name}={_value(value)}" for name, value in self.fields(record).items())
        if self._colour:
            colour = _COLOURS.get(record.levelno)
            head = head if colour is None else f"{colour}{head}{_RESET}"
            tail = f"{_DIM}{tail}{_RESET}" if tail else ""
        lines = [f"{head} {tail}".rstrip()]
        exception = self.exception(record)
        if exception is not None:
            lines += [_printable(line) for line in exception.splitlines()]
        return "\n".join(lines)


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _value(value: Any) -> str:
    text = str(value)
    is_word = bool(text) and text.isprintable() and not set(' "=') & set(text)
    return text if is_word else json.dumps(text)


def _printable(text: str) -> str:
    """Return text on one line, with control characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


# --- the same line again and again -------------------------------------------------------------

REPEAT_S = 60.0


class Repeats(logging.Filter):
    """Lets each message of a logger pass once a minute; then one line says how often it came.

    For what others can make happen as often as they like: the log must not grow with it. Messages
    are told apart by their text without arguments, their code, and the type of their exception.

    Args:
        target: The logger whose lines pass through this until `close`.
    """

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target
        self._since: dict[str, float] = {}
        self._held: dict[str, tuple[logging.LogRecord, int]] = {}
        target.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written now."""
        kind = record.exc_info[0] if record.exc_info else None
        message = f"{record.msg} {record.__dict__.get('code')} {kind}"
        if "times" in record.__dict__ or message not in self._since:
            self._since[message] = record.created
            return True
        _, times = self._held.get(message, (record, 0))
        self._held[message] = (record, times + 1)
        return False

    def tell(self, now_s: float) -> None:
        """Write what was held back, of messages whose last line is a minute old; forget others.

        Args:
            now_s: Seconds since the epoch, as records have them.
        """
        for message, since_s in list(self._since.items()):
            if abs(now_s - since_s) >= REPEAT_S and not self._write_held(message, now_s):
                del self._since[message]

    def close(self) -> None:
        """Write what was held back, and let every line pass."""
        for message in list(self._since):
            self._write_held(message, time.time())
        self._target.removeFilter(self)

    def _write_held(self, message: str, now_s: float) -> bool:
        record, times = self._held.pop(message, (None, 0))
        if record is None:
            return False
        record.__dict__.update(times=times, created=now_s)
        self._target.handle(record)
        return True


# --- exceptions --------------------------------------------------------------------------------


def explain(error: BaseException, *, quotes: bool) -> str:
    """Return where an exception came from and what it is, with its causes and the group's members.

    Args:
        error: The exception.
        quotes: Whether to show the text of each, which may quote what a user wrote.
    """
    if quotes:
        return "".join(traceback.format_exception(error)).rstrip()
    return "\n".join(_explain(error, seen=set()))


def _explain(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    hidden = None if error.__suppress_context__ else error.__context__
    before = error.__cause__ or hidden
    if before is not None and id(before) not in seen:
        yield from _explain(before, seen)
        yield _CAUSE
    for entry in traceback.format_tb(error.__traceback__):
        yield from entry.splitlines()
    text = _safe_text(error)
    name = type(error).__qualname__
    yield f"{name}: {text}" if text else f"{name} (its text is shown at the log level debug)"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            yield f"member {number} of {len(error.exceptions)}:"
            yield from _explain(member, seen)


def _safe_text(error: BaseException) -> str | None:
    """Return the text of an exception where it cannot quote what a user wrote, else `None`."""
    if isinstance(error, FluxMcpError) and not isinstance(error, RequestError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)  # without the path
    return None
