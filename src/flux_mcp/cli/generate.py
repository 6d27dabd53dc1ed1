"""`flux-mcp generate`, other drawing commands, `upscale`: requests, their progress, the images."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from flux_mcp.cli.arguments import arguments_of
from flux_mcp.cli.common import (
    EXIT_ENGINE,
    EXIT_REQUEST,
    STDIN,
    complain,
    console,
    given_or_read,
    opened,
    plain,
    print_json,
    read_kind,
)
from flux_mcp.cli.jobs import print_images, print_notices
from flux_mcp.cli.output_files import OutputFlags
from flux_mcp.cli.packs import print_findings
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.cli.terminal_images import TerminalImages, terminal_images
from flux_mcp.errors import FluxMcpError, InvalidRequestError, RequestError
from flux_mcp.images.references import LatestReference
from flux_mcp.jobs.job import Job
from flux_mcp.requests.schemas import JOB_REQUESTS, JobRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import DryRunAnswer, ImageAnswer, JobAnswer
from flux_mcp.service.inputs import stored_references
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

WATCH_S = 24 * 3600.0
_ENDED = {"completed": "had finished already", "failed": "failed", "cancelled": "is cancelled"}
MOST_LINES = 10
"""Lines that a job's steps become where progress is a log and not a bar."""


@dataclass
class Begun:
    """What an interrupted command has begun: its jobs, once there are any."""

    job_ids: list[str] = field(default_factory=list)

    def when_interrupted(self) -> str:
        """Return what is said at once."""
        match self.job_ids:
            case []:
                return "Stopping: nothing is generated."
            case [one]:
                return f"Stopping: job {one} is cancelled and stops at its next step."
            case several:
                return f"Stopping: {len(several)} jobs are cancelled; a running one stops soon."


# --- work --------------------------------------------------------------------------------------


async def draw_and_wait(
    settings: Settings,
    command: str,
    given: dict[str, Any],
    output: OutputFlags,
    begun: Begun,
    *,
    as_json: bool,
) -> None:
    """Make images, showing each step on stderr; print the result on stdout.

    Args:
        settings: Of this command.
        command: Its name, one of `KIND_NAMES`.
        given: The flags that were given, by the names in commands/drawing.py.
        output: Where the images go besides the gallery.
        begun: Told the jobs.
        as_json: Whether the result is for programs.

    Raises:
        FluxMcpError: the request is wrong, or the machine cannot.
        typer.Exit: a job failed or was cancelled, or the prompt of a dry run is refused.
    """
    is_batch = "prompts" in given
    requests = requests_of(settings, command, given)
    output.check(sum(request.count for request in requests))
    if requests[0].dry_run:
        await _plan(settings, requests, is_batch=is_batch, as_json=as_json)
        return
    shown = None if as_json else terminal_images(output.show)
    async with opened(settings, executes=True) as service:
        answers = await _draw(service, requests, begun, shown)
    images = [image for answer in answers for image in wanted_images(answer.images)]
    # Numbers count what was asked for: with an image missing they would name others.
    is_whole = all(answer.status == "completed" for answer in answers)
    written = output.deliver(images) if is_whole else []
    if as_json:
        whole = [answer.model_dump(mode="json") for answer in answers]
        print_json({"jobs": whole} if is_batch else whole[0])
    for answer in answers:
        _print_ended(answer, as_json=as_json)
    for path in () if as_json else written:
        console().print(str(path), style="bold green")
    if shown is not None:
        shown.show(Path(image.path) for image in images)
    if output.file is not None and not is_whole:
        complain("Nothing was written to --output, as not every image was made.")
    if not is_whole:
        raise typer.Exit(EXIT_ENGINE)


def wanted_images(images: Sequence[ImageAnswer]) -> list[ImageAnswer]:
    """Return the images that were asked for: of one that was upscaled, the larger."""
    made_from = {parent for image in images for parent in image.parents}
    return [image for image in images if image.id not in made_from]


def requests_of(
    settings: Settings, command: str, given: Mapping[str, Any]
) -> tuple[JobRequest, ...]:
    """Return what a command asks for: one request, or with `prompts` one for each line.

    Raises:
        RequestError: it is wrong; of several, the line is said.
    """
    kind = read_kind("command", command)
    request_type = JOB_REQUESTS[kind]
    asked = dict(given)
    lines = asked.pop("prompts", None)
    if lines is not None and ("prompt" in asked or "pack" in asked):
        raise InvalidRequestError("Give one of a prompt, --pack and --prompts.", "Leave one out.")
    if lines is not None and "idempotency_key" in asked:
        raise InvalidRequestError("One --idempotency-key is of one job.", "Leave one out.")
    if "prompt" in asked:
        asked["prompt"] = given_or_read(asked["prompt"], "a prompt")
    arguments = arguments_of(command, asked, settings)
    if lines is not None:
        requests = tuple(
            _numbered(number, request_type, {**arguments, "prompt": line})
            for number, line in _lines(lines)
        )
        _refuse_latest(requests[0])
        return requests
    if ("prompt" in arguments and "pack" in arguments) or (
        request_type.words_of and not set(request_type.words_of) & arguments.keys()
    ):
        raise InvalidRequestError(
            "Give either a prompt or --pack.", "With a pack, words of your own go into --extra."
        )
    return (parse_request(request_type, arguments),)


