"""The worker's engine with full-size models: switching, residency, small GPUs, cancelling."""

import itertools
import statistics
import threading
import time
from collections.abc import Sequence

import psutil

from flux_mcp.errors import JobCancelledError, TooLittleMemoryError
from flux_mcp.models.formats import has_extra
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import Choices, Gpu, Machine, Wanted
from flux_mcp.models.planning.machine import this_load_support
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.registry import KINDS, Kind
from flux_mcp.pipelines.device import GIB, describe
from flux_mcp.worker_protocol.messages import pipeline_key
from gpu_checks.bench import Bench, NotRunError
from gpu_checks.clock import settle
from gpu_checks.folders import ROWS, open_folders
from gpu_checks.studio import Studio, Task, ballast, opened
from gpu_checks.work import Drawing, image_floor_s

TWO: tuple[Kind, ...] = ("text2img", "kontext")
FOUR_BIT = "bitsandbytes"
"""The extra without which a model is held in no less than 8 bit, as it is published."""
CANCEL_AFTER_STEP = 2
BESIDE_ONE_GIB = 18.0
"""Room beside one transformer of 22.2 GiB: encoders and VAE (9.3), an image's work (6), and less
than another transformer."""


def _switch(studio: Studio, kinds: Sequence[Kind]) -> tuple[list[float], int]:
    """Draw the kinds in turn, one step each; return seconds of loading and how many were loaded.

    The first round loads and is not counted.
    """
    tasks = {kind: studio.task(kind, steps=1) for kind in kinds}
    for kind in kinds:
        studio.bench.say(f"loading {kind}")
        studio.draw(tasks[kind])
    load_s, were_loaded = [], 0
    for _ in range(studio.bench.scale.repetitions):
        for task in tasks.values():
            were_loaded += pipeline_key(task.plan) in studio.loaded
            load_s.append(studio.draw(task).figures.load_s)
    return load_s, were_loaded


def switch_resident(bench: Bench) -> None:
    """Switch between two kinds that are both on the GPU."""
    with opened(bench, open_folders(bench)) as studio:
        load_s, were_loaded = _switch(studio, TWO)
        bench.figure(
            "switch_s", statistics.median(load_s), "s", each_s=load_s, were_loaded=were_loaded
        )


def switch_from_host(bench: Bench) -> None:
    """Switch between two kinds of which only one fits on the GPU."""
    rates, folders = bench.rates, open_folders(bench)
    moved = folders.transformer_bytes()
    room_gib = moved / GIB + BESIDE_ONE_GIB
    with ballast(bench, room_gib), opened(bench, folders) as studio:
        load_s, were_loaded = _switch(studio, TWO)
        bench.figure(
            "switch_s",
            statistics.median(load_s),
            "s",
            floor=moved / rates.to_device_pinned,
            each_s=load_s,
            were_loaded=were_loaded,
            moved_bytes=moved,
            room_gib=room_gib,
        )


def five_kinds(bench: Bench) -> None:
    """Load every kind beside the others: what they hold together, and switching among them."""
    folders = open_folders(bench)
    bench.free()
    with opened(bench, folders) as studio:
        before = studio.engine.memory
        load_s, were_loaded = _switch(studio, KINDS)
        bench.free()
        after = studio.engine.memory
        loaded = len(studio.loaded)
        bench.figure("loaded", loaded, "kinds", names=list(studio.loaded))
        if before is not None and after is not None:
            held = after.allocated_bytes - before.allocated_bytes
            bench.figure("held_bytes", held, "bytes", floor=folders.unique_bytes())
        bench.figure(
            "switch_s", statistics.median(load_s), "s", each_s=load_s, were_loaded=were_loaded
        )
        drawn = studio.draw(studio.task("text2img"))
        if drawn.figures.peak_gib is not None:
            bench.figure("peak_gib", drawn.figures.peak_gib, "GiB")


