"""Log lines: one object or one line each, and no text of an exception that may quote a user."""

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from flux_mcp.errors import StorageError, UnknownJobError
from flux_mcp.observability import logs
from flux_mcp.principals import acting_as

WORDS = "a pelican on a bicycle"
LOGGER = logging.getLogger("flux_mcp.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Leave logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("flux_mcp")
    kept, levels = root.handlers, (root.level, ours.level)
    yield
    root.handlers = kept
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(capture=False)


def log(log_format: Any, level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
    """Set logging up as a command does; the handlers of pytest are in nobody's way."""
    stream = stream or io.StringIO()
    logging.getLogger().handlers = []
    logs.set_up(level, log_format, stream)
    return stream


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_message_and_fields() -> None:
    stream = log("json")
    LOGGER.info("job started", extra={"job_id": "job_1", "wait_s": 0.123456, "code": None})
    (line,) = objects(stream)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "flux_mcp.test",
        "message": "job started",
        "job_id": "job_1",
        "wait_s": 0.123,
    }


def test_fields_of_the_block_and_who_acts_are_on_each_line_and_the_calls_own_go_before() -> None:
    stream = log("json")
    with acting_as("alice"), logs.log_fields(tool="flux_edit", job_id="job_1"):
        LOGGER.info("one")
        with logs.log_fields(job_id="job_2"):
            LOGGER.info("two", extra={"tool": "flux_fill"})
    LOGGER.info("three")
    told = [
        {name: line[name] for name in ("principal", "tool", "job_id") if name in line}
        for line in objects(stream)
    ]
    assert told == [
        {"principal": "alice", "tool": "flux_edit", "job_id": "job_1"},
        {"principal": "alice", "tool": "flux_fill", "job_id": "job_2"},
        {},
    ]


def test_a_line_names_the_trace_it_was_written_in() -> None:
    stream = log("json")
    span = NonRecordingSpan(SpanContext(trace_id=0xABC, span_id=1, is_remote=True))
    with trace.use_span(span):
        LOGGER.info("inside")
    assert objects(stream)[0]["trace_id"] == f"{0xABC:032x}"


def test_people_read_name_value_pairs_on_one_line_whatever_the_values_hold() -> None:
    stream = log("human")
    LOGGER.warning("worker\nended", extra={"reason": 'by "SIGKILL"\x1b[2J', "pid": 7, "e": ""})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(
        r'WARNING flux_mcp.test: worker\nended reason="by \"SIGKILL\"\u001b[2J" pid=7 e=""'
    )


def test_only_a_terminal_that_wants_them_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = log("human"), Terminal()
    LOGGER.error("wrong", extra={"code": "storage"})
    assert "\x1b" not in plain.getvalue()
    log("human", stream=coloured)
    LOGGER.error("wrong", extra={"code": "storage"})
    assert "\x1b[31m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    unwanted = log("human", stream=Terminal())
    LOGGER.error("wrong")
    assert "\x1b" not in unwanted.getvalue()


def raise_all() -> None:
    """Raise what quotes a user in a cause, in a group's member, and in its own text."""
    cause = UnknownJobError(f"There is no job '{WORDS}'.")
    members = [KeyError(WORDS), OSError(28, "said by nobody", f"/pictures/{WORDS}.png")]
    raise ExceptionGroup(WORDS, members) from cause


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_an_exception_is_told_without_its_text_and_with_it_at_debug(log_format: Any) -> None:
    told = {}
    for level in ("info", "debug"):
        stream = log(log_format, level)
        try:
            raise_all()
        except ExceptionGroup:
            LOGGER.exception("a bug of ours")
        told[level] = stream.getvalue()
    assert WORDS not in told["info"]
    assert WORDS in told["debug"]
    for name in ("UnknownJobError", "ExceptionGroup", "KeyError", "in raise_all"):
        assert name in told["info"]
    assert "OSError: No space left on device" in told["info"]
    assert "member 2 of 2" in told["info"]


def test_an_error_the_operator_fixes_keeps_its_text() -> None:
    stream = log("json")
    error = StorageError("The disk is full.", "Make room.")
    LOGGER.error("the executor failed", exc_info=error)
    (line,) = objects(stream)
    assert line["exception"].endswith("StorageError: [storage] The disk is full. Make room.")


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert logs.explain(one, quotes=False).count("ValueError") == 2


def test_libraries_speak_from_warnings_on_and_their_warnings_are_lines() -> None:
    stream = log("json")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("careful")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    LOGGER.debug("detail")
    assert [line["logger"] for line in objects(stream)] == ["library", "py.warnings"]


def test_a_message_that_comes_again_and_again_is_one_line_a_minute_with_how_often() -> None:
    stream = log("json")
    repeats = logs.Repeats(LOGGER)
    for code in ("a", "b"):
        for _ in range(100):
            LOGGER.info("request refused", extra={"code": code})
    LOGGER.info("another")
    now_s = time.time()
    repeats.tell(now_s + logs.REPEAT_S / 2)
    assert len(objects(stream)) == 3
    repeats.tell(now_s + logs.REPEAT_S + 1)
    repeats.tell(now_s + logs.REPEAT_S + 2)
    told = [(line["message"], line.get("code"), line.get("times")) for line in objects(stream)]
    assert told[3:] == [("request refused", "a", 99), ("request refused", "b", 99)]
    LOGGER.info("another")
    assert objects(stream)[-1]["message"] == "another"
    LOGGER.info("another")
    repeats.close()
    assert objects(stream)[-1] == {
        **objects(stream)[-2],
        "ts": objects(stream)[-1]["ts"],
        "times": 1,
    }
    LOGGER.info("another")
    LOGGER.info("another")
    assert len(objects(stream)) == 9
