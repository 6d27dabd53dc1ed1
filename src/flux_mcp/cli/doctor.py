"""`flux-mcp doctor`: examine the machine and the data folder, and print what was found."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.text import Text

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    console,
    opened,
    plain,
    print_json,
    print_table,
)
from flux_mcp.cli.models_plan import named_machine
from flux_mcp.doctor.examine import Known, examine
from flux_mcp.doctor.facts import Examination, Fit, GpuFact, KindFits, Model, QueueFact, WorkerFact
from flux_mcp.doctor.machine import look
from flux_mcp.errors import StorageError
from flux_mcp.jobs.fleet import WorkerLost
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.planning.machine import GpuReader, nvidia_tool
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.paths import ensure_dirs
from flux_mcp.settings.settings import Settings

LOG_LINES = 15
"""Lines of the worker's log that are shown where it cannot generate."""
_INDENT = 10
_WARN = "yellow"


@dataclass(frozen=True)
class DoctorFlags:
    """The flags that the examination depends on."""

    worker: bool = False
    vram_gib: float | None = None
    ram_gib: float | None = None


async def examine_and_print(settings: Settings, asked: DoctorFlags, *, as_json: bool) -> None:
    """Print the examination.

    Raises:
        InvalidRequestError: a size is none.
        StorageError: the data folder cannot be used.
        typer.Exit: a worker was asked for and cannot generate.
    """
    named = named_machine(asked.vram_gib, asked.ram_gib)
    ensure_dirs(settings.paths)
    worker = await _worker(settings) if asked.worker else None
    said = None if worker is None else worker.environment
    found = look(settings, GpuReader(settings.data_dir, nvidia_tool()), said)
    stored = await _read_database(settings, found.device.gpu)
    known = Known(
        named, asked.ram_gib, stored.figures, worker, queue=stored.queue, notices=stored.notices
    )
    examination = examine(settings, open_registry(settings), found, known)
    if as_json:
        print_json(examination)
    else:
        print_examination(examination)
    if worker is not None and worker.error is not None:
        raise typer.Exit(EXIT_ENGINE)


@dataclass(frozen=True)
class _Stored:
    """What the database holds of use for the examination."""

    figures: tuple[Figure, ...] = ()
    queue: QueueFact | None = None
    notices: tuple[str, ...] = ()
    """Why the others are not known."""


async def _read_database(settings: Settings, gpu: str | None) -> _Stored:
    """Return how the queue stands, and what finished jobs took on a GPU."""
    if not settings.paths.database.is_file():
        return _Stored()
    try:
        async with opened(settings, executes=False) as service:
            has_executor = await service.runtime.look_for_leader()
            load = await service.queue_load()
            queue = QueueFact(
                waiting=load.queued,
                running=load.running + load.stopping,
                has_executor=has_executor,
            )
            figures = () if gpu is None else await service.runtime.learned(gpu)
            return _Stored(figures, queue)
    except StorageError as error:
        return _Stored(
            notices=(f"What finished jobs took is not known: {error.message} {error.hint}",)
        )


async def _worker(settings: Settings) -> WorkerFact:
    """Start a worker and return what it says of its device."""
    fleet = ProcessFleet(settings)
    try:
        await fleet.warm()
        environment = fleet.worker().environment
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


# --- printing ----------------------------------------------------------------------------------


def print_examination(found: Examination) -> None:
    """Print everything worth a person's look; `--json` has the rest."""
    out = console()
    title = f"flux-mcp {found.version} on Python {found.python}, {found.platform}"
    _wrap(out, "", title, style="bold")
    for name, text in _about_gpus(found):
        _wrap(out, f"{name:<{_INDENT}}", text)
    for name, text in _facts(found):
        _wrap(out, f"{name:<{_INDENT}}", text)
    _print_worker(out, found)
    _print_fits(out, found)
    _print_models(out, found)
    _print_extras(out, found)
    notes = (*found.notices, *(note for gpu in found.gpus for note in gpu.notes))
    for note in dict.fromkeys(notes):
        _named(out, "Note", note, style=_WARN)
    _print_steps(out, found)


# --- facts -------------------------------------------------------------------------------------


