"""The demonstration: the real server as a child process, called as an MCP client calls it."""

import sys
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import CallToolResult
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flux_mcp.answers import JobAnswer
from flux_mcp.config import Settings, command_path
from flux_mcp.errors import EngineUnavailableError, InternalError

DEMO_ARGUMENTS: dict[str, Any] = {
    "prompt": "a red circle in the middle of a blue background",
    "width": 256,
    "height": 256,
    "steps": 24,
    "seed": 7,
    "session": "demo",
    "wait_s": 50,
}
POLL_S = 50


async def run_demo(settings: Settings, *, as_json: bool) -> None:
    """Start the server over stdio, call flux_generate, show the steps, say what came out.

    Raises:
        EngineUnavailableError: the job did not complete; the message says why.
    """
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[
            "-m",
            "flux_mcp",
            "serve",
            "--log-level",
            "error",
            "--data-dir",
            str(settings.data_dir),
        ],
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("Starting the server: [bold]flux-mcp serve[/] (stdio)")
    async with Client(stdio_client(parameters)) as client:
        tools = (await client.list_tools()).tools
        console.print(f"It offers {len(tools)} tools: {', '.join(tool.name for tool in tools)}")
        console.print(f"Calling flux_generate: {DEMO_ARGUMENTS['prompt']!r}")
        answer = await _draw(client, console)
    if as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        _print(answer)


async def _draw(client: Client, console: Console) -> JobAnswer:
    columns = (
        TextColumn("[bold]{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=DEMO_ARGUMENTS["steps"])

        async def show(progress: float, total: float | None, message: str | None) -> None:
            bar.update(task, completed=int(progress), total=total, description=message or "")

        answer = _read(
            await client.call_tool("flux_generate", DEMO_ARGUMENTS, progress_callback=show)
        )
        while answer.status in ("queued", "running"):
            arguments = {"job_id": answer.job_id, "wait_s": POLL_S}
            answer = _read(
                await client.call_tool("flux_get_job", arguments, progress_callback=show)
            )
        bar.update(task, completed=answer.step, description=answer.status or "")
    if answer.status != "completed":
        error = answer.error
        why = f"it was {answer.status}" if error is None else f"[{error.code}] {error.message}"
        raise EngineUnavailableError(
            f"The demonstration drew nothing: {why}", "Run 'flux-mcp doctor --worker'."
        )
    return answer


def _read(result: CallToolResult) -> JobAnswer:
    if result.structured_content is None:
        text = " ".join(getattr(block, "text", "") for block in result.content)
        raise InternalError(f"The server answered without structured content: {text}")
    return JobAnswer.model_validate(result.structured_content)


def _print(answer: JobAnswer) -> None:
    console = Console(highlight=False, soft_wrap=True)
    image = answer.images[0]
    console.print(f"\n{image.path}", style="bold green", markup=False)
    console.print(f"  id     {image.id}\n  seed   {image.seed}\n  model  {image.model}")
    console.print(f"  size   {image.width}x{image.height}, drawn in {image.seconds:.1f} s")
    console.print("\nThe same picture again:", style="bold")
    steps = DEMO_ARGUMENTS["steps"]
    console.print(
        f'  {command_path("flux-mcp")} generate "{image.prompt}" --model {image.model} '
        f"--seed {image.seed} --width {image.width} --height {image.height} --steps {steps}",
        markup=False,
    )
    for notice in answer.notices:
        console.print(f"\nNote: {notice}", style="yellow", markup=False)
