"""`flux-mcp models pull`: choose models, ask about large ones, download, show the progress."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flux_mcp.cli.common import (
    EXIT_BUSY,
    EXIT_ENGINE,
    agree,
    all_given_or_read,
    complain,
    console,
    opened,
    print_json,
)
from flux_mcp.cli.models_plan import one_quality, print_qualities
from flux_mcp.cli.progress import CommandProgress, progress_on_stderr
from flux_mcp.errors import DownloadRunningError, InvalidRequestError
from flux_mcp.jobs.downloads import Download
from flux_mcp.models.hub.cache import find_snapshot, state_of
from flux_mcp.models.hub.helpers import find_helper, helpers_to_pull
from flux_mcp.models.hub.messages import (
    Listed,
    Pulled,
    PullEvent,
    PullOrder,
    PullProgress,
)
from flux_mcp.models.hub.selection import GIB, download_gib, rows_to_pull
from flux_mcp.models.planning.candidates import Gpu, Machine
from flux_mcp.models.planning.machine import choices_here
from flux_mcp.models.planning.recommending import (
    gpu_gib,
    least_needed,
    loading_in_words,
    recommend,
    to_recommend,
    usual,
)
from flux_mcp.models.planning.tiers import choose_for
from flux_mcp.models.registry import HelperSpec, ModelSpec, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

ASK_ABOVE_GIB = 1.0
"""Larger downloads are asked about: hours on many lines, and a good part of many disks."""
KEPT = "What was downloaded is kept: run the same command again to go on."
MOST_LINES = 20
"""Lines that a download's bytes become where progress is a log and not a bar."""


@dataclass(frozen=True)
class PullFlags:
    """What the flags say."""

    models: tuple[str, ...]
    gpu: str | None
    quality: str | None
    is_agreed: bool


async def download(settings: Settings, asked: PullFlags, *, as_json: bool) -> None:
    """Download what was asked for, showing how far it is on stderr.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: the download failed or was cancelled; it has been said why.
    """
    registry = open_registry(settings)
    ids = _models(registry, asked, settings)
    models = [one for one in ids if one not in registry.helpers]
    rows = rows_to_pull(registry, models, lambda row: find_snapshot(row, settings) is not None)
    helpers = helpers_to_pull(registry, (one for one in ids if one not in models), settings)
    new = [row for row in rows if state_of(row, settings) != "installed"]
    new_helpers = [one for one in helpers if find_helper(one, registry, settings) is None]
    here = [row for row in registry if state_of(row, settings) == "installed"]
    size_gib = download_gib(new, here) + sum(one.disk_gib for one in new_helpers)
    if size_gib > ASK_ABOVE_GIB and not asked.is_agreed:
        named = ", ".join([one.id for one in new] + [one.id for one in new_helpers])
        agree(f"Download {named}, about {size_gib:.0f} GiB?")
    orders = [_order(row) for row in rows] + [_order(one) for one in helpers]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        async with opened(settings, executes=False) as service:
            with progress_on_stderr(*columns, lines=MOST_LINES) as progress:
                shown = partial(_show, progress)
                ended = await service.downloads.pull(orders, shown)
    except asyncio.CancelledError:
        complain("Interrupted: the download has stopped.")
        raise
    places = {row.id: _place(row, settings) for row in rows}
    for one in helpers:
        found = find_helper(one, registry, settings)
        places[one.id] = None if found is None else found.folder
    _tell(ended, places, as_json=as_json)


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
        if asked.quality is not None:
            raise InvalidRequestError("--quality goes with --for.", "Add --for 16GB.")
        return all_given_or_read(asked.models, "the ids of models")
    return (_recommended(asked.gpu, asked.quality, registry, settings),)


