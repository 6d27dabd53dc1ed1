"""How long from spawning the server until a client has its tools? Ratio: ours / a bare SDK server.

Method: spawn `flux-mcp serve` and a server that is nothing but the SDK with eight trivial tools
(bare_server.py), in turn; connect the SDK's client over stdio; stop the clock when tools/list is
answered, and read the processor seconds the process has used until then. One spawn of each before
the first that counts, so that both find their files in memory. Then `python -X importtime` of both,
asked the same way, says how many modules each imports before its answer, and which only ours does:
by package, and the slowest modules one by one. tests/server/test_start.py keeps the list of them.

Unit: ratio of medians; seconds.
"""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from common import (
    Result,
    median_ratio,
    ms,
    quantile,
    rotated,
    scratch,
    script_command,
    server_command,
    start_async,
    stdio_parameters,
)
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")
TOP = 10
_ASKED = (
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "start", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}},
)


async def measure(quick: bool) -> Result:
    """Measure both in turn."""
    repetitions = 3 if quick else 10
    result = Result("start", quick, {"spawns": repetitions})
    wall: dict[str, list[float]] = {"flux_mcp": [], "bare_sdk": []}
    cpu: dict[str, list[float]] = {"flux_mcp": [], "bare_sdk": []}
    with scratch() as folder:
        commands = {
            "flux_mcp": stdio_parameters(server_command(), data_dir=folder / "data"),
            "bare_sdk": stdio_parameters(script_command("bare_server.py")),
        }
        for command in commands.values():
            await _spawn(command)
        for turn in range(repetitions):
            for name in rotated(tuple(commands), turn):
                wall_s, cpu_s = await _spawn(commands[name])
                wall[name].append(wall_s)
                cpu[name].append(cpu_s)
        counts, packages, modules = await asyncio.to_thread(_only_ours, folder)
    result.ratios = {
        "tools_list_wall": median_ratio(wall["flux_mcp"], wall["bare_sdk"]),
        "tools_list_cpu": median_ratio(cpu["flux_mcp"], cpu["bare_sdk"]),
    }
    for name in commands:
        result.absolute[name] = {
            "wall_median_s": round(statistics.median(wall[name]), 3),
            "wall_p95_s": round(quantile(wall[name], 0.95), 3),
            "cpu_median_s": round(statistics.median(cpu[name]), 3),
        }
    result.absolute["modules_before_the_answer"] = counts
    result.absolute["imported_only_by_ours_ms"] = packages
    result.absolute["slowest_only_by_ours_ms"] = modules
    for name, numbers in result.absolute.items():
        if name in commands:
            result.line(
                name, f"{numbers['wall_median_s']:.2f} s, cpu {numbers['cpu_median_s']:.2f} s"
            )
    result.line(
        "flux_mcp / bare_sdk",
        f"{result.ratios['tools_list_wall']:.3f}x, cpu {result.ratios['tools_list_cpu']:.3f}x",
        "C7: <= 1.10x",
    )
    result.line(
        "modules before the answer",
        ", ".join(f"{name} {count}" for name, count in counts.items()),
    )
    for kind, found in (("package", packages), ("module", modules)):
        for name, spent_ms in found.items():
            result.line(f"  only ours imports the {kind} {name}", f"{spent_ms:.0f} ms")
    return result


async def _spawn(parameters: StdioServerParameters) -> tuple[float, float]:
    """Return the seconds until the tools are listed, on the clock and on the processor."""
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    started = time.perf_counter()
    async with Client(stdio_client(parameters)) as client:
        tools = (await client.list_tools()).tools
        wall_s = time.perf_counter() - started
        cpu_s = 0.0
        for child in me.children(recursive=True):
            if child.pid not in before:
                used = child.cpu_times()
                cpu_s += used.user + used.system
    if len(tools) != 8:
        raise RuntimeError(f"there are {len(tools)} tools, not eight")
    return wall_s, cpu_s


def _only_ours(folder: Path) -> tuple[dict[str, int], dict[str, float], dict[str, float]]:
    """Return what is imported before the answer.

    Returns:
        How many modules each server imports; the milliseconds of the packages that only ours does,
        and of the slowest modules among them.
    """
    serve = ["-m", "flux_mcp", "serve", "--log-level", "error", "--data-dir"]
    ours = _imports([*serve, str(folder / "imports")])
    bare = _imports(script_command("bare_server.py")[1:])
    counts = {"flux_mcp": len(ours), "bare_sdk": len(bare)}
    modules = Counter({name: s for name, s in ours.items() if name not in bare})
    packages: Counter[str] = Counter()
    for module, seconds in modules.items():
        packages[module.partition(".")[0]] += seconds
    top_packages, top_modules = (
        {name: ms(seconds) for name, seconds in found.most_common(TOP)}
        for found in (packages, modules)
    )
    return counts, top_packages, top_modules


def _imports(arguments: list[str]) -> dict[str, float]:
    """Return every module a server imports until it has listed its tools, with its own seconds."""
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(
            [sys.executable, "-X", "importtime", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("the server has no pipes")
        server.stdin.write("".join(f"{json.dumps(line)}\n" for line in _ASKED))
        server.stdin.flush()
        for _ in ("initialize", "tools/list"):
            server.stdout.readline()
        server.stdin.close()
        server.wait()
        stderr.seek(0)
        found = _IMPORT_LINE.finditer(stderr.read())
        return {match[2]: int(match[1]) / 1e6 for match in found}


if __name__ == "__main__":
    start_async(__doc__, measure)