def _about_gpus(found: Examination) -> Iterator[tuple[str, str]]:
    yield "Device", f"{found.device.kind}: {found.device.reason}"
    for gpu in found.gpus:
        yield "GPU", _gpu(gpu)
        for used_gib, who in _holders(gpu):
            used = "   ?" if used_gib is None else f"{used_gib:4.1f}"
            yield f"{'':{_INDENT}}{used} GiB  ", who


def _facts(found: Examination) -> Iterator[tuple[str, str]]:
    cuda = f", CUDA {found.torch.cuda}" if found.torch.cuda else ""
    yield "torch", f"{found.torch.version or 'MISSING'}, build: {found.torch.build}{cuda}"
    yield (
        "Packages",
        ", ".join(
            f"{name} {version or 'MISSING'}"
            for name, version in found.packages.items()
            if name != "torch"
        ),
    )
    memory, disk = found.memory, found.disk
    yield "RAM", f"{memory.available_gib} of {memory.total_gib} GiB available"
    if (queue := found.queue) is not None and (queue.waiting or queue.running):
        runs = f"{queue.running} run, " if queue.running else ""
        by = "" if queue.has_executor else "; no process runs them"
        yield "Queue", f"{runs}{queue.waiting} wait{by}"
    network = "" if disk.network is None else f", on a network file system: {disk.network}"
    yield "Data", f"{disk.data_dir}, {disk.free_gib} of {disk.total_gib} GiB free{network}"
    if found.allowed_licences is not None:
        allowed = ", ".join(found.allowed_licences) or "none"
        yield "Licences", f"{allowed}: others are used only where a call names the model"


def _gpu(gpu: GpuFact) -> str:
    compute = "" if gpu.compute is None else f", compute {gpu.compute:g}"
    memory = "its memory is not known"
    if gpu.total_gib is not None and gpu.free_gib is not None:
        memory = f"{gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free"
    return f"{gpu.name}, {memory}; driver {gpu.driver}{compute}"


def _holders(gpu: GpuFact) -> Iterator[tuple[float | None, str]]:
    """Yield what of the GPU's memory is used, and by whom."""
    for one in gpu.programs:
        who = f"{one.name or 'a program of unknown name'} ({one.pid})"
        if one.is_ours:
            who += ", the worker of this data folder: counts as free"
        elif one.data_dir is not None:
            who += f", a worker of flux-mcp for {one.data_dir}"
        yield one.used_gib, who
    if gpu.other_gib:
        yield gpu.other_gib, "other: the driver itself, the screen, programs it does not list"


def _print_worker(out: Console, found: Examination) -> None:
    if found.worker is None:
        return
    if found.worker.environment is not None:
        said = found.worker.environment.model_dump(mode="json", exclude_none=True)
        _named(out, "Worker", ", ".join(f"{name} {value}" for name, value in said.items()))
        return
    _named(out, "Worker", f"cannot generate: {found.worker.error}", style="red")
    for line in (found.worker.log or "").splitlines():
        out.print(Text(f"{'':{_INDENT}}{plain(line)}", style="dim"))


# --- which models are used ---------------------------------------------------------------------


def _print_fits(out: Console, found: Examination) -> None:
    fits = found.fits
    unknown = "no GPU" if found.device.kind == "cpu" else "its memory is not known"
    where = unknown if fits.vram_gib is None else f"{fits.vram_gib:.1f} GiB of a GPU free"
    if fits.ram_gib is not None:
        where += f", {fits.ram_gib:g} GiB of RAM"
    now = [(row, row.now) for row in fits.rows if row.now is not None]
    pulled = [(row, row.pulled) for row in fits.rows]
    if now:
        _heading(out, f"With what is installed ({where})")
        if all(fit.is_demonstration for _, fit in now):
            text = "micro, a demonstration that needs no GPU: no other model can be used yet."
            _wrap(out, "", text)
        else:
            _print_kinds(out, now)
            for notice in dict.fromkeys(notice for _, fit in now for notice in fit.notices):
                _wrap(out, "- ", notice)
    if found.with_a_gpu:
        _heading(out, "With a GPU (generate, standard, every model pulled)")
        _print_ways(("gpu",), [((f"{one.vram_gib:g} GiB",), one.fit) for one in found.with_a_gpu])
    elif [fit for _, fit in now] != [fit for _, fit in pulled]:
        _heading(out, f"With every model pulled ({where})")
        _print_kinds(out, pulled)


