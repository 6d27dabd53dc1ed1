"""stdio as bad clients use it: lines that are no messages, answers and logs that nobody reads."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flux_mcp.jobs.gpu_lock import GpuLock
from flux_mcp.settings.paths import Paths

from .raw import hello, request
from .transports import DEADLINE_S, SERVE, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes of a size of our own")

MIB = 1024 * 1024
LIMIT_BYTES = 100_000
PIPE_BYTES = 4096
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}
CALL = (
    b'{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":{"name":"flux_generate",'
    b'"arguments":{%s,"dry_run":true}}}'
)
LINES: dict[str, tuple[bytes, object]] = {
    "a lone surrogate": (CALL % (b"a", rb'"prompt":"\ud83d"'), "a"),
    "not UTF-8": (b'{"jsonrpc":"2.0","id":"b","method":"prompts/get\xe9"}', "b"),
    "too long": (
        b'{"method":"ping","params":{"x":"%s"},"jsonrpc":"2.0","id":"c"}'
        % (b"x" * 3 * LIMIT_BYTES),
        "c",
    ),
    "not a number": (CALL % (b"d", b'"prompt":"x","seed":NaN'), "d"),
    "an id without end": (
        b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % (b"9" * 4000),
        int("9" * 4000),
    ),
    "a batch": (b'[{"jsonrpc":"2.0","id":"e","method":"ping"}]', None),
    "no JSON": (b"hello", None),
    "an empty line, and a ping": (b'\r\n{"jsonrpc":"2.0","id":"f","method":"ping"}\r', "f"),
}


@contextmanager
def started(data: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server whose stdin and stdout are pipes, and nobody reads its stderr."""
    with subprocess.Popen(
        [sys.executable, *SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(data, **variables),
    ) as server:
        try:
            assert server.stderr is not None
            fcntl.fcntl(server.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            say(server, hello(), READY)
            assert hear(server)["id"] == 0
            yield server
        finally:
            server.kill()


def say(server: subprocess.Popen[bytes], *messages: dict[str, Any] | bytes) -> None:
    assert server.stdin is not None
    for message in messages:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        server.stdin.write(line + b"\n")
    server.stdin.flush()


def hear(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the next message."""
    assert server.stdout is not None
    readable, _, _ = select.select([server.stdout], [], [], DEADLINE_S)
    assert readable, "the server says nothing any more"
    return dict(json.loads(server.stdout.readline()))


def asked(number: int) -> dict[str, Any]:
    return request("tools/call", number, name="flux_get_job", arguments={"job_id": "none"})


def ask_until_full(server: subprocess.Popen[bytes]) -> int:
    """List the tools, without reading the answers, until no more is read; return how often."""
    assert server.stdin is not None
    stdin, sent = server.stdin.fileno(), 0
    os.set_blocking(stdin, False)
    line = json.dumps(request("tools/list", "list")).encode() + b"\n"
    # Two seconds without reading anything: what it does not read now it never will.
    while select.select([], [stdin], [], 2)[1]:
        os.write(stdin, line)
        sent += 1
        assert sent < 100_000
    return sent


def cancel_while_it_waits(server: subprocess.Popen[bytes]) -> None:
    """Cancel a call whose job waits; nothing more is said of it (2025-11-25, Cancellation)."""
    meta = {"progressToken": "t"}
    drawing = {"prompt": "wait", "width": 64, "height": 64, "wait_s": DEADLINE_S}
    say(server, request("tools/call", "w", name="flux_generate", arguments=drawing, _meta=meta))
    assert hear(server)["method"] == "notifications/progress"
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": "w", "reason": "x"}}
    say(server, {"jsonrpc": "2.0", **cancelled})
    heard: list[dict[str, Any]] = []
    for number in range(10_000):
        say(server, request("tools/call", number, name="flux_get_job", arguments={}))
        while not heard or heard[-1].get("id") != number:
            heard.append(hear(server))
        if heard[-1]["result"]["structuredContent"]["jobs"] == []:
            break
    # The job has ended, and the call with it; its answer would have come before this one's.
    say(server, request("ping", "after"))
    heard.append(hear(server))
    assert heard[-1]["id"] == "after"
    assert "w" not in [message.get("id") for message in heard]


def is_free(data: Path) -> bool:
    lock = GpuLock(Paths(data))
    return lock.acquire()


def test_every_line_is_answered_and_nobody_has_to_read_stderr_or_stdout(tmp_path: Path) -> None:
    data = tmp_path / "data"
    variables = {"FLUX_MCP_LOG_LEVEL": "debug", "FLUX_MCP_MAX_BODY_BYTES": str(LIMIT_BYTES)}
    with started(data, **variables) as server:
        for name, (line, request_id) in LINES.items():
            say(server, line)
            answer = hear(server)
            assert answer["id"] == request_id, name
            assert {"error", "result"} & set(answer), name

        cancel_while_it_waits(server)

        # Several times what the pipe holds, at a hundred bytes and more for a call.
        for number in range(1, 200):
            say(server, asked(number))
            assert hear(server)["id"] == number
        assert server.stderr is not None
        assert select.select([server.stderr], [], [], 0)[0]

        before_bytes = psutil.Process(server.pid).memory_info().rss
        ask_until_full(server)
        assert psutil.Process(server.pid).memory_info().rss - before_bytes < 100 * MIB

        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE_S) == 0
        assert is_free(data)


@pytest.mark.torture
def test_a_server_ends_when_stdin_closes_though_nobody_reads_its_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(data) as server:
        say(server, asked(1))
        hear(server)
        ask_until_full(server)
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(DEADLINE_S) == 0
        assert is_free(data)