def _recommended(gpu: str, quality: str | None, registry: Registry, settings: Settings) -> str:
    """Return the id of the model to pull for a GPU, having said why.

    Args:
        gpu: Its memory, as `24GB`; or `cpu`.
        quality: The quality whose model is meant; else the one to begin with.
        registry: The models there are.
        settings: Which licences may be chosen.

    Raises:
        InvalidRequestError: it is no size or quality, or nothing fits.
        TooLittleMemoryError: nothing fits that quality.
    """
    choices = choices_here(registry, settings, lambda _: True)
    gib = None if gpu.strip().lower() == "cpu" else gpu_gib(gpu)
    machine = None if gib is None else Machine(Gpu(gib, gib))
    where = "a CPU" if gib is None else f"{gib:g} GiB"
    out = console(stderr=True)
    out.print(f"With every model pulled, on {where}:", style="bold")
    print_qualities(usual("text2img", "standard"), machine, choices, to_stderr=True)
    if quality is not None:
        wanted = usual("text2img", one_quality("--quality", quality))
        choice = choose_for(wanted, machine, choices)
        if choice is None:
            raise InvalidRequestError("No model may be chosen.", "The setting 'licences' says so.")
        out.print(f"Pulling {choice.spec.id}, the model of quality '{quality}'.")
        return choice.spec.id
    if machine is None:
        row = to_recommend("text2img", choices)[0]
        out.print(f"Pulling {row.id} ({row.licence}); on a CPU it takes minutes an image.")
        return row.id
    found = recommend(machine, choices)
    if found is None:
        least = least_needed(choices, machine)
        needs = f"{least.spec.id} needs {least.peak_gib:.1f} GiB" if least else "none may be chosen"
        raise InvalidRequestError(
            f"No model fits a GPU of {gib:g} GiB: {needs}.",
            "micro, which is installed, runs on any machine; 'flux-mcp doctor' names extras that "
            "load models in fewer bits, and the setting 'licences' decides which may be chosen.",
        )
    best, spec = found.best, found.best.spec
    what = f"{spec.id} ({spec.title}, {spec.licence})"
    out.print(f"For {gib:g} GiB: {what}, the first to pull.", style="bold")
    out.print(
        f"It would be loaded in {loading_in_words(best)}, and takes about {best.seconds:.0f} s."
    )
    for one in found.others:
        gate = ", gated" if one.spec.gated else ""
        out.print(
            f"Fits as well: {one.spec.id} ({one.spec.licence}{gate}), {loading_in_words(one)}."
        )
    return spec.id


def _place(row: ModelSpec, settings: Settings) -> Path | None:
    found = find_snapshot(row, settings)
    return None if found is None else found.folder


def _order(row: ModelSpec | HelperSpec) -> PullOrder:
    if row.repository is None:
        raise InvalidRequestError(f"{row.id} comes with the package.")
    return PullOrder(model=row.id, repository=row.repository, revision=row.revision)


def _tell(ended: Download, places: Mapping[str, Path | None], *, as_json: bool) -> None:
    """Print how it ended.

    Args:
        ended: The download.
        places: Where each model now is.
        as_json: Whether as JSON.

    Raises:
        typer.Exit: not well.
    """
    if as_json:
        print_json(ended)
    if ended.status == "completed":
        if not as_json:
            for model, folder in places.items():
                where = f": {folder}" if folder else ""
                console().print(f"{model} is installed{where}")
        return
    if ended.error is not None:
        complain(str(ended.error))
        is_busy = ended.error.code == DownloadRunningError.code
        raise typer.Exit(EXIT_BUSY if is_busy else EXIT_ENGINE)
    complain(f"Download {ended.id} was cancelled. {KEPT}")
    raise typer.Exit(EXIT_ENGINE)


# --- progress ----------------------------------------------------------------------------------


def _show(progress: CommandProgress, download: Download, event: PullEvent | None) -> None:
    """Show an event of the download: what is listed or complete as a line, bytes as bars."""
    if event is None and not download.is_final:
        progress.say(f"Download {download.id}: agents watch it with flux_get_job.")
    elif isinstance(event, Listed):
        size, missing = event.size_bytes / GIB, event.missing_bytes / GIB
        progress.say(
            f"{event.model} at {event.revision[:12]}: {event.files} files, {size:.2f} GiB; "
            f"{missing:.2f} GiB are missing."
        )
    elif isinstance(event, Pulled):
        progress.say(f"{event.model}: every file is here, and its hash is right.")
    elif isinstance(event, PullProgress):
        what, total = download.phase or download.status, download.total_bytes or None
        progress.show(what, download.done_bytes, total, download.message)
        progress.show_parts({one.path: (one.done_bytes, one.size_bytes) for one in event.files})
