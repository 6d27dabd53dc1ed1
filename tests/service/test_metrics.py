"""What a scrape says: counted from the table, each job once, whichever process drew it."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flux_mcp import __version__
from flux_mcp.jobs.executor import ExecutorState
from flux_mcp.jobs.fleet import WorkerInfo
from flux_mcp.jobs.job import Job, utc_now
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.jobs.queue import EndedJob
from flux_mcp.models.registry import KINDS
from flux_mcp.observability.traffic import HttpTraffic
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service import metrics
from flux_mcp.service.metrics import OVERLAP, Metrics, Sources
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Environment, Memory
from tests.jobs.bad_worker import ENVIRONMENT
from tests.jobs.factories import BAD_WORKER

pytestmark = pytest.mark.anyio

REQUEST = GenerateRequest(prompt="a star", width=64, height=64, steps=4, seed=1, count=2)
DEADLINE_S = 60

Open = Callable[..., AbstractAsyncContextManager[Service]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def open_service(settings: Settings) -> Open:
    @asynccontextmanager
    async def open_service(habit: str = "good") -> AsyncIterator[Service]:
        command = (*BAD_WORKER, habit)
        service = Service(settings, make_fleet=lambda settings: ProcessFleet(settings, command))
        await service.open()
        yield service
        await service.close()

    return open_service


def read(text: bytes) -> Samples:
    """Read a scrape as Prometheus does."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def scrape(service: Service) -> Samples:
    text, kind = await service.operations.metrics()
    assert kind.startswith("text/plain; version=")
    return read(text)


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"flux_mcp_{name}", frozenset(labels.items())))


async def until(service: Service, job: Job, *statuses: str) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.status in statuses:
            return seen
    raise AssertionError("the job never got there")


OF = {"kind": "text2img", "model": "micro"}


async def test_a_completed_job_is_counted_once_with_its_seconds_and_steps(
    open_service: Open,
) -> None:
    async with open_service() as service:
        before = await scrape(service)
        assert value(before, "jobs_ended_total", **OF, status="completed") is None
        job = await until(service, await service.submit(REQUEST), "completed", "failed")
        for _ in range(2):
            samples = await scrape(service)
            assert value(samples, "jobs_ended_total", **OF, status="completed") == 1
            assert value(samples, "steps_total", **OF) == 8
            assert value(samples, "job_render_seconds_count", **OF) == 1
            assert value(samples, "job_render_seconds_sum", **OF) == job.draw_s
            assert value(samples, "job_render_seconds_bucket", **OF, le="0.1") == 1
            assert value(samples, "job_load_seconds_sum", **OF) == 0
            waited = datetime.fromisoformat(job.started_at or "") - datetime.fromisoformat(
                job.created_at
            )
            assert value(samples, "job_wait_seconds_sum", kind="text2img") == pytest.approx(
                waited.total_seconds()
            )
        assert value(samples, "build_info", version=__version__) == 1


async def test_failures_are_counted_by_code_and_cancels_as_ended(open_service: Open) -> None:
    async with open_service("no engine") as service:
        await scrape(service)
        await until(service, await service.submit(REQUEST), "failed")
        samples = await scrape(service)
        assert value(samples, "jobs_failed_total", kind="text2img", code="engine_unavailable") == 1
        assert value(samples, "jobs_ended_total", **OF, status="failed") == 1
        assert value(samples, "steps_total", **OF) is None


