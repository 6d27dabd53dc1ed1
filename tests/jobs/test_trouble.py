"""Trouble that passes: a database that stays locked, a worker or a lock that cannot be had."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from flux_mcp.jobs import executor
from flux_mcp.jobs.executor import MAX_BACKOFF_S, TAKE_OVER_S, backoff_s
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.paths import ensure_dirs
from flux_mcp.settings.settings import Settings
from flux_mcp.storage import database as database_module

from .factories import BAD_WORKER

pytestmark = pytest.mark.anyio

DEADLINE_S = 120
GOOD = (*BAD_WORKER, "good")
REQUEST = GenerateRequest(prompt="a star", width=64, height=64, steps=4, seed=1)


@asynccontextmanager
async def opened(settings: Settings, command: tuple[str, ...] = GOOD) -> AsyncIterator[Service]:
    service = Service(settings, make_fleet=lambda settings: ProcessFleet(settings, command))
    await service.open()
    try:
        yield service
    finally:
        await service.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - another process or thread rings no bell
            await asyncio.sleep(0.02)


async def ended(service: Service, job: Job) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.is_final:
            return seen
    raise AssertionError(f"{job.id} did not end in time")


# --- the database ------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite gives up after a tenth of a second, so that a test need not lock it for long."""
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 100)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    other = sqlite3.connect(
        settings.paths.database,
        isolation_level=None,
        timeout=DEADLINE_S,
        check_same_thread=False,  # locked in the thread that saves, unlocked by the test
    )
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def refused(caplog: pytest.LogCaptureFixture) -> None:
    """Wait until the database was asked in vain."""
    await until(lambda: "the database does not answer" in caplog.text)


@pytest.mark.usefixtures("impatient")
async def test_a_database_that_stays_locked_costs_no_finished_image(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as service:
        save = service.runtime.files.save
        is_locked = asyncio.Event()
        with pytest.MonkeyPatch.context() as patch:
            stack = locked(settings)
            loop = asyncio.get_running_loop()

            def lock_first(*args: object) -> object:
                # The image is drawn; its file is written, and its row cannot be.
                stack.__enter__()
                loop.call_soon_threadsafe(is_locked.set)
                return save(*args)  # type: ignore[arg-type]

            patch.setattr(service.runtime.files, "save", lock_first)
            job = await service.submit(REQUEST)
            async with asyncio.timeout(DEADLINE_S):
                await is_locked.wait()
        await refused(caplog)
        stack.__exit__(None, None, None)
        done = await ended(service, job)
        assert (done.status, done.attempt) == ("completed", 1)
        assert len((await service.describe_job(done)).images) == 1
        assert len(list(settings.paths.images.rglob("*.png"))) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_job_whose_images_cannot_be_saved_fails_once_the_database_answers(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as service:
        is_locked = asyncio.Event()
        stack = locked(settings)
        loop = asyncio.get_running_loop()
        save = service.runtime.files.save

        def fail(*args: object) -> object:
            stack.__enter__()
            loop.call_soon_threadsafe(is_locked.set)
            settings.paths.images.rename(settings.paths.root / "elsewhere")
            settings.paths.images.write_bytes(b"in the way")
            return save(*args)  # type: ignore[arg-type]

        service.runtime.files.save = fail  # type: ignore[method-assign,assignment]
        job = await service.submit(REQUEST)
        async with asyncio.timeout(DEADLINE_S):
            await is_locked.wait()
        await refused(caplog)
        assert (await service.find_job(job.id)).status == "running"
        stack.__exit__(None, None, None)
        done = await ended(service, job)
        assert done.error is not None
        assert (done.status, done.error.code) == ("failed", "storage")


@pytest.mark.usefixtures("impatient")
async def test_a_database_that_is_locked_while_jobs_are_claimed_and_drawn_is_waited_for(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as service:
        jobs = [await service.submit(REQUEST) for _ in range(2)]
        with locked(settings):
            await refused(caplog)
        for job in jobs:
            done = await ended(service, job)
            assert (done.status, done.attempt) == ("completed", 1)


# --- the worker --------------------------------------------------------------------------------


async def test_a_worker_that_cannot_start_for_a_while_costs_no_job(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "TAKE_OVER_S", 0.05)
    is_there = tmp_path / "repaired"
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import pathlib, runpy, sys\n"
        f"if not pathlib.Path({str(is_there)!r}).exists():\n"
        "    sys.exit(3)\n"
        f"sys.argv = [{BAD_WORKER[1]!r}, 'good']\n"
        f"runpy.run_path({BAD_WORKER[1]!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    async with opened(settings, (sys.executable, str(starter))) as service:
        jobs = [await service.submit(REQUEST) for _ in range(5)]
        await until(lambda: sum(worker.starts for worker in service.workers()) >= 3)
        assert {(await service.find_job(job.id)).status for job in jobs} <= {"queued", "running"}
        state = service.runtime.executor_state()
        assert state.trouble == "worker_lost"
        is_there.touch()
        for job in jobs:
            done = await ended(service, job)
            assert (done.status, done.attempt) == ("completed", 1)


async def test_a_job_that_waits_for_a_worker_can_be_cancelled(
    settings: Settings, tmp_path: Path
) -> None:
    async with opened(settings, (str(tmp_path / "no such program"),)) as service:
        job = await service.submit(REQUEST)
        await until(lambda: service.runtime.executor_state().trouble is not None)
        await service.cancel(job.id)
        assert (await ended(service, job)).status == "cancelled"


def test_each_failure_waits_longer_up_to_half_a_minute() -> None:
    waits = [backoff_s(failures) for failures in range(1, 200)]
    assert waits[:3] == [TAKE_OVER_S, 2 * TAKE_OVER_S, 4 * TAKE_OVER_S]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_BACKOFF_S


# --- the GPU lock ------------------------------------------------------------------------------


async def test_a_lock_that_cannot_be_taken_is_told_and_tried_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_dirs(settings.paths)
    settings.paths.gpu_lock.mkdir()  # no file can be made or locked there
    async with opened(settings) as service:
        await until(lambda: service.runtime.executor_state().lock_error is not None)
        job = await service.submit(REQUEST)
        answer = await service.describe_job(job)
        assert "cannot take the GPU lock" in answer.notices[-1]
        health = await service.operations.health()
        assert (health.status, health.leads) == ("degraded", False)
        settings.paths.gpu_lock.rmdir()
        done = await ended(service, job)
        assert done.status == "completed"
        assert "GPU lock" not in " ".join((await service.describe_job(done)).notices)
    assert caplog.text.count("the GPU lock cannot be taken") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
async def test_a_lock_file_that_is_removed_does_not_make_two_leaders(settings: Settings) -> None:
    async with opened(settings) as first:
        await until(lambda: first.runtime.executor_state().leads)
        settings.paths.gpu_lock.unlink()
        async with opened(settings) as second:
            await until(lambda: second.runtime.executor_state().other_leads)
            assert first.runtime.executor_state().leads
            assert first.runtime.executor is not None
            await first.runtime.executor.stop()
            await until(lambda: second.runtime.executor_state().leads)
