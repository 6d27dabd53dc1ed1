"""`flux-mcp jobs …` and `flux-mcp gallery …`: lists for people, JSON for programs.

Ids are never cut or wrapped: they are what the next command needs. Prompts give way instead.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from flux_mcp.cli.common import console, opened, plain, print_json
from flux_mcp.cli.generate import print_answer
from flux_mcp.errors import InvalidRequestError
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.requests.schemas import CancelJobRequest, SearchRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import (
    CancelAnswer,
    ImageAnswer,
    JobAnswer,
    QueueAnswer,
    QueuedJobAnswer,
)
from flux_mcp.settings.settings import Settings

_LEAST_ROOM = 8
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


# --- jobs --------------------------------------------------------------------------------------


async def print_queue(settings: Settings, *, as_json: bool) -> None:
    """Print who runs and who waits."""
    async with opened(settings, executes=False) as service:
        queue = await service.describe_queue()
    if as_json:
        print_json(queue)
    else:
        _print_queue(queue)


def _print_queue(queue: QueueAnswer) -> None:
    out = console()
    if not queue.jobs:
        out.print("Nothing runs and nothing waits. 'flux-mcp jobs list --all' shows ended jobs.")
        return
    _print_table(
        ("job", "state", "kind", "model", "age", "session"),
        [
            (
                job.job_id,
                _state(job),
                job.kind,
                job.model,
                _age(job.created_at),
                plain(job.session or ""),
            )
            for job in queue.jobs
        ],
    )
    wait = "" if queue.wait_s is None else f" A new one would start in about {queue.wait_s:.0f} s."
    out.print(f"{queue.depth} of at most {queue.limit} jobs wait.{wait}")


def _state(job: QueuedJobAnswer) -> str:
    if job.position is not None:
        return f"waiting {job.position}"
    return f"step {job.step}/{job.total_steps}"


async def print_recent_jobs(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs, finished or not."""
    async with opened(settings, executes=False) as service:
        jobs = await service.recent_jobs(limit)
        answers = [await service.describe_job(job) for job in jobs if as_json]
    if as_json:
        print_json([answer.model_dump(mode="json") for answer in answers])
        return
    if not jobs:
        console().print("No job yet. 'flux-mcp generate \"a red circle\"' makes one.")
        return
    _print_table(
        ("job", "status", "model", "age", "prompt"),
        [
            (job.id, job.status, job.model, _age(job.created_at), plain(job.plan.prompt))
            for job in jobs
        ],
    )


async def print_job(settings: Settings, job_id: str, *, as_json: bool) -> None:
    """Print one job."""
    async with opened(settings, executes=False) as service:
        answer = await service.describe_job(await service.find_job(job_id))
    if as_json:
        print_json(answer)
        return
    _print_job(answer)
    print_answer(answer)


def _print_job(answer: JobAnswer) -> None:
    shown = answer.model_dump(exclude={"images", "error", "notices", "dry_run", "queue"})
    if answer.error is not None:
        shown["error"] = str(answer.error)
    _print_facts(shown)


