"""`flux-mcp generate`: one request, a progress bar, the pictures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from flux_mcp.answers import JobAnswer
from flux_mcp.cli.common import EXIT_ENGINE, opened, print_json
from flux_mcp.config import Settings
from flux_mcp.jobs.job import Job
from flux_mcp.requests.invalid import parse_request
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service import Service

WATCH_S = 24 * 3600.0


async def generate_and_wait(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Draw, showing each step on stderr; print the result on stdout.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: the job failed or was cancelled.
    """
    request = parse_request(GenerateRequest, asked)
    async with opened(settings, executes=not request.dry_run) as service:
        if request.dry_run:
            answer = await service.dry_run(request)
        else:
            answer = await _draw(service, request)
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)
    if answer.status in ("failed", "cancelled"):
        raise typer.Exit(EXIT_ENGINE)


async def _draw(service: Service, request: GenerateRequest) -> JobAnswer:
    job = await service.submit(request)
    try:
        await show_progress(service.watch(job.id, WATCH_S))
    except asyncio.CancelledError:
        await service.cancel(job.id)
        async for _ in service.watch(job.id, service.settings.cancel_grace_s):
            pass
        raise
    return await service.describe_job(await service.find_job(job.id))


async def show_progress(jobs: AsyncIterator[Job]) -> None:
    """Show a bar on stderr while a job goes on."""
    with progress_bar() as (progress, task):
        async for job in jobs:
            what = (
                job.message
                or job.phase
                or {"queued": "waiting", "running": "starting"}.get(job.status, job.status)
            )
            progress.update(task, completed=job.step, total=job.total_steps, description=what)


@contextmanager
def progress_bar() -> Any:
    """Give a bar for denoising steps, on stderr so that stdout stays for results."""
    with Progress(
        TextColumn("[bold]{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task: TaskID = progress.add_task("waiting", total=None)
        yield progress, task


def print_answer(answer: JobAnswer) -> None:
    """Print a job for a person."""
    console = Console(highlight=False, soft_wrap=True)
    if answer.dry_run is not None:
        plan = answer.dry_run.plan
        console.print(
            f"Would draw {len(plan['seeds'])} picture(s) of {plan['width']}x{plan['height']} with "
            f"{answer.model} in {plan['steps']} steps, seed {answer.seed}."
        )
    for image in answer.images:
        console.print(f"[bold green]{image.path}[/]")
        console.print(
            f"  {image.id}  {image.width}x{image.height}  seed {image.seed}  model {image.model}  "
            f"{image.seconds:.1f} s"
        )
    if answer.error is not None:
        error = answer.error
        console.print(f"[{error.code}] {error.message} {error.hint}", style="red", markup=False)
    elif answer.status == "cancelled":
        console.print("Cancelled; nothing was drawn.")
    for notice in answer.notices:
        console.print(f"Note: {notice}", style="yellow", markup=False)
