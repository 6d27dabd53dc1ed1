"""The product whole: server, client, worker process; and what is left when they are done."""

import asyncio
import hashlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from common import call, draw, pixels_of, server_command, stdio_parameters, wait_for
from mcp import Client
from mcp.client.stdio import stdio_client

from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.user_rows import open_registry
from flux_mcp.worker_protocol.messages import Done, Failed, GeneratedImage
from gpu_checks.bench import Bench
from gpu_checks.clock import seconds_of
from gpu_checks.drawing_cases import PROMPT
from gpu_checks.folders import ROWS, SCHNELL, Folders, open_folders
from gpu_checks.gpu import read_gpu
from gpu_checks.studio import Task, ballast, make_task, settings_for

DEV = ROWS["text2img"][0]
WORKER_MODULE = "flux_mcp.pipelines.worker"
TOO_LARGE_PX = 2**22
"""A side whose noise no machine can hold: the allocator refuses at once."""
LEFT_GIB = 0.25
IDLE_S = 1.0
END_WITHIN_S = 60.0


@asynccontextmanager
async def _server(bench: Bench, folders: Folders, **settings: object) -> AsyncIterator[Client]:
    """Start the product on the folders, with the libraries and GPUs that this process sees."""
    parameters = stdio_parameters(
        server_command(),
        config=os.devnull,
        data_dir=folders.data_dir,
        device=bench.device.kind,
        embedding_cache_disk_mb=0,
        **settings,
    )
    # The SDK hands on a handful of variables; where CUDA's libraries lie is not among them.
    ours = {name: v for name, v in os.environ.items() if not name.startswith("FLUX_MCP_")}
    inherited = parameters.model_copy(update={"env": ours | (parameters.env or {})})
    async with Client(stdio_client(inherited)) as client:
        yield client


def _arguments(bench: Bench, model: str, number: int) -> dict[str, Any]:
    scale = bench.scale
    return {
        "prompt": PROMPT.format(number),
        "model": model,
        "width": scale.side_px,
        "height": scale.side_px,
        "steps": scale.schnell_steps if model == SCHNELL else scale.dev_steps,
        "seed": number,
        "preview": "none",
    }


def server(bench: Bench) -> None:
    """Draw through the server, and beside it with the bare pipeline from the same files."""
    asyncio.run(_measure_server(bench, open_folders(bench)))


async def _measure_server(bench: Bench, folders: Folders) -> None:
    async with _server(bench, folders) as client:
        bench.say("drawing the first image through the server")
        started = time.perf_counter()
        await draw(client, "flux_generate", _arguments(bench, SCHNELL, 0))
        bench.figure("first_image_s", time.perf_counter() - started, "s", what="from its call")
        numbers = range(1, bench.scale.repetitions + 2)
        each = [await _prompt_to_file_s(bench, client, number) for number in numbers]
        bench.figure("schnell_prompt_to_file_s", statistics.median(each), "s", each_s=each)
        await _measure_overhead(bench, folders, client)


async def _prompt_to_file_s(bench: Bench, client: Client, number: int) -> float:
    """Return the seconds from a call until its answer names a file that is there."""
    started = time.perf_counter()
    job = await draw(client, "flux_generate", _arguments(bench, SCHNELL, number))
    seconds = time.perf_counter() - started
    path = Path(job["images"][0]["path"])
    if not await asyncio.to_thread(path.is_file):
        raise RuntimeError("the image's file is not there")
    return seconds


async def _measure_overhead(bench: Bench, folders: Folders, client: Client) -> None:
    """Compare jobs that wait in line with calls of the bare pipeline; both draw the same.

    What the server compiles by itself is compiled in the bare pipeline too: the difference is then
    the server's.
    """
    asked = _arguments(bench, DEV, 0)
    planned = await call(client, "flux_generate", {**asked, "dry_run": True, "wait_s": 0})
    switches = planned["plan"].get("switches") or {}
    compiled = bool(switches.get("compiled"))
    await draw(client, "flux_generate", asked)
    bench.say("loading the bare pipeline")
    pipe = _bare_pipe(bench, folders)
    if compiled:
        pipe.transformer.compile_repeated_blocks(backend=bench.scale.compiler, dynamic=True)
    _draw_bare(bench, pipe, 0)
    numbers = range(1, bench.scale.repetitions + 2)
    bench.say("drawing through the server")
    started = time.perf_counter()
    jobs = [
        await call(client, "flux_generate", {**_arguments(bench, DEV, number), "wait_s": 0})
        for number in numbers
    ]
    ended = [await wait_for(client, job["job_id"]) for job in jobs]
    served_s = time.perf_counter() - started
    bench.say("drawing with the bare pipeline")
    bare = [_draw_bare(bench, pipe, number) for number in numbers]
    bare_s = sum(seconds for seconds, _ in bare)
    same = [
        await pixels_of(client, job) == pixels for job, (_, pixels) in zip(ended, bare, strict=True)
    ]
    bench.figure(
        "overhead", served_s / bare_s, "of bare calls", served_s=served_s, bare_s=bare_s,
        images=len(same), same_pixels=sum(same), compiled=compiled,
    )  # fmt: skip


