"""`flux-mcp doctor`: what is installed, which device draws, what is on disk, what to do next."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.table import Table
from rich.text import Text

from flux_mcp import __version__
from flux_mcp.cli.common import EXIT_ENGINE, console, plain, print_json
from flux_mcp.config import Settings
from flux_mcp.installation import command_path
from flux_mcp.jobs.fleet import WorkerLost
from flux_mcp.jobs.worker_process import ProcessFleet
from flux_mcp.models.candidates import real_models, recommended
from flux_mcp.models.engine import this_engine
from flux_mcp.models.own_rows import open_registry
from flux_mcp.models.registry import KINDS, Registry
from flux_mcp.models.weights import find_snapshot, install_hint, is_installed
from flux_mcp.paths import ensure_dirs

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "mcp",
    "pillow",
    "pydantic",
    "sqlite-utils",
)
NVIDIA_QUERY = "name,memory.total,memory.free,driver_version"
GIB = 1024**3


async def examine_and_print(settings: Settings, *, ask_worker: bool, as_json: bool) -> None:
    """Print the examination.

    Raises:
        StorageError: the data folder cannot be used.
        typer.Exit: a worker was asked for and cannot draw.
    """
    ensure_dirs(settings.paths)
    registry = open_registry(settings)
    found = examine(settings, registry)
    if ask_worker:
        found["worker"] = await _worker(settings)
    found["next"] = advice(found, settings, registry)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if "error" in found.get("worker", {}):
        raise typer.Exit(EXIT_ENGINE)


def examine(settings: Settings, registry: Registry) -> dict[str, Any]:
    """Return what can be found out without importing torch."""
    disk = shutil.disk_usage(settings.data_dir)
    memory, engine = psutil.virtual_memory(), this_engine()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": settings.device,
        "gpus": _nvidia_gpus(),
        "memory_gib": {"total": _gib(memory.total), "available": _gib(memory.available)},
        "data_dir": str(settings.data_dir),
        "disk_free_gib": _gib(disk.free),
        "models": [
            {
                "id": row.id,
                "kind": row.kind,
                "installed": is_installed(row, registry, settings),
                "drawable": engine.can_load(row),
                "folder": _folder(row, settings),
                "licence": row.licence,
                "disk_gib": row.disk_gib,
            }
            for row in registry
        ],
        "notices": list(registry.notices),
    }


def _folder(row: Any, settings: Settings) -> str | None:
    snapshot = find_snapshot(row, settings)
    return None if snapshot is None else str(snapshot.folder)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gib(size_bytes: float) -> float:
    return round(size_bytes / GIB, 1)


def _nvidia_gpus() -> list[dict[str, str]]:
    """Ask the driver's own tool: it answers without torch, and also when torch is a CPU build."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command
            [tool, f"--query-gpu={NVIDIA_QUERY}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    names = NVIDIA_QUERY.replace(".", "_").split(",")
    rows = [line.split(", ") for line in answer.stdout.splitlines() if line]
    return [dict(zip(names, row, strict=False)) for row in rows]


async def _worker(settings: Settings) -> dict[str, Any]:
    """Start a worker and return what it says it draws on."""
    fleet = ProcessFleet(settings)
    try:
        await fleet.warm(fleet.workers()[0].worker_id)
        environment = fleet.workers()[0].environment
        if environment is None:
            error = "its libraries or its device cannot be used"
            return {"error": error, "log": _tail(settings.paths.worker_log)}
        return environment.model_dump(mode="json")
    except WorkerLost as error:
        return {"error": str(error), "log": _tail(settings.paths.worker_log)}
    finally:
        await fleet.close()


def _tail(log: Path, lines: int = 15) -> str:
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def advice(found: dict[str, Any], settings: Settings, registry: Registry) -> list[str]:
    """Return what to do next, most useful first."""
    steps: list[str] = []
    missing = [name for name, installed in found["packages"].items() if installed is None]
    if missing:
        steps.append(f"Install {', '.join(missing)}: the worker cannot draw without.")
    else:
        ours = command_path("flux-mcp")
        steps.append(f'Try it: {ours} generate "a red circle on a blue background"')
    torch = found["packages"]["torch"] or ""
    if found["gpus"] and "+cpu" in torch:
        steps.append(
            "There is an NVIDIA card, but torch is a CPU build: install the CUDA build as the "
            "README says."
        )
    for kind in KINDS:
        if not any(is_installed(row, registry, settings) for row in real_models(registry, kind)):
            best = recommended(registry, kind, this_engine())
            how = install_hint(best, settings)
            steps.append(f"{kind} draws with micro, a demonstration. {how}")
    steps.append(f"Connect an MCP client: {command_path('flux-mcp')} connect")
    return steps


def _print(found: dict[str, Any]) -> None:
    out = console()
    out.print(
        f"flux-mcp {found['version']} on Python {found['python']}, {found['platform']}",
        style="bold",
    )
    packages = ", ".join(
        f"{name} {number or 'MISSING'}" for name, number in found["packages"].items()
    )
    cards = [
        f"{card['name']} ({card['memory_free']} of {card['memory_total']} free)"
        for card in found["gpus"]
    ]
    memory = found["memory_gib"]
    facts = {
        "Packages": packages,
        "Card": f"{', '.join(cards) or 'no NVIDIA card found'} (device: {found['device']})",
        "Memory": f"{memory['available']} of {memory['total']} GiB free",
        "Data": f"{found['data_dir']} ({found['disk_free_gib']} GiB free)",
    }
    if "worker" in found:
        shown = {name: value for name, value in found["worker"].items() if value is not None}
        facts["Worker"] = ", ".join(f"{name} {value}" for name, value in shown.items())
    for name, value in facts.items():
        out.print(Text.assemble((f"{name:<9} ", "bold"), plain(value)))
    out.print(_models(found["models"]), soft_wrap=False)
    for notice in found["notices"]:
        out.print(f"Note: {plain(notice)}", style="yellow")
    out.print("Next", style="bold")
    for number, step in enumerate(found["next"], start=1):
        out.print(f"  {number}. {step}")


def _models(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "kind", "on disk", "GiB", "licence"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        mark = Text("yes", style="green") if row["installed"] else Text("no")
        if not row["drawable"]:
            mark = Text("not yet drawable", style="dim")
        table.add_row(row["id"], row["kind"], mark, f"{row['disk_gib']:g}", row["licence"])
    return table