def small_gpu(bench: Bench, *, total_gib: float) -> None:
    """Draw as on a GPU of this size: planned for it, with no more memory than it has.

    Raises:
        TooLittleMemoryError: the planner has no way to hold the model on such a GPU.
    """
    rates, folders = bench.rates, open_folders(bench)
    with opened(bench, folders) as studio:
        task = _planned(studio, total_gib)
        plan = task.plan
        held = plan.model_dump(include={"precision", "text_precision", "placement", "vae_tile_px"})
        bench.say(f"planned for {total_gib:g} GiB: {held}")
        room_gib = total_gib - load_parts().machine.context_gib
        drawing = Drawing(plan.steps, plan.width, plan.max_sequence_length)
        with ballast(bench, room_gib) as ballast_gib:
            first, second = studio.draw(task), studio.draw(task)
            if first.pixels != second.pixels:
                raise RuntimeError("the same plan drew other pixels the second time")
            bench.figure("first_image_s", first.seconds, "s", **held)
            bench.figure(
                "image_s",
                second.seconds,
                "s",
                floor=image_floor_s(drawing, bench.scale, rates),
                **held,
            )
            if second.figures.peak_gib is not None:
                bench.figure(
                    "peak_gib", second.figures.peak_gib - ballast_gib, "GiB", room_gib=room_gib
                )


def _planned(studio: Studio, total_gib: float) -> Task:
    """Return the task the planner would make of a request on a GPU of this size.

    Raises:
        NotRunError: there is no way with what is installed.
        TooLittleMemoryError: there is none at all.
    """
    device = studio.bench.device
    compute = device.compute_capability if device.kind == "cuda" else None
    gpu = Gpu(
        total_gib=total_gib,
        free_gib=total_gib,
        name=describe(device).device_name if compute else None,
        compute=compute,
    )
    machine = Machine(gpu, psutil.virtual_memory().total / GIB)
    task = studio.task("text2img")
    wanted = Wanted(
        kind="text2img",
        quality="standard",
        model=ROWS["text2img"][0],
        width_px=task.plan.width,
        height_px=task.plan.height,
        steps=task.plan.steps,
    )
    choices = Choices(studio.registry, lambda _row: True, this_load_support())
    try:
        tier = choose_tier(wanted, machine, choices)
    except TooLittleMemoryError as error:
        if has_extra(FOUR_BIT):
            raise
        raise NotRunError(f"needs the extra '{FOUR_BIT}' for such a GPU: {error}") from error
    if tier is None:
        raise RuntimeError("the planner knows no model for this")
    loaded_as = tier.chosen.loaded_as
    return task.changed(
        quality=wanted.quality,
        precision=loaded_as.precision,
        text_precision=loaded_as.text_precision,
        placement=loaded_as.placement,
        vae_tile_px=loaded_as.tile_px,
    )


def cancel(bench: Bench) -> None:
    """Cancel a job from another thread: how many steps' time until the device is free."""
    with opened(bench, open_folders(bench)) as studio:
        task = studio.task("text2img")
        usual = studio.draw(task)
        at = [when for _, when in usual.recorder.steps]
        step_s = statistics.median(b - a for a, b in itertools.pairwise(at))
        reached, cancelled = threading.Event(), threading.Event()
        sent_at: list[float] = []
        reported: list[int] = []

        def on_step(step: int) -> None:
            reported.append(step)
            if step == CANCEL_AFTER_STEP:
                reached.set()

        def send() -> None:
            reached.wait()
            sent_at.append(time.perf_counter())
            cancelled.set()

        sender = threading.Thread(target=send)
        sender.start()
        try:
            # Many images: a cancel cannot come too late.
            studio.draw(task.changed(seeds=tuple(range(20))), on_step=on_step, cancelled=cancelled)
        except JobCancelledError:
            settle(bench.device)
            free_at = time.perf_counter()
        else:
            raise RuntimeError("the job was drawn to its end")
        finally:
            reached.set()
            sender.join()
        until_free_s = free_at - sent_at[0]
        if studio.draw(task).pixels != usual.pixels:
            raise RuntimeError("after a cancel the same plan drew other pixels")
        bench.figure("until_free_s", until_free_s, "s", step_s=step_s)
        bench.figure(
            "steps_until_free",
            until_free_s / step_s,
            "steps",
            begun_after=reported[-1] - CANCEL_AFTER_STEP,
        )
