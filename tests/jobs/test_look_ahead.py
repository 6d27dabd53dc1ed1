"""While a job is drawn, its worker reads the weights of the next; nothing else changes by that.

The real worker of these tests also shows what its model swaps take, which is stored.
"""

import asyncio
import base64
import io
import json
import os
import signal
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.process_fleet import WORKER_COMMAND, ProcessFleet
from flux_mcp.requests.schemas import GenerateRequest, VariationRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import open_database
from flux_mcp.worker_protocol.messages import Cancelled, GeneratedImage, Weights, weights_of
from tests.pipelines.rows import add_own_model, darker

from .conftest import settings_in
from .factories import BAD_WORKER

pytestmark = pytest.mark.anyio

DEADLINE_S = 300
"""A guard against a test that hangs; a loaded machine takes a minute to start a worker."""
BIG_BYTES = 3 * 2**30
"""Takes seconds to read and hash; a sparse file, so it takes no disk."""
LONG = GenerateRequest(
    prompt="a star", model="micro", width=64, height=64, steps=50, seed=1, count=4
)
SHORT = GenerateRequest(prompt="a star", model="mine", width=64, height=64, steps=2, seed=1)


@dataclass
class Watch:
    """What passed through a fleet."""

    told: asyncio.Queue[Weights | None] = field(default_factory=asyncio.Queue)
    reports: list[Report] = field(default_factory=list)

    async def next_told(self) -> Weights | None:
        async with asyncio.timeout(DEADLINE_S):
            return await self.told.get()

    def final_of(self, job: Job) -> Any:
        return self._of(job)[-1].event

    def pixels_of(self, job: Job) -> list[bytes]:
        return [r.blobs["pixels"] for r in self._of(job) if isinstance(r.event, GeneratedImage)]

    def _of(self, job: Job) -> list[Report]:
        return [report for report in self.reports if report.event.job_id == job.id]


class WatchedFleet(ProcessFleet):
    """The real fleet; what passes through it is written down."""

    def __init__(self, settings: Settings, command: Sequence[str], watch: Watch) -> None:
        super().__init__(settings, command)
        self._watch = watch

    async def prefetch(self, weights: Weights | None) -> None:
        await super().prefetch(weights)
        self._watch.told.put_nowait(weights)

    async def run(self, assignment: Assignment) -> AsyncGenerator[Report, None]:
        async for report in super().run(assignment):
            self._watch.reports.append(report)
            yield report


class BrokenFleet(WatchedFleet):
    """A fleet whose prefetch has a bug."""

    async def prefetch(self, weights: Weights | None) -> None:
        await super().prefetch(weights)
        raise RuntimeError("a bug of the fleet")


Open = Callable[..., AbstractAsyncContextManager[tuple[Service, Watch]]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"prefetch_min_mb": 0})


@pytest.fixture
def open_service(settings: Settings) -> Open:
    settings.data_dir.mkdir()
    add_own_model(settings, "mine", darker)

    @asynccontextmanager
    async def open_service(
        habit: str, fleet: type[WatchedFleet] = WatchedFleet, **changes: Any
    ) -> AsyncIterator[tuple[Service, Watch]]:
        command = (*BAD_WORKER, habit)
        watch = Watch()
        service = Service(
            settings.model_copy(update=changes),
            make_fleet=lambda settings: fleet(settings, command, watch),
        )
        await service.open()
        try:
            yield service, watch
        finally:
            await service.close()

    return open_service


async def reach(service: Service, job: Job, condition: Callable[[Job], bool]) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if condition(seen):
            return seen
    raise AssertionError(f"the job never got there: {await service.find_job(job.id)}")


def ended(job: Job) -> bool:
    return job.status in ("completed", "failed", "cancelled")


def drawing(job: Job) -> bool:
    return job.step >= 1