def _print_kinds(out: Console, rows: Sequence[tuple[KindFits, Fit]]) -> None:
    """Print one line for each kind in each quality."""
    _print_ways(
        ("kind", "quality"), [((KIND_NAMES[row.kind], row.quality), fit) for row, fit in rows]
    )
    for refusal in dict.fromkeys(fit.refusal for _, fit in rows if fit.refusal):
        _wrap(out, "- ", refusal)


def _print_ways(first: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Fit]]) -> None:
    """Print which model would be used, how it would be loaded, and what that takes."""
    found = list(rows)
    print_table(
        (*first, "model", "loaded as", "GiB", "time"),
        [(*names, *_way(fit)) for names, fit in found],
        keys=len(first),
        right=("GiB", "time"),
        styles=[_WARN if fit.model is None else "" for _, fit in found],
    )


def _way(fit: Fit) -> tuple[str, str, str, str]:
    if fit.model is None:
        return "nothing fits", "", "", ""
    tile = ", tiled" if fit.vae_tile_px else ""
    way = f"{fit.precision} {fit.placement}{tile}" if fit.precision else "as the worker can"
    return (
        fit.model,
        "a demonstration" if fit.is_demonstration else way,
        "" if fit.peak_gib is None else f"{fit.peak_gib:.1f}",
        "" if fit.seconds is None else f"{fit.seconds:.0f} s",
    )


# --- what is here ------------------------------------------------------------------------------


def _print_models(out: Console, found: Examination) -> None:
    here = [model for model in found.models if model.state != "missing"]
    if here:
        _heading(out, "Models on this disk")
        print_table(
            ("model", "kinds", "GiB", "stored as", "licence"),
            [
                (
                    model.id,
                    ", ".join(KIND_NAMES[kind] for kind in model.kinds),
                    f"{model.used_gib:.1f}",
                    model.precision,
                    model.licence,
                )
                for model in here
            ],
            right=("GiB",),
        )
    for model in here:
        if remark := _remark(model):
            _wrap(out, "- ", f"{model.id}: {remark}", style=_WARN)
    for licence in found.licences:
        unasked = "" if licence.is_allowed else " The setting 'licences' keeps it for calls that "
        unasked += "" if licence.is_allowed else "name the model."
        _wrap(out, "- ", f"{licence.licence}: {licence.about}.{unasked}")


def _remark(model: Model) -> str:
    if model.problem:
        return model.problem
    if model.state == "partial":
        return "not complete."
    if model.missing_extras:
        return f"lacks the extra {', '.join(model.missing_extras)}."
    return "" if model.is_drawable else "this version cannot load it yet."


def _print_extras(out: Console, found: Examination) -> None:
    if not found.extras:
        return
    _heading(out, "Extras that are not installed")
    width = max(len(extra.name) for extra in found.extras)
    for extra in found.extras:
        _wrap(out, f"{extra.name:<{width}}  ", extra.gives)
    for extra in found.extras:
        # One line, however long: it is to be copied.
        out.print(f"    {extra.command}", style="cyan")


def _print_steps(out: Console, found: Examination) -> None:
    _heading(out, "Next")
    for number, step in enumerate(found.next, start=1):
        _wrap(out, f"{number:>2}. ", step.text)
        if step.command is not None:
            # One line, however long: it is to be copied.
            out.print(f"    {step.command}", style="cyan")


# --- lines -------------------------------------------------------------------------------------


def _heading(out: Console, text: str) -> None:
    out.print()
    _wrap(out, "", text, style="bold")


def _named(out: Console, name: str, text: str, style: str = "") -> None:
    _wrap(out, f"{name:<{_INDENT}}", text, style)


def _wrap(out: Console, lead: str, text: str, style: str = "") -> None:
    """Print a text below itself, at the width of the terminal, after what leads to it."""
    # Paths and addresses stay whole, however long, to be copied.
    width = max(20, out.width - len(lead))
    lines = textwrap.wrap(plain(text), width, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        out.print(Text.assemble((lead if number == 0 else " " * len(lead), "bold"), (line, style)))
