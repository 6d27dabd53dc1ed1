"""flux-mcp and the router as processes of their own, and clients that talk to them."""

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.clients.transports import SERVE

ROUTER = Path(__file__).resolve().parents[2] / "examples" / "router" / "router.py"
DEADLINE_S = 120


class Running:
    """A process that says on stderr where it listens.

    Args:
        command: What to run with this Python.
        environment: All of it.
        says: Matches the line that says so; its first group is the address.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], says: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.said = ""
        self._more = threading.Condition()
        self._found: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(re.compile(says),), daemon=True)
        self._reader.start()
        try:
            self.address = self._found.get(timeout=DEADLINE_S)
        except queue.Empty:
            self.end(signal.SIGKILL)
            raise AssertionError(f"it never said where it listens: {self.said}") from None
        assert self.address, self.said

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return what the process returned; one that does not end is killed."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            status = self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status

    def has_said(self, words: str) -> bool:
        """Wait until it has said that on stderr."""
        with self._more:
            return self._more.wait_for(lambda: words in self.said, DEADLINE_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self, says: re.Pattern[str]) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._more:
                    self.said += line
                    self._more.notify_all()
                if found := says.search(line):
                    self._found.put(found[1])
        self._found.put("")


@contextmanager
def flux_mcp(environment: Mapping[str, str], port: int = 0) -> Iterator[Running]:
    """Run `flux-mcp serve` over HTTP, with a light worker; its address has no path."""
    command = [*SERVE, "--transport", "http", "--port", str(port)]
    running = Running(command, environment, r"address=(http://\S+)")
    try:
        yield running
    finally:
        running.end(signal.SIGTERM)


@contextmanager
def router(environment: Mapping[str, str], *flags: str) -> Iterator[Running]:
    """Run the router on a free port; its address is what clients are given."""
    command = [str(ROUTER), "--port", "0", *flags]
    running = Running(command, environment, r"router on (http://\S+)")
    try:
        yield running
    finally:
        status = running.end(signal.SIGTERM)
    # Whatever happened to it in a test, it ends in order and has nothing to complain about.
    assert status == 0, running.said
    assert "Traceback" not in running.said, running.said
    assert " ERROR " not in running.said, running.said


@asynccontextmanager
async def client_of(url: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=DEADLINE_S, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), **options) as client,
    ):
        yield client
