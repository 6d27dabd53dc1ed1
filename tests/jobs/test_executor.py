"""The executor against workers that misbehave: real processes that answer in frames, but badly."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psutil
import pytest

from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.job import MAX_ATTEMPTS, Job
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

from .factories import BAD_WORKER

pytestmark = pytest.mark.anyio

DEADLINE_S = 60
REQUEST = GenerateRequest(prompt="a star", width=64, height=64, steps=4, seed=1, count=2)

Open = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def open_service(settings: Settings) -> Open:
    @asynccontextmanager
    async def open_service(habit: str, **changes: Any) -> AsyncIterator[Service]:
        command = (*BAD_WORKER, habit)
        service = Service(
            settings.model_copy(update=changes),
            make_fleet=lambda settings: ProcessFleet(settings, command),
        )
        await service.open()
        try:
            yield service
        finally:
            await service.close()

    return open_service


async def reach(service: Service, job: Job, statuses: Iterable[str]) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.status in statuses:
            return seen
    raise AssertionError(f"the job never got there: {await service.find_job(job.id)}")


async def started(service: Service, job: Job) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.step >= 1:
            return seen
    raise AssertionError("the job never started")


async def test_a_worker_that_does_not_stop_is_ended_and_the_job_is_cancelled(
    open_service: Open,
) -> None:
    async with open_service("deaf", cancel_grace_s=0.1) as service:
        job = await service.submit(REQUEST)
        await started(service, job)
        pid = service.workers()[0].pid
        answer = await service.cancel(job.id)
        assert answer.stopping == (job.id,)
        ended = await reach(service, job, {"cancelled", "failed", "completed"})
        assert (ended.status, ended.attempt) == ("cancelled", 1)
        assert not psutil.pid_exists(pid or 0)


class LateFleet(ProcessFleet):
    """The real fleet, but a job reaches its worker only after a first cancel of it."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        super().__init__(settings, command)
        self._is_cancelled = asyncio.Event()

    async def cancel(self, job_id: str) -> None:
        await super().cancel(job_id)
        self._is_cancelled.set()

    async def run(self, assignment: Assignment) -> AsyncGenerator[Report, None]:
        await self._is_cancelled.wait()
        async for report in super().run(assignment):
            yield report


async def test_a_cancel_that_overtakes_its_job_stops_it_all_the_same(settings: Settings) -> None:
    command = (*BAD_WORKER, "listens")
    service = Service(settings, make_fleet=lambda settings: LateFleet(settings, command))
    await service.open()
    job = await service.submit(REQUEST)
    await reach(service, job, {"running"})
    await service.cancel(job.id)
    assert (await reach(service, job, {"cancelled", "failed", "completed"})).status == "cancelled"
    # Stopped, not ended: it answered within the grace time.
    assert service.workers()[0].is_running
    await service.close()


async def test_a_worker_that_falls_silent_is_ended_and_its_job_runs_again_then_fails(
    open_service: Open,
) -> None:
    async with open_service("deaf", stall_timeout_s=0.3) as service:
        job = await service.submit(REQUEST)
        ended = await reach(service, job, {"failed"})
        assert ended.attempt == MAX_ATTEMPTS
        assert ended.error is not None
        assert ended.error.code == "worker_lost"
        assert "reported nothing" in ended.error.message


@pytest.mark.parametrize("habit", ["dies", "garbage", "no images"])
async def test_a_job_is_tried_twice_then_fails_and_leaves_nothing(
    open_service: Open, habit: str, settings: Settings
) -> None:
    async with open_service(habit) as service:
        job = await service.submit(REQUEST)
        ended = await reach(service, job, {"failed", "completed"})
        assert ended.status == "failed"
        assert ended.attempt == MAX_ATTEMPTS
        assert ended.error is not None
        assert ended.error.code == "worker_lost"
        assert ended.error.hint
    assert not list(settings.paths.images.rglob("*.png"))
    assert not list(settings.paths.previews.iterdir())


async def test_a_worker_without_torch_fails_the_job_with_what_to_do(open_service: Open) -> None:
    async with open_service("no engine") as service:
        job = await service.submit(REQUEST)
        ended = await reach(service, job, {"failed"})
        assert (ended.attempt, ended.error and ended.error.code) == (1, "engine_unavailable")


async def test_events_of_another_attempt_are_dropped(open_service: Open) -> None:
    async with open_service("confused") as service:
        job = await service.submit(REQUEST)
        ended = await reach(service, job, {"completed", "failed"})
        assert ended.status == "completed"
        answer = await service.describe_job(ended)
        assert [image.seed for image in answer.images] == [1, 2]


async def test_images_that_cannot_be_saved_fail_the_job_not_the_server(
    open_service: Open, settings: Settings
) -> None:
    async with open_service("good") as service:
        settings.paths.images.rmdir()
        settings.paths.images.write_text("in the way", encoding="utf-8")
        job = await service.submit(REQUEST)
        ended = await reach(service, job, {"failed", "completed"})
        assert (ended.status, ended.error and ended.error.code) == ("failed", "storage")
        settings.paths.images.unlink()
        again = await service.submit(REQUEST)
        assert (await reach(service, again, {"completed", "failed"})).status == "completed"


async def test_an_input_that_is_gone_fails_its_job_only(
    open_service: Open, settings: Settings
) -> None:
    from PIL import Image

    from flux_mcp.images.decoding import load_image, store_image
    from flux_mcp.requests.schemas import VariationRequest

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    picture = load_image(buffer.getvalue(), max_bytes=10**6, max_pixels=10**6, mode="RGB")
    async with open_service("deaf", cancel_grace_s=0.1) as service:
        blocker = await service.submit(REQUEST)
        await started(service, blocker)
        path = store_image(settings.paths.uploads, picture)
        job = await service.submit(VariationRequest(images=[{"image": str(path)}], prompt="a star"))
        path.unlink()
        await service.cancel(blocker.id)
        ended = await reach(service, job, {"failed", "completed"})
        assert (ended.status, ended.error and ended.error.code) == ("failed", "storage")


async def test_a_stop_while_drawing_ends_the_worker_and_frees_the_lock(
    open_service: Open, settings: Settings
) -> None:
    async with open_service("deaf") as service:
        job = await service.submit(REQUEST)
        await started(service, job)
        pid = service.workers()[0].pid
    assert not psutil.pid_exists(pid or 0)
    async with open_service("good") as service:
        ended = await reach(service, job, {"completed", "failed"})
        assert (ended.status, ended.attempt) == ("completed", 1)


async def test_only_one_of_several_executors_leads(settings: Settings, open_service: Open) -> None:
    async with open_service("good") as one, open_service("good") as two:
        jobs = [await service.submit(REQUEST) for service in (one, two, one, two)]
        for job in jobs:
            assert (await reach(two, job, {"completed", "failed"})).status == "completed"
        assert sorted([len(one.workers()), len(two.workers())]) == [0, 1]
        assert len({(await one.find_job(job.id)).owner for job in jobs}) == 1


async def test_a_dead_leader_task_does_not_leave_jobs_running(open_service: Open) -> None:
    """Stopping in the middle of a claim must not strand the job it was about to run."""
    async with open_service("good") as service:
        jobs = [await service.submit(REQUEST) for _ in range(5)]
    async with open_service("good") as service:
        for job in jobs:
            ended = await reach(service, job, {"completed", "failed"})
            assert ended.status == "completed"
