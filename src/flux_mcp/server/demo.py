"""The demonstration: a server as a child process, called as an MCP client calls it.

Which tools are called, with which arguments, in which order. `cli/demo.py` shows it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextResourceContents

from flux_mcp.errors import EngineUnavailableError, InternalError
from flux_mcp.service.answers import JobAnswer
from flux_mcp.settings.environment import all_variables
from flux_mcp.settings.settings import Settings

POLL_S = 50
COMMON: Mapping[str, Any] = {
    # By name: the demonstration takes seconds, and shows the same images, on every machine.
    "model": "micro",
    "quality": "standard",
    "session": "demo",
    "preview": "none",
    "wait_s": POLL_S,
}
SIDE_PX = 128
_HOLE_PX = 12
"""How far the hole of the fill keeps from the edges: whatever the image shows lies inside it."""
_HOLE = {"x": _HOLE_PX, "y": _HOLE_PX} | dict.fromkeys(("width", "height"), SIDE_PX - 2 * _HOLE_PX)


@dataclass(frozen=True)
class Chapter:
    """One call of a tool, with a seed: the same story each time."""

    tool: str
    seed: int
    prompt: str | None = None
    takes_first_as: Literal["image", "images"] | None = None
    """The argument that names the first image by its gallery id."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, first: str | None) -> dict[str, Any]:
        """Return what the tool is called with; `first` is the id of the first image."""
        asked = {**COMMON, "seed": self.seed, **self.more}
        if self.prompt is not None:
            asked["prompt"] = self.prompt
        if self.takes_first_as is not None:
            asked[self.takes_first_as] = [first] if self.takes_first_as == "images" else first
        return asked


STORY = (
    Chapter(
        "flux_generate",
        7,
        "a red circle on a blue background",
        more={"width": SIDE_PX, "height": SIDE_PX},
    ),
    Chapter("flux_edit", 7, "make the circle green", "images"),
    Chapter("flux_fill", 7, "a yellow star", "image", {"mask": {"box": _HOLE}}),
    Chapter("flux_structural", 7, "a pink circle on a black background", "image"),
    Chapter("flux_variation", 8, None, "images"),
)


class Watcher(Protocol):
    """Shows the progress of the demonstration."""

    def offered(self, tools: list[str]) -> None:
        """The server has listed its tools."""

    def begins(self, chapter: Chapter) -> None:
        """A call is made."""

    def goes_on(self, step: int, total: int | None, message: str) -> None:
        """Its job has made progress."""

    def ended(self, answer: JobAnswer) -> None:
        """Its image is finished."""


async def tell_story(settings: Settings, watcher: Watcher) -> tuple[JobAnswer, ...]:
    """Start the server over stdio, call each tool of `STORY`, return the finished jobs.

    Raises:
        EngineUnavailableError: a job did not complete; the message says why.
    """
    answers: list[JobAnswer] = []
    async with Client(stdio_client(server_parameters(settings))) as client:
        watcher.offered([tool.name for tool in (await client.list_tools()).tools])
        for chapter in STORY:
            watcher.begins(chapter)
            first = answers[0].images[0].id if answers else None
            answers.append(await _draw(client, chapter, first, watcher))
            watcher.ended(answers[-1])
    return tuple(answers)


def server_parameters(settings: Settings) -> StdioServerParameters:
    """Return how to start a server that reads the settings we read."""
    config = [] if settings.config is None else ["--config", str(settings.config)]
    command = ["-m", "flux_mcp", "serve", "--log-level", "error"]
    return StdioServerParameters(
        command=sys.executable,
        args=[*command, "--data-dir", str(settings.data_dir), *config],
        # The SDK passes only a few variables on by itself. Its answers are read here.
        env={**all_variables(), "FLUX_MCP_STRUCTURED": "on"},
    )


async def _draw(client: Client, chapter: Chapter, first: str | None, watcher: Watcher) -> JobAnswer:
    async def show(progress: float, total: float | None, message: str | None) -> None:
        watcher.goes_on(int(progress), None if total is None else int(total), message or "")

    asked = chapter.arguments(first)
    told = _content(await client.call_tool(chapter.tool, asked, progress_callback=show))
    while told["status"] in ("queued", "running"):
        asked = {"job_id": told["job_id"], "wait_s": POLL_S, "preview": "none"}
        told = _content(await client.call_tool("flux_get_job", asked, progress_callback=show))
    # A tool leaves out what no model needs; the resource has every fact.
    (job,) = (await client.read_resource(f"flux://jobs/{told['job_id']}")).contents
    if not isinstance(job, TextResourceContents):
        raise InternalError("The server answered a job that is no text.")
    answer = JobAnswer.model_validate_json(job.text)
    if answer.status != "completed":
        error = answer.error
        why = f"it was {answer.status}" if error is None else f"[{error.code}] {error.message}"
        raise EngineUnavailableError(
            f"{chapter.tool} of the demonstration has no image: {why}",
            "Run 'flux-mcp doctor --worker'.",
        )
    return answer


def _content(result: CallToolResult) -> dict[str, Any]:
    if result.structured_content is None:
        text = " ".join(getattr(block, "text", "") for block in result.content)
        raise InternalError(f"The server answered without structured content: {text}")
    content: dict[str, Any] = result.structured_content
    return content