def _bare_pipe(bench: Bench, folders: Folders) -> Any:
    import torch
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(
        str(folders.text2img), dtype=torch.bfloat16, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(bench.device.name)


def _draw_bare(bench: Bench, pipe: Any, number: int) -> tuple[float, str]:
    """Return the seconds of a call, and the hash of its pixels."""
    import torch

    asked = _arguments(bench, DEV, number)
    drawn: list[Any] = []

    def work() -> None:
        images = pipe(
            prompt=asked["prompt"],
            width=asked["width"],
            height=asked["height"],
            num_inference_steps=asked["steps"],
            guidance_scale=3.5,
            max_sequence_length=512,
            generator=torch.Generator("cpu").manual_seed(number),
        ).images
        drawn.append(images[0])

    seconds = seconds_of(work, bench.device)
    return seconds, hashlib.sha256(drawn[0].convert("RGB").tobytes()).hexdigest()


def idle_unload(bench: Bench) -> None:
    """Let an idle worker go: afterwards the GPU has all its memory again."""
    folders = open_folders(bench)
    bench.free()
    before = read_gpu()
    asyncio.run(_draw_and_idle(bench, folders))
    after = read_gpu()
    if "used_mib" in before and "used_mib" in after:
        left = float(after["used_mib"]) - float(before["used_mib"])
        bench.figure("left_mib", left, "MiB", before=before, after=after)


async def _draw_and_idle(bench: Bench, folders: Folders) -> None:
    async with _server(bench, folders, idle_unload_s=IDLE_S) as client:
        await draw(client, "flux_generate", _arguments(bench, SCHNELL, 1))
        drawn_at = time.perf_counter()
        workers = list(_workers())
        if not workers:
            raise RuntimeError("no worker process was found below the server")
        held = read_gpu()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, END_WITHIN_S)
        if alive:
            raise RuntimeError(f"the worker was there {END_WITHIN_S:.0f} s after its last job")
        bench.figure(
            "gone_after_s", time.perf_counter() - drawn_at, "s", idle_unload_s=IDLE_S,
            workers=len(workers), held=held,
        )  # fmt: skip
        # The server itself goes on; what is read next is what it leaves of the GPU.
        bench.figure("used_mib", float(read_gpu().get("used_mib", 0.0)), "MiB")


def _workers() -> Iterator[psutil.Process]:
    """Yield the worker processes below this one."""
    for process in psutil.Process().children(recursive=True):
        if WORKER_MODULE in process.cmdline():
            yield process


def out_of_memory(bench: Bench) -> None:
    """Run out of the GPU's memory in earnest, then draw as before."""
    asyncio.run(_run_out(bench, open_folders(bench)))


async def _run_out(bench: Bench, folders: Folders) -> None:
    settings = settings_for(bench, folders)
    fleet = ProcessFleet(settings)
    side = bench.scale.side_px
    task = make_task(open_registry(settings), "text2img", side, bench.scale.schnell_steps)
    try:
        before = await _run(fleet, "before", task)
        if bench.device.kind == "cuda":
            # The worker holds its weights; what is free beside them is taken from it.
            with ballast(bench, LEFT_GIB):
                failed = await _run(fleet, "too-large", task.changed(width=2048, height=2048))
        else:
            too_large = task.changed(width=TOO_LARGE_PX, height=TOO_LARGE_PX)
            failed = await _run(fleet, "too-large", too_large)
        event = failed[-1].event
        if not isinstance(event, Failed) or event.error.code != "out_of_memory":
            raise RuntimeError(f"not out of memory, but: {event}")
        started = time.perf_counter()
        after = await _run(fleet, "after", task)
        seconds = time.perf_counter() - started
    finally:
        await fleet.close()
    if not isinstance(after[-1].event, Done) or _pixels(after) != _pixels(before):
        raise RuntimeError("the job after it did not draw what it drew before")
    bench.figure("next_image_s", seconds, "s", error=event.error.message)


async def _run(fleet: ProcessFleet, name: str, task: Task) -> Sequence[Report]:
    assignment = Assignment(name, 1, task.plan, task.inputs)
    return [report async for report in fleet.run(assignment)]


def _pixels(reports: Sequence[Report]) -> list[bytes]:
    return [
        report.blobs["pixels"] for report in reports if isinstance(report.event, GeneratedImage)
    ]
