"""What the benchmarks share: real processes to talk to, medians, the table, the JSON line."""

import argparse
import asyncio
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import TextResourceContents
from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
THREADS = 1
"""Torch threads, for the server's worker and for the bare pipeline alike."""
LONG_WAIT_S = 120

Progress = Callable[[float, float | None, str | None], Awaitable[None]]


# --- processes -----------------------------------------------------------------------------------


def server_command() -> list[str]:
    """Return the installed `flux-mcp serve` of this interpreter."""
    script = shutil.which("flux-mcp", path=str(Path(sys.executable).parent))
    return [script, "serve"] if script else [sys.executable, "-m", "flux_mcp", "serve"]


def script_command(name: str) -> list[str]:
    """Return how to start a script of this folder."""
    return [sys.executable, str(BENCHMARKS / name)]


def stdio_parameters(command: Sequence[str], **settings: object) -> StdioServerParameters:
    """Return how to start a server; settings become its FLUX_MCP_ variables.

    The SDK passes on only a few variables: the caller's own settings do not reach the server.
    """
    given = {"torch_threads": THREADS, "log_level": "error", **settings}
    return StdioServerParameters(
        command=command[0],
        args=list(command[1:]),
        env={f"FLUX_MCP_{name.upper()}": str(value) for name, value in given.items()},
    )


@asynccontextmanager
async def flux_server(data_dir: Path, **settings: object) -> AsyncIterator[Client]:
    """Start `flux-mcp serve` on a data folder and give a client that is connected over stdio."""
    parameters = stdio_parameters(server_command(), data_dir=data_dir, **settings)
    async with Client(stdio_client(parameters)) as client:
        yield client


@asynccontextmanager
async def bare_server(answer: Path | None = None) -> AsyncIterator[Client]:
    """Start a server of the SDK alone, with eight tools that do nothing.

    Args:
        answer: File of a result that a ninth tool, `same`, returns.
    """
    command = [*script_command("bare_server.py"), *([] if answer is None else [str(answer)])]
    async with Client(stdio_client(stdio_parameters(command))) as client:
        yield client


async def call(
    client: Client, tool: str, arguments: dict[str, Any], progress: Progress | None = None
) -> dict[str, Any]:
    """Call a tool and return its structured content.

    Raises:
        RuntimeError: it answered with an error.
    """
    result = await client.call_tool(tool, arguments, progress_callback=progress)
    if result.is_error or result.structured_content is None:
        said = " ".join(getattr(block, "text", "") for block in result.content)
        raise RuntimeError(f"{tool}: {said}")
    return result.structured_content


async def wait_for(client: Client, job_id: str) -> dict[str, Any]:
    """Wait until a job is final and return it."""
    asked = {"job_id": job_id, "wait_s": LONG_WAIT_S, "preview": "none"}
    while (job := await call(client, "flux_get_job", asked))["status"] in ("queued", "running"):
        pass
    return job


async def draw(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Generate, wait until the job is completed, and return it.

    Raises:
        RuntimeError: it did not complete.
    """
    job = await call(client, tool, {"wait_s": LONG_WAIT_S, **arguments})
    if job["status"] in ("queued", "running"):
        job = await wait_for(client, job["job_id"])
    if job["status"] != "completed":
        raise RuntimeError(f"job {job['job_id']} is {job['status']}: {job.get('error')}")
    return job


async def pixels_of(client: Client, job: dict[str, Any]) -> str:
    """Return the hash of the pixels of a job's first image, which answers of tools leave out."""
    (read,) = (await client.read_resource(f"flux://jobs/{job['job_id']}")).contents
    if not isinstance(read, TextResourceContents):
        raise TypeError("a job that is no text")
    pixels: str = json.loads(read.text)["images"][0]["pixels_sha256"]
    return pixels


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="flux-mcp-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


# --- numbers -------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ms(seconds: float) -> float:
    """Return milliseconds with three digits behind the point."""
    return round(seconds * 1000, 3)


def p50_p99_ms(values: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile in milliseconds."""
    return {"p50_ms": ms(statistics.median(values)), "p99_ms": ms(quantile(values, 0.99))}


def ratio(value: float, base: float) -> float:
    """Return value / base with four digits behind the point."""
    return round(value / base, 4)


def median_ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """Return the median of the ratios of pairs that were measured next to each other."""
    pairs = zip(values, bases, strict=True)
    return round(statistics.median(value / base for value, base in pairs), 4)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names starting at another one each turn, so that none is always the first."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]


TOKENIZER = "o200k_base"
"""The public tokenizer of OpenAI's models; those of other providers are not public."""


def compact(value: Any) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def tokens(value: Any) -> int:
    """Return how many tokens a text has, or anything else as compact JSON.

    Needs `pip install bpe-openai`, which has the vocabulary in it.
    """
    from bpe_openai import get_encoding

    text = value if isinstance(value, str) else compact(value)
    return len(get_encoding(TOKENIZER).encode(text))


# --- results -------------------------------------------------------------------------------------


@dataclass
class Result:
    """What one run of a benchmark found."""

    benchmark: str
    quick: bool
    counts: dict[str, int]
    ratios: dict[str, float] = field(default_factory=dict)
    """The result: each measured within this run."""
    absolute: dict[str, Any] = field(default_factory=dict)
    """Numbers of this machine, with units in their names."""
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    """Of the printed table: what, how much, target."""

    def line(self, what: str, how_much: str, target: str = "") -> None:
        """Add a line to the printed table."""
        self.lines.append((what, how_much, target))

    def publish(self, title: str) -> None:
        """Print the table, then the whole result as one line of JSON."""
        facts = run_facts()
        machine = facts["machine"]
        table = Table(title=title, title_justify="left", title_style="bold")
        for heading in ("what", "measured", "target"):
            table.add_column(heading)
        for row in self.lines:
            table.add_row(*row)
        table.caption = (
            f"{facts['date'][:16]}, commit {facts['commit']}, {machine['cpu']}, "
            f"{machine['cores']} cores, load {machine['load_1_min']}"
            + (", quick: too few repetitions to quote" if self.quick else "")
        )
        table.caption_justify = "left"
        Console(width=max(100, shutil.get_terminal_size().columns)).print(table)
        document = {
            "benchmark": self.benchmark,
            **facts,
            "quick": self.quick,
            "counts": self.counts,
            "ratios": self.ratios,
            "absolute": self.absolute,
        }
        print(json.dumps(document, ensure_ascii=False), flush=True)


def run_facts() -> dict[str, Any]:
    """Return when, what and where was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "system": platform.system(),
            "load_1_min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "python": platform.python_version(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "mcp": version("mcp"),
        "torch_threads": THREADS,
    }


def commit() -> str:
    """Return the commit that is checked out, with `-dirty` when files differ from it."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        asked = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def cpu_model() -> str:
    """Return the processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for row in info.read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --- command line --------------------------------------------------------------------------------


def start(document: str | None, measure: Callable[[bool], Result]) -> None:
    """Run a benchmark from the command line and print what it found."""
    question = (document or "").strip().splitlines()[0]
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it still run?")
    measure(parser.parse_args().quick).publish(question)


def start_async(document: str | None, measure: Callable[[bool], Awaitable[Result]]) -> None:
    """Do the same for a benchmark that talks to servers."""

    async def awaited(quick: bool) -> Result:
        return await measure(quick)

    start(document, lambda quick: asyncio.run(awaited(quick)))
