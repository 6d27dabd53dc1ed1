"""`flux-mcp jobs …` and `flux-mcp gallery …`: tables for people, JSON for programs."""

from typing import Any

from rich.console import Console
from rich.table import Table

from flux_mcp.answers import CancelAnswer, JobAnswer
from flux_mcp.cli.common import opened, print_json
from flux_mcp.cli.generate import print_answer
from flux_mcp.config import Settings
from flux_mcp.requests.invalid import parse_request
from flux_mcp.requests.schemas import CancelJobRequest, SearchRequest


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


async def print_queue(settings: Settings, *, as_json: bool) -> None:
    """Print who runs and who waits."""
    async with opened(settings, executes=False) as service:
        queue = await service.describe_queue()
    if as_json:
        print_json(queue)
        return
    table = _table("job", "status", "place", "kind", "model", "step", "session", "submitted")
    for job in queue.jobs:
        table.add_row(
            job.job_id,
            job.status,
            "" if job.position is None else str(job.position),
            job.kind,
            job.model,
            f"{job.step}/{job.total_steps}",
            job.session or "",
            job.created_at[:19],
        )
    console = Console()
    if queue.jobs:
        console.print(table)
    console.print(f"{queue.depth} of at most {queue.limit} jobs wait.", highlight=False)


async def print_recent_jobs(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs, finished or not."""
    async with opened(settings, executes=False) as service:
        answers = [await service.describe_job(job) for job in await service.recent_jobs(limit)]
    if as_json:
        print_json([answer.model_dump(mode="json") for answer in answers])
        return
    table = _table("job", "status", "kind", "model", "step", "session", "prompt")
    for answer in answers:
        table.add_row(
            answer.job_id,
            answer.status,
            answer.kind,
            answer.model,
            f"{answer.step}/{answer.total_steps}",
            answer.session or "",
            (answer.prompt or "")[:60],
        )
    Console().print(table)


async def print_job(settings: Settings, job_id: str, *, as_json: bool) -> None:
    """Print one job."""
    async with opened(settings, executes=False) as service:
        answer = await service.describe_job(await service.find_job(job_id))
    if as_json:
        print_json(answer)
    else:
        _print_facts(answer)
        print_answer(answer)


def _print_facts(answer: JobAnswer) -> None:
    table = _table("", "")
    table.show_header = False
    shown = answer.model_dump(exclude={"images", "error", "notices", "dry_run", "queue"})
    for name, value in shown.items():
        if value is not None:
            table.add_row(name, str(value))
    Console().print(table)


async def cancel_jobs(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Cancel one job or a session's."""
    request = parse_request(CancelJobRequest, asked)
    async with opened(settings, executes=False) as service:
        if request.job_id is not None:
            answer = await service.cancel(request.job_id)
        else:
            answer = await service.cancel_session(request.session or "")
    if as_json:
        print_json(answer)
    else:
        _print_cancel(answer)


def _print_cancel(answer: CancelAnswer) -> None:
    console = Console(highlight=False)
    for label, jobs in (
        ("cancelled", answer.cancelled),
        ("stopping", answer.stopping),
        ("had already ended", answer.already_final),
    ):
        for job in jobs:
            console.print(f"{job}: {label}")


async def print_hits(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Print a page of the gallery."""
    request = parse_request(SearchRequest, asked)
    async with opened(settings, executes=False) as service:
        answer = await service.search(request)
    if as_json:
        print_json(answer)
        return
    table = _table("image", "size", "model", "seed", "created", "prompt")
    for image in answer.images:
        table.add_row(
            image.id,
            f"{image.width}x{image.height}",
            image.model,
            str(image.seed),
            image.created_at[:19],
            image.prompt[:60],
        )
    console = Console()
    console.print(table if answer.images else "No picture fits.")
    if answer.next_cursor:
        console.print(f"More with --cursor {answer.next_cursor}", highlight=False, soft_wrap=True)


async def print_image(settings: Settings, image_id: str, *, as_json: bool) -> None:
    """Print everything known about one picture."""
    async with opened(settings, executes=False) as service:
        record = await service.find_image(image_id)
        path = await service.image_path(image_id)
    facts = {**record.model_dump(mode="json"), "path": str(path)}
    if as_json:
        print_json(facts)
        return
    table = _table("", "")
    table.show_header = False
    for name, value in facts.items():
        if value not in (None, [], {}):
            table.add_row(name, str(value))
    Console().print(table)
