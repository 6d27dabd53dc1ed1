"""`flux-mcp jobs`: who runs and who waits, one job, and how to cancel."""

from collections.abc import Iterable
from datetime import UTC, datetime

from flux_mcp.cli.common import (
    all_given_or_read,
    console,
    one_given_or_read,
    opened,
    plain,
    print_facts,
    print_json,
    print_table,
)
from flux_mcp.errors import InvalidRequestError
from flux_mcp.jobs.downloads import is_download_id
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.service.answers import CancelAnswer, JobAnswer, QueueAnswer, QueuedJobAnswer
from flux_mcp.settings.settings import Settings

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


# --- list --------------------------------------------------------------------------------------


async def print_queue(settings: Settings, *, as_json: bool) -> None:
    """Print who runs and who waits."""
    async with opened(settings, executes=False) as service:
        await service.runtime.look_for_leader()
        queue = await service.describe_queue()
    if as_json:
        print_json(queue)
    else:
        _print_waiting(queue)


def _print_waiting(queue: QueueAnswer) -> None:
    out = console()
    if not queue.jobs:
        out.print("Nothing runs and nothing waits. 'flux-mcp jobs list --all' shows ended jobs.")
        return
    print_table(
        ("job", "status", "kind", "model", "age", "session"),
        [
            (
                job.job_id,
                _state(job),
                KIND_NAMES[job.kind],
                job.model,
                _age(job.created_at),
                plain(job.session or ""),
            )
            for job in queue.jobs
        ],
        cut_last=True,
    )
    wait = "" if queue.wait_s is None else f" A new one would start in about {queue.wait_s:.0f} s."
    out.print(f"{queue.depth} of at most {queue.limit} jobs wait.{wait}")
    print_notices(queue.notices)


def _state(job: QueuedJobAnswer) -> str:
    if job.position is not None:
        return f"waiting {job.position}"
    return f"{'stopping' if job.status == 'stopping' else 'step'} {job.step}/{job.total_steps}"


async def print_recent_jobs(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs, ended ones too."""
    async with opened(settings, executes=False) as service:
        is_led = await service.runtime.look_for_leader()
        jobs = await service.recent_jobs(limit)
        queue = None if is_led else await service.describe_queue()
        answers = [await service.describe_job(job) for job in jobs if as_json]
    if as_json:
        notices = () if queue is None else queue.notices
        print_json(
            {
                "jobs": [answer.model_dump(mode="json") for answer in answers],
                "notices": list(notices),
            }
        )
        return
    if not jobs:
        console().print("No job yet. 'flux-mcp generate \"a red circle\"' makes one.")
        return
    print_table(
        ("job", "status", "model", "age", "prompt"),
        [
            (job.id, job.shown_status, job.model, _age(job.created_at), plain(job.plan.prompt))
            for job in jobs
        ],
        cut_last=True,
    )
    print_notices(() if queue is None else queue.notices)


def _age(created_at: str) -> str:
    """Return how long ago something was: `12 s`, `3 min`, `5 h`, `2 d`."""
    age_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds())
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if age_s >= unit_s:
            return f"{age_s / unit_s:.0f} {unit}"
    return f"{age_s:.0f} s"


# --- show --------------------------------------------------------------------------------------


async def print_job(settings: Settings, job_id: str, *, as_json: bool) -> None:
    """Print one job with its images.

    Raises:
        UnknownJobError: there is none with that id.
    """
    job_id = one_given_or_read(job_id, "the id of a job")
    async with opened(settings, executes=False) as service:
        await service.runtime.look_for_leader()
        answer = await service.describe_job(await service.find_job(job_id))
    if as_json:
        print_json(answer)
        return
    shown = answer.model_dump(exclude={"images", "error", "notices"})
    shown["kind"] = KIND_NAMES[answer.kind]
    print_facts(shown if answer.error is None else {**shown, "error": str(answer.error)})
    print_images(answer)
    print_notices(answer.notices)


def print_images(answer: JobAnswer) -> None:
    """Print the images of a job, each with its path and facts."""
    out = console()
    for image in answer.images:
        out.print(image.path, style="bold green")
        how = f"seed {image.seed}  model {image.model}"
        if image.kind == "upscale":
            how = f"upscaled by {image.model}"
        out.print(
            f"  {image.id}  {image.width}x{image.height}  {how}  {image.seconds:.1f} s"
            + "".join(f"  LoRA {lora.name} {lora.weight:g}" for lora in image.loras)
        )
        if answer.pack is not None:
            out.print(f"  {plain(image.prompt)}", style="dim")


def print_notices(notices: Iterable[str]) -> None:
    """Print on stderr what an answer wants a person to know, a line each."""
    for notice in notices:
        console(stderr=True).print(f"Note: {plain(notice)}", style="yellow")


# --- cancel ------------------------------------------------------------------------------------


async def cancel_jobs(
    settings: Settings, job_ids: tuple[str, ...], session: str | None, *, as_json: bool
) -> None:
    """Cancel jobs or a session's.

    Raises:
        InvalidRequestError: neither or both are given.
        UnknownJobError: there is none with one of the ids; then none is cancelled.
    """
    # Which take longer to import than a list of jobs takes.
    from flux_mcp.requests.lookups import CancelJobRequest  # noqa: PLC0415
    from flux_mcp.requests.validation import parse_request  # noqa: PLC0415

    if bool(job_ids) == (session is not None):
        raise InvalidRequestError(
            "Give either the id of a job or --session.", "'flux-mcp jobs list' shows the ids."
        )
    ids = all_given_or_read(job_ids, "the ids of jobs")
    requests = [parse_request(CancelJobRequest, {"job_id": one}) for one in dict.fromkeys(ids)]
    if session is not None:
        requests.append(parse_request(CancelJobRequest, {"session": session}))
    async with opened(settings, executes=False) as service:
        # A job that a killed process left running ends now, not when the next process starts.
        await service.runtime.look_for_leader()
        for request in requests:
            if request.job_id is not None and not is_download_id(request.job_id):
                await service.find_job(request.job_id)
        answers = [
            await service.cancel_session(request.session or "")
            if request.job_id is None
            else await service.cancel(request.job_id)
            for request in requests
        ]
    answer = CancelAnswer(
        cancelled=tuple(one for each in answers for one in each.cancelled),
        stopping=tuple(one for each in answers for one in each.stopping),
        already_final=tuple(one for each in answers for one in each.already_final),
    )
    if as_json:
        print_json(answer)
    else:
        _print_cancelled(answer)


def _print_cancelled(answer: CancelAnswer) -> None:
    out = console()
    for label, jobs in (
        ("cancelled", answer.cancelled),
        ("stops at its next step", answer.stopping),
        ("had ended before", answer.already_final),
    ):
        for job in jobs:
            out.print(f"{job}  {label}")
    if not (answer.cancelled or answer.stopping or answer.already_final):
        out.print("There was nothing to cancel.")
