"""`flux-mcp generate`: one request, its progress, the images."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    EXIT_REQUEST,
    complain,
    console,
    opened,
    plain,
    print_json,
)
from flux_mcp.cli.compositions import print_findings, read_variables
from flux_mcp.cli.loras import read_loras
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.errors import FluxMcpError, InvalidRequestError
from flux_mcp.jobs.job import Job
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

WATCH_S = 24 * 3600.0
MOST_LINES = 10
"""Lines a job's steps become where progress is a log and not a bar."""


@dataclass(frozen=True)
class GenerateFlags:
    """The flags that are read further: what a pack makes the prompt of, and the LoRAs."""

    pack: str | None
    subject: str | None
    variables: tuple[str, ...]
    """Each `name=value`."""
    extra: str | None
    loras: tuple[str, ...] = ()
    """Each `name` or `name:weight`."""

    def choice(self) -> dict[str, Any] | None:
        """Return the argument `pack` of the tools; `None` without a pack.

        Raises:
            InvalidRequestError: choices of no pack, or a variable not written as name=value.
        """
        chosen: dict[str, Any] = {
            name: value
            for name, value in (("subject", self.subject), ("extra", self.extra))
            if value is not None
        }
        if self.variables:
            chosen["variables"] = read_variables(self.variables)
        if self.pack is not None:
            return {"name": self.pack, **chosen}
        if chosen:
            raise InvalidRequestError(
                "--subject, --var and --extra choose in a pack, and no --pack is given.",
                "'flux-mcp packs list' shows the packs there are.",
            )
        return None


async def generate_and_wait(
    settings: Settings, asked: dict[str, Any], flags: GenerateFlags, *, as_json: bool
) -> None:
    """Draw, showing each step on stderr; print the result on stdout.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: the job failed or was cancelled, or the prompt of a dry run is refused.
    """
    choice = flags.choice()
    if flags.loras:
        asked = {**asked, "loras": read_loras(flags.loras)}
    if ("prompt" in asked) == (choice is not None):
        raise InvalidRequestError(
            "Give either a prompt or --pack.", "With a pack, words of your own go into --extra."
        )
    request = parse_request(GenerateRequest, asked if choice is None else {**asked, "pack": choice})
    async with opened(settings, executes=not request.dry_run) as service:
        if request.dry_run:
            answer = await service.dry_run(request)
        else:
            answer = await _draw(service, request)
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)
    if answer.dry_run is not None:
        if any(one.verdict == "refuse" for one in answer.dry_run.composed):
            raise typer.Exit(EXIT_REQUEST)
    elif answer.status in ("failed", "cancelled"):
        say_why(answer)
        raise typer.Exit(EXIT_ENGINE)


async def _draw(service: Service, request: GenerateRequest) -> JobAnswer:
    # A task of its own: interrupted while its job is being stored, it still says which job to stop.
    submitting = asyncio.create_task(service.submit(request))
    try:
        job = await asyncio.shield(submitting)
        await show_progress(service.watch(job.id, WATCH_S))
    except asyncio.CancelledError:
        await _stop(service, submitting)
        raise
    return await service.describe_job(await service.find_job(job.id))


async def _stop(service: Service, submitting: "asyncio.Task[Job]") -> None:
    """Cancel the job of an interrupted command and wait until it has stopped."""
    try:
        job = await submitting
    except FluxMcpError:
        return
    await service.cancel(job.id)
    async for seen in service.watch(job.id, service.settings.cancel_grace_s):
        job = seen
    done = "had finished already" if job.status == "completed" else "is cancelled"
    complain(f"Interrupted: job {job.id} {done}.")


# --- progress ----------------------------------------------------------------------------------


async def show_progress(jobs: AsyncIterator[Job]) -> None:
    """Show on stderr how a job goes on: a bar on a terminal, else a few lines."""
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    shown: AbstractContextManager[_Bar | _Lines] = progress_on_stderr(
        *columns, bars=_Bar, lines=_Lines
    )
    with shown as progress:
        async for job in jobs:
            what = (
                job.message
                or job.phase
                or {"queued": "waiting", "running": "starting"}.get(job.status, job.status)
            )
            progress.show(plain(what), job.step, job.total_steps)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("waiting", total=None)

    def show(self, what: str, step: int, total: int) -> None:
        self._bar.update(self._task, completed=step, total=total, description=what)


class _Lines:
    """Progress as a log: each phase once, and at most `MOST_LINES` lines of steps."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._what = ""
        self._step = 0

    def show(self, what: str, step: int, total: int) -> None:
        if what == self._what and step - self._step < max(1, total / MOST_LINES):
            return
        self._what, self._step = what, step
        self._out.print(f"{what} {step}/{total}" if step else what)


# --- answers -----------------------------------------------------------------------------------


def print_answer(answer: JobAnswer) -> None:
    """Print a job for a person: its images, or the plan of a dry run, and every notice."""
    out = console()
    if answer.dry_run is not None:
        plan = answer.dry_run.plan
        count = len(plan["seeds"])
        out.print(
            f"Would draw {count} image{'s' if count > 1 else ''} of "
            f"{plan['width']}x{plan['height']} with {answer.model} in {plan['steps']} steps, "
            f"guidance {plan['guidance']:g}, seed {answer.seed}. Nothing is queued."
        )
        if answer.dry_run.draw_s is not None:
            out.print(f"Drawing would take about {answer.dry_run.draw_s:.1f} s.")
        for lora in answer.dry_run.plan["loras"]:
            out.print(f"LoRA {lora['name']}, weight {lora['weight']:g}, {lora['sha256']}")
        for composed in answer.dry_run.composed:
            out.print(f"Prompt: {plain(composed.prompt)}")
            print_findings(composed.findings)
            if composed.more_findings:
                out.print(f"{composed.more_findings} more findings.")
    for image in answer.images:
        out.print(image.path, style="bold green")
        out.print(
            f"  {image.id}  {image.width}x{image.height}  seed {image.seed}  model {image.model}  "
            f"{image.seconds:.1f} s"
            + "".join(f"  LoRA {lora.name} {lora.weight:g}" for lora in image.loras)
        )
        if answer.pack is not None:
            out.print(f"  {plain(image.prompt)}", style="dim")
    for notice in answer.notices:
        out.print(f"Note: {plain(notice)}", style="yellow")


def say_why(answer: JobAnswer) -> None:
    """Say on stderr why a job has no images."""
    if answer.error is not None:
        complain(str(answer.error))
    elif answer.status == "cancelled":
        complain(f"Job {answer.job_id} was cancelled; nothing was drawn.")