async def test_the_worker_is_told_what_comes_next_and_when_that_changes(
    open_service: Open,
) -> None:
    async with open_service("deaf", cancel_grace_s=0.1) as (service, watch):
        current = await service.submit(LONG)
        assert await watch.next_told() is None
        following = await service.submit(SHORT)
        assert await watch.next_told() == weights_of(following.plan)
        later = await service.submit(SHORT.model_copy(update={"model": "micro"}))
        await service.cancel(following.id)
        # What is drawn right now needs no reading.
        assert weights_of(later.plan) == weights_of(current.plan)
        assert await watch.next_told() is None
        again = await service.submit(SHORT)
        await service.cancel(later.id)
        assert await watch.next_told() == weights_of(again.plan)
        assert (await service.find_job(again.id)).status == "queued"
        await service.cancel(current.id)
        assert (await reach(service, current, ended)).status == "cancelled"
        await reach(service, again, drawing)
        # The first word to the next worker ends what the last one may have left.
        assert await watch.next_told() is None
        assert watch.told.empty()


async def test_a_worker_with_nothing_to_do_keeps_nothing_that_was_read(
    open_service: Open,
) -> None:
    # It never draws, so that only its idleness can be a reason to tell it something.
    async with open_service("no engine") as (service, watch):
        job = await service.submit(SHORT)
        assert (await reach(service, job, ended)).status == "failed"
        assert await watch.next_told() is None


async def test_nothing_is_told_where_it_is_switched_off(open_service: Open) -> None:
    async with open_service("deaf", cancel_grace_s=0.1, prefetch=False) as (service, watch):
        jobs = [await service.submit(request) for request in (LONG, SHORT)]
        await reach(service, jobs[0], drawing)
        await service.cancel(jobs[0].id)
        await reach(service, jobs[1], drawing)
        assert watch.told.empty()


