"""`flux-mcp doctor`: examine the machine and the data folder, and print what was found."""

from dataclasses import dataclass

import typer

from flux_mcp.cli.common import EXIT_ENGINE, opened, print_json
from flux_mcp.cli.doctor_printing import print_examination
from flux_mcp.cli.models import named_machine
from flux_mcp.doctor.examine import Known, examine
from flux_mcp.doctor.facts import WorkerFact
from flux_mcp.doctor.machine import look
from flux_mcp.errors import StorageError
from flux_mcp.jobs.fleet import WorkerLost
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.planning.machine import GpuReader, nvidia_tool
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.paths import ensure_dirs
from flux_mcp.settings.settings import Settings

LOG_LINES = 15


@dataclass(frozen=True)
class DoctorFlags:
    """What the flags say."""

    worker: bool = False
    vram_gib: float | None = None
    ram_gib: float | None = None


async def examine_and_print(settings: Settings, asked: DoctorFlags, *, as_json: bool) -> None:
    """Print the examination.

    Raises:
        InvalidRequestError: a size is none.
        StorageError: the data folder cannot be used.
        typer.Exit: a worker was asked for and cannot draw.
    """
    named = named_machine(asked.vram_gib, asked.ram_gib)
    ensure_dirs(settings.paths)
    worker = await _worker(settings) if asked.worker else None
    said = None if worker is None else worker.environment
    found = look(settings, GpuReader(settings.data_dir, nvidia_tool()), said)
    figures, notices = await _learned(settings, found.device.gpu)
    known = Known(named, asked.ram_gib, figures, worker, notices)
    examination = examine(settings, open_registry(settings), found, known)
    if as_json:
        print_json(examination)
    else:
        print_examination(examination)
    if worker is not None and worker.error is not None:
        raise typer.Exit(EXIT_ENGINE)


async def _learned(
    settings: Settings, gpu: str | None
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Return what finished jobs took on a GPU, and why that cannot be known."""
    if gpu is None or not settings.paths.database.is_file():
        return (), ()
    try:
        async with opened(settings, executes=False) as service:
            return await service.runtime.learned(gpu), ()
    except StorageError as error:
        return (), (f"What finished jobs took is not known: {error.message} {error.hint}",)


async def _worker(settings: Settings) -> WorkerFact:
    """Start a worker and return what it says it draws on."""
    fleet = ProcessFleet(settings)
    try:
        await fleet.warm(fleet.workers()[0].worker_id)
        environment = fleet.workers()[0].environment
        error = None if environment else "its libraries or its device cannot be used"
    except WorkerLost as lost:
        environment, error = None, str(lost)
    finally:
        await fleet.close()
    return WorkerFact(environment=environment, error=error, log=_log(settings) if error else None)


def _log(settings: Settings) -> str:
    log = settings.paths.worker_log
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