def _refuse_latest(request: JobRequest) -> None:
    """Refuse `latest` for several jobs: what one makes would be the newest for those after it."""
    if any(isinstance(one, LatestReference) for one in stored_references(request)):
        raise InvalidRequestError(
            "With --prompts, latest could be another image for each line.",
            "Give the id of the image; 'flux-mcp gallery search' shows it.",
        )


def _lines(source: str) -> list[tuple[int, str]]:
    if source == STDIN:
        text = given_or_read(source, "prompts")
    else:
        try:
            raw = Path(source).expanduser().read_bytes()
            text = raw.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise InvalidRequestError(
                f"--prompts: {plain(source)} cannot be read.", "Give a text in UTF-8."
            ) from error
    found = [
        (number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not found:
        raise InvalidRequestError("--prompts has no line with words.", "Write one job a line.")
    return found


def _numbered(number: int, request_type: type[JobRequest], arguments: dict[str, Any]) -> JobRequest:
    try:
        return parse_request(request_type, arguments)
    except RequestError as error:
        raise type(error)(f"Line {number}: {error.message}", error.hint) from error


async def _plan(
    settings: Settings, requests: Sequence[JobRequest], *, is_batch: bool, as_json: bool
) -> None:
    async with opened(settings, executes=False) as service:
        planned = [await service.dry_run(request) for request in requests]
    if as_json:
        whole = [answer.model_dump(mode="json") for answer in planned]
        print_json({"plans": whole} if is_batch else whole[0])
    for answer in () if as_json else planned:
        _print_dry_run(answer)
    if any(one.verdict == "refuse" for answer in planned for one in answer.composed):
        raise typer.Exit(EXIT_REQUEST)


async def _draw(
    service: Service, requests: Sequence[JobRequest], begun: Begun, shown: TerminalImages | None
) -> list[JobAnswer]:
    """Queue every request at once, and wait for all."""
    # A task of its own: interrupted while jobs are being stored, it still says which to stop.
    submitting = asyncio.create_task(_submit(service, requests, begun))
    try:
        jobs = await asyncio.shield(submitting)
        for job in jobs:
            preview = (
                None if shown is None else partial(shown.preview, service.preview_path(job.id))
            )
            await show_progress(service.watch(job.id, WATCH_S), preview)
    except asyncio.CancelledError:
        with suppress(FluxMcpError):
            await submitting
        await _stop(service, begun)
        raise
    answers = []
    for job in jobs:
        # The answer is printed: from now on `latest` may be its image, for the same command too.
        await service.mark_id_given(job.id)
        answers.append(await service.describe_job(await service.find_job(job.id)))
    return answers


async def _submit(service: Service, requests: Sequence[JobRequest], begun: Begun) -> list[Job]:
    jobs = []
    try:
        for request in requests:
            job = await service.submit(request)
            jobs.append(job)
            begun.job_ids.append(job.id)
    except FluxMcpError:
        # All or none: half a batch would be made again by whoever repeats the command.
        for job in jobs:
            await service.cancel(job.id)
        raise
    return jobs


async def _stop(service: Service, begun: Begun) -> None:
    """Cancel the jobs of an interrupted command and wait until they have stopped."""
    # The last first, so that none of them starts meanwhile.
    for job_id in reversed(begun.job_ids):
        await service.cancel(job_id)
    for job_id in begun.job_ids:
        async for job in service.watch(job_id, service.settings.cancel_grace_s):
            seen = job
        complain(f"Interrupted: job {job_id} {_ENDED.get(seen.status, 'is still stopping')}.")


# --- progress ----------------------------------------------------------------------------------


async def show_progress(
    jobs: AsyncIterator[Job], preview: Callable[[], RenderableType | None] | None = None
) -> None:
    """Show on stderr how far a job is: a bar on a terminal, else a few lines.

    Args:
        jobs: The job, again after each change.
        preview: Returns its preview as it now is, to be shown above the bar; may block.
    """
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
            if preview is not None and job.status == "running":
                image = await asyncio.to_thread(preview)
                if image is not None:
                    progress.show_image(image)
            progress.show(what, job.step, job.total_steps, line)


# --- answers -----------------------------------------------------------------------------------


def _print_dry_run(answer: DryRunAnswer) -> None:
    """Print what would be generated, the audit of each prompt, and every notice."""
    out, plan, count = console(), answer.plan, len(answer.plan.seeds)
    if plan.kind == "upscale":
        out.print(
            f"Would upscale the image to {plan.width}x{plan.height} with {plan.model} in "
            f"{plan.total_steps} tile{'s' if plan.total_steps > 1 else ''}. Nothing is queued."
        )
        print_notices(answer.notices)
        return
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
    """Print the images of a job, or say on stderr why it has none."""
    if not as_json:
        print_images(answer)
        print_notices(answer.notices)
    if answer.status in ("failed", "cancelled"):
        reason = f"Job {answer.job_id} was cancelled; no image was generated."
        complain(reason if answer.error is None else str(answer.error))