async def test_the_queue_shows_who_waits_and_since_when(open_service: Open) -> None:
    async with open_service("deaf") as service:
        idle = await scrape(service)
        for kind in KINDS:
            assert value(idle, "jobs_queued", kind=kind) == 0
        assert value(idle, "queue_oldest_wait_seconds") == 0
        running = await service.submit(REQUEST)
        await until(service, running, "running")
        waiting = [await service.submit(REQUEST) for _ in range(2)]
        busy = await scrape(service)
        assert value(busy, "jobs_queued", kind="text2img") == 2
        assert value(busy, "jobs_running", kind="text2img") == 1
        oldest_s = value(busy, "queue_oldest_wait_seconds") or 0
        age_s = (datetime.now(UTC) - datetime.fromisoformat(waiting[0].created_at)).total_seconds()
        assert 0 < oldest_s <= age_s
        await service.cancel(waiting[0].id)
        after = await scrape(service)
        assert value(after, "jobs_queued", kind="text2img") == 1
        assert value(after, "jobs_ended_total", **OF, status="cancelled") == 1


async def test_jobs_another_process_drew_are_counted_and_those_before_the_start_are_not(
    open_service: Open,
) -> None:
    async with open_service() as leader:
        await until(leader, await leader.submit(REQUEST), "completed")
        async with open_service() as follower:
            await until(leader, await leader.submit(REQUEST), "completed")
            seen = await scrape(follower)
            assert value(seen, "jobs_ended_total", **OF, status="completed") == 1
            assert value(seen, "leads") == 0
            assert value(seen, "worker_up", worker="worker-0") is None
        all_seen = await scrape(leader)
        assert value(all_seen, "jobs_ended_total", **OF, status="completed") == 2


async def test_the_worker_is_shown_while_it_is_up(open_service: Open) -> None:
    async with open_service() as service:
        await until(service, await service.submit(REQUEST), "completed")
        up = await scrape(service)
        worker = {"worker": "worker-0"}
        assert value(up, "leads") == 1
        assert value(up, "worker_up", **worker) == 1
        assert value(up, "worker_starts_total", **worker) == 1
        assert value(up, "pipeline_loaded", **worker, pipeline="text2img/micro") == 1
        pid = service.workers()[0].pid
        resident = value(up, "worker_resident_memory_bytes", **worker) or 0
        assert resident == pytest.approx(psutil.Process(pid).memory_info().rss, rel=0.5)
        assert not [name for name, _ in up if "gpu_memory" in name]
        await service.runtime.executor._fleet.kill()
        down = await scrape(service)
        assert value(down, "worker_up", **worker) == 0
        assert value(down, "worker_resident_memory_bytes", **worker) is None


async def test_a_database_that_does_not_answer_is_told_and_the_rest_still_is(
    open_service: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "PATIENCE_S", 0.05)
    async with open_service() as service:
        service.operations.traffic.refused("host_refused")
        assert value(await scrape(service), "database_up") == 1
        began, holds = threading.Event(), threading.Event()
        busy = asyncio.create_task(
            service._database.call(lambda: began.set() or holds.wait(DEADLINE_S))
        )
        await asyncio.to_thread(began.wait)
        samples = await scrape(service)
        holds.set()
        await busy
        assert value(samples, "database_up") == 0
        assert value(samples, "jobs_queued", kind="text2img") is None
        assert value(samples, "http_requests_refused_total", code="host_refused") == 1
        assert value(await scrape(service), "database_up") == 1


def of(state: ExecutorState, traffic: HttpTraffic | None = None, ended: Any = ()) -> Metrics:
    async def jobs(since: str) -> Any:
        return [job for job in ended if job.finished_at >= since], ()

    return Metrics(Sources(jobs, lambda: state, traffic or HttpTraffic(), since=START))


START = "2026-01-01T00:00:00.000000+00:00"


def ended_at(seq: int, seconds: float) -> EndedJob:
    moment = datetime.fromisoformat(START) + timedelta(seconds=seconds)
    at = moment.isoformat(timespec="microseconds")
    return EndedJob(seq, "text2img", "micro", "completed", None, 4, 0.0, 1.0, START, START, at)