async def test_a_fleet_that_cannot_do_it_still_draws(
    open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_service("deaf", BrokenFleet, cancel_grace_s=0.1) as (service, watch):
        jobs = [await service.submit(request) for request in (LONG, SHORT)]
        await watch.next_told()
        await service.cancel(jobs[0].id)
        assert (await reach(service, jobs[0], ended)).status == "cancelled"
        await reach(service, jobs[1], drawing)
    assert "weights of the next job cannot be prefetched: a bug of the fleet" in caplog.text


async def test_a_fleet_that_cannot_do_it_may_be_idle(
    open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_service("no engine", BrokenFleet) as (service, watch):
        for _ in range(2):
            job = await service.submit(SHORT)
            assert (await reach(service, job, ended)).status == "failed"
            assert await watch.next_told() is None
    assert "weights of the next job cannot be prefetched: a bug of the fleet" in caplog.text
    assert "the executor failed" not in caplog.text


# --- a real worker, shared: what a test kills is started again ------------------------------------


@pytest.fixture(scope="module")
def real_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a folder with two models of its own, `mine` and `big`.

    The weights of `big` are one tensor that no transformer has.
    """
    folder = tmp_path_factory.mktemp("real")
    settings = settings_in(folder).model_copy(update={"prefetch_min_mb": 0})
    settings.data_dir.mkdir()
    add_own_model(settings, "mine", darker)
    place = {"dtype": "U8", "shape": [BIG_BYTES], "data_offsets": [0, BIG_BYTES]}
    header = json.dumps({"filler": place}).encode()
    with add_own_model(settings, "big").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(stream.tell() + BIG_BYTES)
    return settings


@pytest.fixture(scope="module")
async def real(real_settings: Settings) -> AsyncIterator[tuple[Service, Watch]]:
    watch = Watch()
    service = Service(
        real_settings,
        make_fleet=lambda settings: WatchedFleet(settings, WORKER_COMMAND, watch),
    )
    await service.open()
    yield service, watch
    await service.close()


def red() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.mark.torture
async def test_a_loaded_pipeline_goes_on_and_what_loading_took_is_kept(
    real: tuple[Service, Watch], real_settings: Settings
) -> None:
    """The first of those who share the worker: it has loaded nothing yet."""
    service, _ = real
    small = {"width": 64, "height": 64, "steps": 1, "seed": 1, "model": "micro"}
    draw = GenerateRequest(prompt="a star", **small)
    vary = VariationRequest(images=[red()], **small)
    # All three are there before the worker is: it takes seconds to start.
    jobs = [await service.submit(request) for request in (draw, vary, draw)]
    seen = [await reach(service, job, ended) for job in jobs]
    assert [job.status for job in seen] == ["completed"] * 3

    # Nothing is known of loading redux, so the third job overtook the second.
    assert [job.overtakes for job in seen] == [0, 1, 0]
    worker = service.workers()[0]
    assert worker.used == worker.loaded_by_use == ("text2img/micro", "redux/micro")
    # Read as the next server of this folder will.
    database = open_database(real_settings.paths.database)
    rows = database.execute(
        "SELECT kind, load_level, load_s > 0 FROM measurements ORDER BY n"
    ).fetchall()
    costs = Measurements(database).costs(None)
    database.close()
    assert rows == [
        ("text2img", "first", True),
        ("text2img", None, None),
        ("redux", "first", True),
    ]
    assert costs.load_s.keys() == costs.draw_s.keys() == {"text2img/micro", "redux/micro"}


async def being_read(service: Service, job: Job) -> int:
    """Wait until the worker has the file of `big` open while a job is drawn; return its pid."""

    def is_open(_seen: Job) -> bool:
        pid = service.workers()[0].pid
        opened = [] if pid is None else psutil.Process(pid).open_files()
        return any(Path(file.path).stat().st_size > BIG_BYTES for file in opened)

    await reach(service, job, is_open)
    return service.workers()[0].pid or 0


@pytest.mark.torture  # its parts: tests/pipelines/test_worker.py and tests/e2e/test_processes.py
async def test_what_was_read_is_taken_and_a_worker_killed_while_it_reads_costs_an_attempt_only(
    real: tuple[Service, Watch],
) -> None:
    service, watch = real

    async def draw(*requests: GenerateRequest) -> list[Job]:
        jobs = [await service.submit(request) for request in requests]
        for job in jobs:
            assert (await reach(service, job, ended)).status == "completed"
        return jobs

    before, behind = await draw(LONG, SHORT)
    assert watch.final_of(behind).prefetched_bytes > 4_000_000

    current = await service.submit(LONG)
    following = await service.submit(SHORT.model_copy(update={"model": "big"}))
    os.kill(await being_read(service, current), signal.SIGKILL)
    await service.cancel(following.id)
    done = await reach(service, current, ended)
    assert (done.status, done.attempt) == ("completed", 2)

    # A new process, in which nothing was read ahead, draws the same.
    (alone,) = await draw(SHORT)
    assert watch.pixels_of(current)[-LONG.count :] == watch.pixels_of(before)
    assert watch.final_of(alone).prefetched_bytes == 0
    assert watch.pixels_of(alone) == watch.pixels_of(behind)


@pytest.mark.torture
async def test_cancels_come_through_while_weights_are_read(
    real: tuple[Service, Watch],
) -> None:
    service, watch = real
    current = await service.submit(LONG)
    following = await service.submit(SHORT.model_copy(update={"model": "big"}))
    pid = await being_read(service, current)
    await service.cancel(current.id)
    assert (await reach(service, current, ended)).status == "cancelled"
    # Now this one waits for its weights.
    await reach(service, following, lambda job: job.status == "running")
    await service.cancel(following.id)
    assert (await reach(service, following, ended)).status == "cancelled"
    assert isinstance(watch.final_of(following), Cancelled)
    last = await service.submit(SHORT)
    assert (await reach(service, last, ended)).status == "completed"
    assert service.workers()[0].pid == pid