async def cancel_jobs(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Cancel one job or a session's.

    Raises:
        InvalidRequestError: neither or both are given.
        UnknownJobError: there is none with that id.
    """
    if len(asked) != 1:
        raise InvalidRequestError(
            "Give either the id of a job or --session.", "'flux-mcp jobs list' shows the ids."
        )
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


# --- gallery -----------------------------------------------------------------------------------


async def print_hits(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Print a page of the gallery."""
    request = parse_request(SearchRequest, asked)
    async with opened(settings, executes=False) as service:
        answer = await service.gallery.search(request)
    if as_json:
        print_json(answer)
        return
    out = console()
    for image in answer.images:
        _print_hit(out, image)
    if not answer.images:
        searched = set(asked) - {"limit"}
        out.print(
            "No image fits. Every word must occur in the prompt; try fewer."
            if searched
            else "The gallery is empty. 'flux-mcp generate \"a red circle\"' makes an image."
        )
    if answer.next_cursor:
        out.print(f"More with the same search and --cursor {answer.next_cursor}")


def _print_hit(out: Console, image: ImageAnswer) -> None:
    out.print(
        f"{image.id}  {image.width}x{image.height}  {image.model}  seed {image.seed}  "
        f"{_local(image.created_at)}"
    )
    prompt = Text(plain(image.prompt))
    prompt.truncate(max(_LEAST_ROOM, out.width - 2), overflow="ellipsis")
    out.print(f"  {prompt.plain}", style="dim")


async def print_image(settings: Settings, image_id: str, *, as_json: bool) -> None:
    """Print everything known about one image."""
    async with opened(settings, executes=False) as service:
        record = await service.gallery.find_image(image_id)
        path = await service.gallery.image_path(image_id)
    if as_json:
        print_json({**record.model_dump(mode="json"), "path": str(path)})
        return
    console().print(str(path), style="bold green")
    _print_facts(_facts(record))
    if record.composed is not None:
        _print_composed(record.composed)


def _facts(record: ImageRecord) -> dict[str, Any]:
    """Return what a person wants to know first; nested values as `name value, name value`."""
    facts = record.model_dump(
        mode="json", exclude={"file", "thumbnail", "width", "height", "composed"}
    )
    plan = {name: facts["plan"].get(name) for name in ("steps", "guidance", "strength")}
    facts["plan"] = plan | {"size": f"{record.width}x{record.height}"}
    facts["created_at"] = f"{_local(record.created_at)} ({record.created_at})"
    facts["seconds"] = f"{record.seconds:.2f}"
    return facts


def _print_composed(report: dict[str, Any]) -> None:
    """Print what a pack made the prompt of: its blocks, and what was filled into them."""
    out = console()
    out.print(f"\nComposed by the pack {report['pack']} {report['version']}:", style="bold")
    drawn = report["drawn"]
    rows: list[tuple[str, str, str]] = []
    for block in report["blocks"]:
        rows.append((block["name"], block["source"], block["text"]))
        rows += [
            (f"  {{{fill['placeholder']}}}", fill["source"], fill["text"])
            for fill in block["filled"]
        ]
    names, sources = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    for name, source, text in rows:
        out.print(f"  {name:<{names}}  {plain(source):<{sources}}  {plain(text)}")
    if drawn:
        out.print(f"  drawn by the seed: {', '.join(drawn)}")


# --- shared ------------------------------------------------------------------------------------


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need; the last one is cut where the terminal ends.

    Not Rich's table, which takes from every column alike when there is little room: ids too.
    """
    out = console()
    lines = [header, *rows]
    widths = [max(map(cell_len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    room = max(_LEAST_ROOM, out.width - sum(widths) - 2 * len(widths))
    for number, (*cells, last) in enumerate(lines):
        fixed = [set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)]
        end = Text(last)
        end.truncate(room, overflow="ellipsis")
        out.print("  ".join([*fixed, end.plain]).rstrip(), style="bold" if number == 0 else None)


def _print_facts(facts: dict[str, Any]) -> None:
    """Print names and values, one a line; long values stay whole, to be copied."""
    width = max(len(name) for name in facts)
    out = console()
    for name, value in facts.items():
        if value not in (None, [], {}, ()):
            out.print(f"{name:<{width}}  {plain(_as_text(value))}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    return str(value)


def _local(created_at: str) -> str:
    return f"{datetime.fromisoformat(created_at).astimezone():%Y-%m-%d %H:%M}"


def _age(created_at: str) -> str:
    """Say how long ago something was: `12 s`, `3 min`, `5 h`, `2 d`."""
    age_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds())
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if age_s >= unit_s:
            return f"{age_s / unit_s:.0f} {unit}"
    return f"{age_s:.0f} s"
