"""How long from spawning the server until a client has its tools? Ratio: ours / a bare SDK server.

Method: spawn `flux-mcp serve` and a server that is nothing but the SDK with eight trivial tools
(bare_server.py), in turn; connect the SDK's client over stdio; stop the clock when tools/list is
answered, and read the processor seconds the process has used until then. One spawn of each before
the first that counts, so that both find their files in memory. Then `python -X importtime` of both
says which packages only ours imports.

Unit: ratio of medians; seconds.
"""

import asyncio
import re
import statistics
import subprocess
import sys
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
        extra = await asyncio.to_thread(_only_ours, folder)
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
    result.absolute["imported_only_by_ours_ms"] = extra
    for name, numbers in result.absolute.items():
        if name in commands:
            result.line(
                name, f"{numbers['wall_median_s']:.2f} s, cpu {numbers['cpu_median_s']:.2f} s"
            )
    result.line(
        "flux_mcp / bare_sdk",
        f"{result.ratios['tools_list_wall']:.3f}x, cpu {result.ratios['tools_list_cpu']:.3f}x",
        "C7: <= 1.30x (best 1.10x)",
    )
    for package, spent_ms in extra.items():
        result.line(f"  only ours imports {package}", f"{spent_ms:.0f} ms")
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


def _only_ours(folder: Path) -> dict[str, float]:
    """Return the import milliseconds of each package that the bare server does not import."""
    serve = ["-m", "flux_mcp", "serve", "--data-dir", str(folder / "imports")]
    ours = _imports(serve)
    bare = _imports(script_command("bare_server.py")[1:])
    spent: Counter[str] = Counter()
    for module, seconds in ours.items():
        if module not in bare:
            spent[module.partition(".")[0]] += seconds
    return {package: ms(seconds) for package, seconds in spent.most_common(TOP)}


def _imports(arguments: list[str]) -> dict[str, float]:
    """Return every module a server imports until its stdin ends, with its own seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    found = _IMPORT_LINE.finditer(done.stderr)
    return {match[2]: int(match[1]) / 1e6 for match in found}


if __name__ == "__main__":
    start_async(__doc__, measure)
