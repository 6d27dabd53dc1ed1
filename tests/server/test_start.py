"""What a server does before it answers for the first time, and what it leaves for later."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.server.on_demand import OnDemand

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
ALLOWED_PACKAGES = {"flux_mcp", "pydantic_settings", "dotenv", "platformdirs"}
"""Packages, besides those that the SDK imports, that may be imported before the first answer."""
ALLOWED_MODULES = {
    "flux_mcp",
    "flux_mcp.__main__",
    "flux_mcp.cli",
    "flux_mcp.cli.entry",
    "flux_mcp.errors",
    "flux_mcp.observability",
    "flux_mcp.observability.logs",
    "flux_mcp.observability.stderr",
    "flux_mcp.observability.tracing",
    "flux_mcp.principals",
    "flux_mcp.server",
    "flux_mcp.server.app",
    "flux_mcp.server.clients",
    "flux_mcp.server.links",
    "flux_mcp.server.on_demand",
    "flux_mcp.server.prompt_feed",
    "flux_mcp.server.published",
    "flux_mcp.server.tasks",
    "flux_mcp.server.timeouts",
    "flux_mcp.server.transports",
    "flux_mcp.server.transports.lines",
    "flux_mcp.server.transports.messages",
    "flux_mcp.server.transports.stdio",
    "flux_mcp.server.transports.stdout",
    "flux_mcp.settings",
    "flux_mcp.settings.environment",
    "flux_mcp.settings.files",
    "flux_mcp.settings.installation",
    "flux_mcp.settings.paths",
    "flux_mcp.settings.settings",
}
"""Modules of ours that may be imported before the first answer: a new one is a slower start."""
# The command itself, which says at its end what is imported.
IMPORTED = """
import json, os, sys
leave, path = os._exit, sys.argv.pop()

def say_and_leave(status):
    with open(path, "w") as file:
        json.dump([*sys.modules], file)
    leave(status)

os._exit = say_and_leave
sys.argv[1:] = ["serve", "--log-level", "error"]
from flux_mcp.cli import main
main()
"""
OF_THE_SDK = """
import json, sys
from mcp.server import MCPServer
MCPServer("bare")
print(json.dumps([*sys.modules]))
"""
# Serves with a service that cannot be made, and says how the collector stands by then.
COLLECTED = """
import gc, json, sys
from flux_mcp.observability import logs
from flux_mcp.server.transports.stdio import serve_stdio
from flux_mcp.server.transports.stdout import StdoutGuard
from flux_mcp.settings.settings import Settings

def failing(settings):
    print(json.dumps([gc.isenabled(), gc.get_freeze_count()]), file=sys.stderr, flush=True)
    raise RuntimeError("there is no service")

logs.set_up("error")
serve_stdio(Settings(data_dir=sys.argv[1]), StdoutGuard(), failing)
"""


def spoken(*requests: tuple[str, dict[str, Any]]) -> str:
    """Return the lines of a client of the handshake that asks one thing after another."""
    lines: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]
    for number, (method, params) in enumerate(requests, start=1):
        lines.append({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def served(
    command: list[str], folder: Path, *requests: tuple[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], str]:
    """Return what a server answers, and what is on its stderr once its client has left."""
    log = folder / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "FLUX_MCP_DATA_DIR": str(folder / "data")},
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(spoken(*requests))
        server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in range(1 + len(requests))]
        server.stdin.close()
        assert server.wait(60) == 0
    return answers, log.read_text(encoding="utf-8")


def packages_of(modules: Iterable[str]) -> set[str]:
    """Return the third-party packages of modules."""
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)


def test_little_is_imported_before_the_tools_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "modules"
    answers, _ = served(["-c", IMPORTED, str(path)], tmp_path, ("tools/list", {}))
    assert len(answers[1]["result"]["tools"]) == 8
    imported = set(json.loads(path.read_bytes()))
    ours = {name for name in imported if name.partition(".")[0] == "flux_mcp"}
    assert ours - ALLOWED_MODULES == set()
    bare = subprocess.run(
        [sys.executable, "-c", OF_THE_SDK], check=True, capture_output=True, timeout=60
    )
    assert packages_of(imported) - packages_of(json.loads(bare.stdout)) == ALLOWED_PACKAGES
    assert not (tmp_path / "data").exists(), "nothing was opened"


def test_garbage_is_collected_again_once_all_is_imported(tmp_path: Path) -> None:
    """And a call whose service cannot be made is answered, with the reason in the log."""
    call = ("tools/call", {"name": "flux_get_job", "arguments": {}})
    answers, stderr = served(["-c", COLLECTED, str(tmp_path / "data")], tmp_path, call)
    is_enabled, frozen = json.loads(stderr.splitlines()[0])
    assert is_enabled
    assert frozen > 50_000
    assert answers[1]["result"]["isError"]
    assert "what answers the calls could not be loaded" in stderr


@pytest.mark.anyio
async def test_a_value_is_made_once_for_everybody_and_again_after_an_error() -> None:
    begun, may_end, results = asyncio.Event(), asyncio.Event(), iter([OSError("full"), "made"])
    times = 0

    async def make() -> str:
        nonlocal times
        times += 1
        begun.set()
        await may_end.wait()
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return str(result)

    value = OnDemand(make)
    assert await value.if_begun() is None, "nobody needs it, so it is not made"
    impatient, patient = asyncio.create_task(value.get()), asyncio.create_task(value.get())
    await begun.wait()
    impatient.cancel()
    may_end.set()
    assert isinstance((await asyncio.gather(patient, return_exceptions=True))[0], OSError)
    assert await value.if_begun() is None
    assert (times, await value.get(), await value.get(), times) == (1, "made", "made", 2)
    assert await value.if_begun() == "made"
    assert await OnDemand.ready(7).get() == 7
