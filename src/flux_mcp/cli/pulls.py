"""`flux-mcp models pull`: which models, are they wanted, and how far their download is."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flux_mcp.cli.common import EXIT_BUSY, EXIT_ENGINE, complain, console, opened, print_json
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.cli.weights import agree
from flux_mcp.errors import DownloadRunningError, InvalidRequestError
from flux_mcp.jobs.downloads import Download
from flux_mcp.models.hub.cache import find_snapshot, state_of
from flux_mcp.models.hub.messages import (
    FileProgress,
    Listed,
    Pulled,
    PullEvent,
    PullOrder,
    PullProgress,
)
from flux_mcp.models.hub.selection import GIB, rows_to_pull
from flux_mcp.models.planning.candidates import Choices, Gpu, Machine
from flux_mcp.models.planning.machine import this_load_support
from flux_mcp.models.planning.recommending import gpu_gib, least_needed, loading_in_words, recommend
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

ASK_ABOVE_GIB = 1.0
"""Larger downloads are asked about: hours on many lines, and a good part of many disks."""
_KEPT = "What was downloaded is kept: run the same command again to go on."
MOST_LINES = 20
"""Lines a download's bytes become where progress is a log and not a bar."""


@dataclass(frozen=True)
class PullFlags:
    """What the flags say."""

    models: tuple[str, ...]
    gpu: str | None
    is_agreed: bool


async def pull(settings: Settings, asked: PullFlags, *, as_json: bool) -> None:
    """Download what was asked for, showing how far it is on stderr.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: the download failed or was cancelled; it has been said why.
    """
    registry = open_registry(settings)
    models = _models(registry, asked, settings)
    rows = rows_to_pull(registry, models, lambda row: find_snapshot(row, settings) is not None)
    new = [row for row in rows if state_of(row, settings) != "installed"]
    size_gib = sum(row.disk_gib for row in new)
    if size_gib > ASK_ABOVE_GIB and not asked.is_agreed:
        agree(f"Download {', '.join(row.id for row in new)}, about {size_gib:.0f} GiB?")
    orders = [_order(row) for row in rows]
    try:
        async with opened(settings, executes=False) as service:
            with _progress() as shown:
                ended = await service.downloads.pull(orders, shown.show)
    except asyncio.CancelledError:
        complain(f"Interrupted. {_KEPT}")
        raise
    _tell(ended, rows, settings, as_json=as_json)


def _models(registry: Registry, asked: PullFlags, settings: Settings) -> tuple[str, ...]:
    """Return the ids to pull.

    Raises:
        InvalidRequestError: neither or both ways of choosing were taken, or nothing fits the GPU.
    """
    if bool(asked.models) == (asked.gpu is not None):
        raise InvalidRequestError(
            "Name either models or a GPU with --for.", "'flux-mcp models list' shows the models."
        )
    if asked.gpu is None:
        return asked.models
    return (_recommended(gpu_gib(asked.gpu), registry, settings),)


def _recommended(gib: float, registry: Registry, settings: Settings) -> str:
    """Return the id of the model to pull for a GPU of a size, having said why.

    Raises:
        InvalidRequestError: nothing fits it.
    """
    licences = None if settings.licences is None else frozenset(settings.licences)
    choices = Choices(registry, lambda _: True, this_load_support(), licences)
    machine = Machine(Gpu(gib, gib))
    found = recommend(machine, choices)
    if found is None:
        least = least_needed(choices, machine)
        needs = f"{least.spec.id} needs {least.peak_gib:.1f} GiB" if least else "none may be chosen"
        raise InvalidRequestError(
            f"No model fits a GPU of {gib:g} GiB: {needs}.",
            "micro, which is installed, draws on any machine; 'flux-mcp doctor' names extras that "
            "hold models in fewer bits, and the setting 'licences' decides which may be chosen.",
        )
    out, best = console(stderr=True), found.best
    what = f"{best.spec.id} ({best.spec.title}, {best.spec.licence})"
    out.print(f"For {gib:g} GiB: {what}.", style="bold")
    out.print(f"It would be loaded in {loading_in_words(best)}.")
    for one in found.others:
        gate = ", gated" if one.spec.gated else ""
        out.print(
            f"Fits as well: {one.spec.id} ({one.spec.licence}{gate}), {loading_in_words(one)}."
        )
    return best.spec.id


def _order(row: ModelSpec) -> PullOrder:
    if row.repository is None:
        raise InvalidRequestError(f"{row.id} comes with the package.")
    return PullOrder(model=row.id, repository=row.repository, revision=row.revision)


def _tell(ended: Download, rows: Sequence[ModelSpec], settings: Settings, *, as_json: bool) -> None:
    """Print how it ended.

    Raises:
        typer.Exit: not well.
    """
    if as_json:
        print_json(ended)
    if ended.status == "completed":
        if not as_json:
            for row in rows:
                found = find_snapshot(row, settings)
                where = f": {found.folder}" if found else ""
                console().print(f"{row.id} is installed{where}")
        return
    if ended.error is not None:
        complain(str(ended.error))
        is_busy = ended.error.code == DownloadRunningError.code
        raise typer.Exit(EXIT_BUSY if is_busy else EXIT_ENGINE)
    complain(f"Download {ended.id} was cancelled. {_KEPT}")
    raise typer.Exit(EXIT_ENGINE)


# --- progress ----------------------------------------------------------------------------------


def _progress() -> "AbstractContextManager[_Bars | _Lines]":
    """Show how far it is: bars on a terminal, one for each file; else a few lines."""
    return progress_on_stderr(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        bars=_Bars,
        lines=_Lines,
    )


def _say_event(out: Console, download: Download, event: PullEvent | None) -> None:
    if event is None and not download.is_final:
        out.print(f"Download {download.id}: agents watch it with flux_get_job.")
    elif isinstance(event, Listed):
        size, missing = event.size_bytes / GIB, event.missing_bytes / GIB
        out.print(
            f"{event.model} at {event.revision[:12]}: {event.files} files, {size:.2f} GiB; "
            f"{missing:.2f} GiB are missing."
        )
    elif isinstance(event, Pulled):
        out.print(f"{event.model}: every file is here, and its hash is right.")


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._out = bars.console
        self._bars = bars
        self._whole = bars.add_task("asking the hub", total=None)
        self._files: dict[str, TaskID] = {}

    def show(self, download: Download, event: PullEvent | None) -> None:
        _say_event(self._out, download, event)
        if isinstance(event, PullProgress):
            self._bars.update(
                self._whole,
                description=download.phase or download.status,
                completed=download.done_bytes,
                total=download.total_bytes or None,
            )
            self._show_files(event.files)

    def _show_files(self, files: Sequence[FileProgress]) -> None:
        for path in self._files.keys() - {file.path for file in files}:
            self._bars.remove_task(self._files.pop(path))
        for file in files:
            if file.path not in self._files:
                self._files[file.path] = self._bars.add_task(file.path, total=file.size_bytes)
            self._bars.update(self._files[file.path], completed=file.done_bytes)


class _Lines:
    """Progress as a log: at most `MOST_LINES` lines of bytes."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._step = -100

    def show(self, download: Download, event: PullEvent | None) -> None:
        _say_event(self._out, download, event)
        is_due = download.step - self._step >= download.total_steps / MOST_LINES
        if isinstance(event, PullProgress) and download.total_bytes and is_due:
            self._step = download.step
            self._out.print(download.message)