async def test_a_job_whose_row_comes_late_is_counted_and_none_twice() -> None:
    """A process may stamp a job's end and commit it only after others committed theirs."""
    table: list[EndedJob] = []
    scraper = of(ExecutorState(), ended=table)
    counts = []
    late = OVERLAP.total_seconds() - 1
    for row in (ended_at(1, 100), ended_at(2, 100 - late), ended_at(3, 100), ended_at(4, -1)):
        table.append(row)
        text, _ = await scraper.scrape()
        counts.append(value(read(text), "jobs_ended_total", **OF, status="completed"))
    assert counts == [1, 2, 3, 3]
    table.extend(ended_at(seq, 1000 + seq) for seq in range(10, 20))
    await scraper.scrape()
    assert len(scraper._seen._counted) == len(table) - 1
    await scraper.scrape()
    assert len(scraper._seen._counted) == 10


async def test_two_scrapes_at_once_count_no_job_twice() -> None:
    """The second is asked while the first still waits for what it read before."""
    asked, goes_on = asyncio.Event(), asyncio.Event()
    one, two = ended_at(1, 1), ended_at(2, 2)
    answers = [[one], [one, two], [one, two]]

    async def jobs(_since: str) -> Any:
        found = answers.pop(0)
        if found == [one]:
            asked.set()
            await goes_on.wait()
        else:
            goes_on.set()
        return found, ()

    scraper = Metrics(Sources(jobs, ExecutorState, HttpTraffic(), since=START))
    first = asyncio.create_task(scraper.scrape())
    await asked.wait()
    second = asyncio.create_task(scraper.scrape())
    goes_on.set()
    await asyncio.gather(first, second)
    text, _ = await scraper.scrape()
    assert value(read(text), "jobs_ended_total", **OF, status="completed") == 2


async def test_memory_of_the_gpu_is_shown_in_bytes_of_the_device() -> None:
    gpu = Environment.model_validate({**ENVIRONMENT.model_dump(), "device": "cuda:0"})
    memory = Memory(allocated_bytes=5, reserved_bytes=7, total_bytes=11)
    worker = WorkerInfo("worker-0", True, (), gpu, os.getpid(), memory)  # noqa: FBT003
    text, _ = await of(ExecutorState(leads=True, workers=(worker,))).scrape()
    labels = {"worker": "worker-0", "device": "cuda:0"}
    names = ("allocated", "reserved", "total")
    shown = [value(read(text), f"gpu_memory_{name}_bytes", **labels) for name in names]
    assert shown == [5, 7, 11]


async def test_traffic_is_shown_as_it_stands() -> None:
    traffic = HttpTraffic()
    scraper = of(ExecutorState(), traffic)
    traffic.refused("host_refused")
    traffic.refused("unauthorized")
    traffic.refused("unauthorized")
    traffic.opened()
    inside = read((await scraper.scrape())[0])
    traffic.closed()
    after = read((await scraper.scrape())[0])
    assert value(inside, "http_requests_in_flight") == 1
    assert value(after, "http_requests_in_flight") == 0
    assert value(after, "http_requests_refused_total", code="unauthorized") == 2
    assert value(after, "http_requests_refused_total", code="host_refused") == 1


async def test_no_metric_has_a_label_that_a_caller_writes(open_service: Open) -> None:
    async with open_service() as service:
        await until(service, await service.submit(REQUEST), "completed")
        text, _ = await service.operations.metrics()
    assert b"a star" not in text
    names = {name for _, labels in read(text) for name, _ in labels}
    assert not names & {"principal", "prompt", "session", "job_id"}


async def test_what_ends_between_two_scrapes_walks_an_index(open_service: Open) -> None:
    async with open_service() as service:
        for question in (
            "SELECT seq FROM jobs WHERE finished_at IS NOT NULL AND finished_at >= ?",
            "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND ? != ''",
        ):
            plan = await service._database.call(
                lambda question=question: service._queue._database.execute(
                    f"EXPLAIN QUERY PLAN {question}", (utc_now(),)
                ).fetchall()
            )
            assert all("USING" in row[3] and "INDEX jobs_by_" in row[3] for row in plan), plan
