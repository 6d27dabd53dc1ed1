"""Calls of tools in tests, answered as the models of their answers."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from mcp import Client
from mcp.types import CallToolResult, Implementation, TextResourceContents

from flux_mcp.service.answers import DownloadAnswer, DryRunAnswer, JobAnswer, QueueAnswer

FAST: dict[str, Any] = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 4, "seed": 7}
SLOW: dict[str, Any] = {
    "prompt": "a blue square",
    "negative_prompt": "a circle",
    "width": 256,
    "height": 256,
    "steps": 64,
    "count": 8,
    "seed": 9,
}
"""A thousand passes through the transformer: long enough to be looked at, cancelled and killed."""

SOMEBODY = Implementation(name="somebody", version="1")
"""A client without a row in the server's clients.toml: it is sent everything."""
NO_HASH = "0" * 64
OF_ALL_IMAGES = ("job_id", "kind", "model", "prompt", "session")


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    return await client.call_tool(tool, arguments)


async def job(client: Client, tool: str, **arguments: Any) -> JobAnswer:
    result = await call(client, tool, **arguments)
    assert not result.is_error, result.content
    return await whole(client, result)


def told(result: CallToolResult) -> JobAnswer:
    """Return the job of a result, with hashes of zeros: tools leave them out.

    Who has a named token is told no paths either: they are empty.
    """
    content = _content(result)
    # Nor does an image repeat what its job says.
    of_all = {key: content[key] for key in OF_ALL_IMAGES if key in content}
    of_all |= {"path": "", "pixels_sha256": NO_HASH}
    images = [
        {**of_all, **image, "loras": _hashed(image.get("loras", ()))}
        for image in _hashed(content["images"])
    ]
    return JobAnswer.model_validate({**content, "images": images})


def _content(result: CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    content: dict[str, Any] = result.structured_content
    return content


def _hashed(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "sha256": NO_HASH} for item in items]


async def whole(client: Client, result: CallToolResult) -> JobAnswer:
    """Return all there is to know of the job of a result."""
    answer = told(result)
    if answer.status != "completed":
        return answer
    (content,) = (await client.read_resource(f"flux://jobs/{answer.job_id}")).contents
    assert isinstance(content, TextResourceContents)
    return JobAnswer.model_validate_json(content.text)


async def dry_run(client: Client, tool: str, **arguments: Any) -> DryRunAnswer:
    result = await call(client, tool, **arguments, dry_run=True)
    assert not result.is_error, result.content
    return DryRunAnswer.model_validate(result.structured_content)


async def queue(client: Client) -> QueueAnswer:
    return QueueAnswer.model_validate((await call(client, "flux_get_job")).structured_content)


async def download_until(
    client: Client, download_id: str, reached: Callable[[DownloadAnswer], bool], tries: int = 600
) -> DownloadAnswer:
    """Ask for a download again and again until it has got somewhere."""
    for _ in range(tries):
        result = await call(client, "flux_get_job", job_id=download_id, wait_s=0.1)
        answer = DownloadAnswer.model_validate(result.structured_content)
        if reached(answer):
            return answer
    raise AssertionError(f"the download never got there: {answer}")


async def cancel_call_while_drawing(client: Client, tool: str, **arguments: Any) -> None:
    """Make a call and cancel it, as a Stop button does, once its job has drawn a step."""
    drawn = asyncio.Event()

    async def tell(progress: float, _total: float | None, _message: str | None) -> None:
        if progress >= 1:
            drawn.set()

    calling = asyncio.create_task(client.call_tool(tool, arguments, progress_callback=tell))
    async with asyncio.timeout(120):
        await drawn.wait()
    assert not calling.done()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)


async def job_until(
    client: Client, job_id: str, reached: Callable[[JobAnswer], bool], tries: int = 600
) -> JobAnswer:
    """Ask for a job again and again until it has got somewhere."""
    for _ in range(tries):
        answer = await job(client, "flux_get_job", job_id=job_id, wait_s=0.1, preview="none")
        if reached(answer):
            return answer
    raise AssertionError(f"the job never got there: {answer}")


def is_final(answer: JobAnswer | DownloadAnswer) -> bool:
    return answer.status in ("completed", "failed", "cancelled")


def draws(answer: JobAnswer) -> bool:
    return answer.status == "running" and answer.step >= 2
