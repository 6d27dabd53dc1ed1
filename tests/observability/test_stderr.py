"""StderrRelay: whoever writes to stderr never waits, and what is not read is counted."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_mcp.observability.stderr import StderrRelay

LINE = b"x" * 99 + b"\n"
LIMIT_BYTES = 100_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe that nobody reads yet."""
    read, write = os.pipe()
    yield read, write
    os.close(write)
    os.close(read)


def test_who_writes_never_waits_and_lines_that_were_lost_are_counted(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    read, write = pipe
    relay = StderrRelay(write, LIMIT_BYTES)
    lines = 20_000  # two megabytes; the pipe holds 64 KiB, the relay 100 kB
    with caplog.at_level(logging.WARNING):
        for _ in range(lines):
            os.write(write, LINE)
        assert not relay.flush(0.1)
        got = b""
        while not relay.flush(0.05):
            got += os.read(read, 1 << 20)
    relay.close()
    os.write(write, b"end\n")
    while not got.endswith(b"end\n"):
        got += os.read(read, 1 << 20)
    kept = got.splitlines(keepends=True)[:-1]
    assert set(kept) == {LINE}
    lost = sum(record.lines for record in caplog.records)  # type: ignore[attr-defined]
    assert lost > 0
    assert len(kept) + lost == lines


def test_closing_gives_stderr_back_once_all_is_read(pipe: tuple[int, int]) -> None:
    read, write = pipe
    relay = StderrRelay(write)
    os.write(write, LINE)
    relay.close()
    os.write(write, b"directly\n")
    assert os.read(read, 1000) == LINE + b"directly\n"


def test_nobody_at_the_other_end_is_no_error() -> None:
    read, write = os.pipe()
    relay = StderrRelay(write)
    os.close(read)
    for _ in range(2000):
        os.write(write, LINE)
    assert relay.flush(10)
    relay.close()
    os.close(write)


def test_a_file_is_written_to_directly(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        relay = StderrRelay(file.fileno())
        assert not relay.is_on
        os.write(file.fileno(), LINE)
        assert (tmp_path / "log").read_bytes() == LINE
        relay.close()
