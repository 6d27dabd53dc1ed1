"""`flux-mcp generate`: one request, its progress, the images."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    EXIT_REQUEST,
    complain,
    console,
    given_or_read,
    opened,
    plain,
    print_json,
)
from flux_mcp.cli.jobs import print_images, print_notices
from flux_mcp.cli.loras import read_loras
from flux_mcp.cli.packs import print_findings, read_variables
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.errors import FluxMcpError, InvalidRequestError
from flux_mcp.jobs.job import Job
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import DryRunAnswer, JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

WATCH_S = 24 * 3600.0
_ENDED = {"completed": "had finished already", "failed": "failed", "cancelled": "is cancelled"}
MOST_LINES = 10
"""Lines that a job's steps become where progress is a log and not a bar."""


# --- flags -------------------------------------------------------------------------------------


@dataclass
class Begun:
    """What an interrupted command has begun: its job, once there is one."""

    job_id: str | None = None

    def when_interrupted(self) -> str:
        """Return what is said at once."""
        if self.job_id is None:
            return "Stopping: nothing is generated."
        return f"Stopping: job {self.job_id} is cancelled and stops at its next step."


@dataclass(frozen=True)
class GenerateFlags:
    """The flags that become arguments of another shape: the choices in a pack, and the LoRAs."""

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


# --- work --------------------------------------------------------------------------------------


async def generate_and_wait(
    settings: Settings,
    asked: dict[str, Any],
    flags: GenerateFlags,
    begun: Begun,
    *,
    as_json: bool,
) -> None:
    """Generate, showing each step on stderr; print the result on stdout.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: the job failed or was cancelled, or the prompt of a dry run is refused.
    """
    choice = flags.choice()
    if "prompt" in asked:
        asked = {**asked, "prompt": given_or_read(asked["prompt"], "a prompt")}
    if flags.loras:
        asked = {**asked, "loras": read_loras(flags.loras)}
    if ("prompt" in asked) == (choice is not None):
        raise InvalidRequestError(
            "Give either a prompt or --pack.", "With a pack, words of your own go into --extra."
        )
    request = parse_request(GenerateRequest, asked if choice is None else {**asked, "pack": choice})
    if request.dry_run:
        async with opened(settings, executes=False) as service:
            planned = await service.dry_run(request)
        _print_planned(planned, as_json=as_json)
    else:
        async with opened(settings, executes=True) as service:
            answer = await _generate(service, request, begun)
        _print_ended(answer, as_json=as_json)


async def _generate(service: Service, request: GenerateRequest, begun: Begun) -> JobAnswer:
    # A task of its own: interrupted while its job is being stored, it still says which job to stop.
    submitting = asyncio.create_task(service.submit(request))
    try:
        job = await asyncio.shield(submitting)
        begun.job_id = job.id
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
    complain(f"Interrupted: job {job.id} {_ENDED.get(job.status, 'is still stopping')}.")


# --- progress ----------------------------------------------------------------------------------


async def show_progress(jobs: AsyncIterator[Job]) -> None:
    """Show on stderr how far a job is: a bar on a terminal, else a few lines."""
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with progress_on_stderr(*columns, lines=MOST_LINES) as progress:
        async for job in jobs:
            what = plain(
                job.message
                or job.phase
                or {"queued": "waiting", "running": "starting"}.get(job.status, job.status)
            )
            if job.is_stopping:
                what = job.shown_status
            line = f"{what} {job.step}/{job.total_steps}" if job.step else what
            progress.show(what, job.step, job.total_steps, line)


# --- answers -----------------------------------------------------------------------------------


def _print_planned(answer: DryRunAnswer, *, as_json: bool) -> None:
    """Print what would be generated.

    Raises:
        typer.Exit: the audit refuses a prompt, so the request would be refused.
    """
    if as_json:
        print_json(answer)
    else:
        _print_dry_run(answer)
    if any(one.verdict == "refuse" for one in answer.composed):
        raise typer.Exit(EXIT_REQUEST)


def _print_dry_run(answer: DryRunAnswer) -> None:
    """Print what would be generated, the audit of each prompt, and every notice."""
    out, plan, count = console(), answer.plan, len(answer.plan.seeds)
    out.print(
        f"Would generate {count} image{'s' if count > 1 else ''} of {plan.width}x{plan.height} "
        f"with {plan.model} in {plan.steps_drawn} steps, guidance {plan.guidance:g}, "
        f"seed {plan.seeds[0]}. Nothing is queued."
    )
    if answer.draw_s is not None:
        out.print(f"It would take about {answer.draw_s:.1f} s.")
    for lora in plan.loras:
        out.print(f"LoRA {lora.name}, weight {lora.weight:g}, {lora.sha256}")
    for composed in answer.composed:
        out.print(f"Prompt: {plain(composed.prompt)}")
        print_findings(composed.findings)
        if composed.more_findings:
            out.print(f"{composed.more_findings} more findings.")
    print_notices(answer.notices)


def _print_ended(answer: JobAnswer, *, as_json: bool) -> None:
    """Print the images of a job, or say on stderr why it has none.

    Raises:
        typer.Exit: it failed or was cancelled.
    """
    if as_json:
        print_json(answer)
    else:
        print_images(answer)
        print_notices(answer.notices)
    if answer.status in ("failed", "cancelled"):
        reason = f"Job {answer.job_id} was cancelled; no image was generated."
        complain(reason if answer.error is None else str(answer.error))
        raise typer.Exit(EXIT_ENGINE)
