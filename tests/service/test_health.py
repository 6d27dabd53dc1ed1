"""Probes: each state with real parts, a busy database, and no work beyond one question a second."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from flux_mcp import __version__
from flux_mcp.errors import StorageError
from flux_mcp.jobs.executor import ExecutorState
from flux_mcp.jobs.fleet import WorkerInfo
from flux_mcp.jobs.journal import TROUBLE_S, Journal
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.jobs.queue import QueueLoad
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service import health
from flux_mcp.service.answers import HealthAnswer
from flux_mcp.service.health import Health, judge
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import ErrorInfo
from tests.jobs.factories import BAD_WORKER, make_job

pytestmark = pytest.mark.anyio

REQUEST = GenerateRequest(prompt="a star", width=64, height=64, steps=4, seed=1)
DEADLINE_S = 60

Open = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def open_service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Open:
    # Every answer is a new one, but for the test that asks for old ones.
    monkeypatch.setattr(health, "KEPT_S", 0.0)

    @asynccontextmanager
    async def open_service(habit: str = "good", **changes: Any) -> AsyncIterator[Service]:
        command = (*BAD_WORKER, habit)
        service = Service(
            settings.model_copy(update=changes),
            make_fleet=lambda settings: ProcessFleet(settings, command),
        )
        yield service
        await service.close()

    return open_service


async def ended(service: Service) -> str:
    job = await service.submit(REQUEST)
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.is_final:
            return seen.status
    raise AssertionError("the job never ended")


async def health_until(service: Service, there: Callable[[HealthAnswer], bool]) -> HealthAnswer:
    """Ask again and again until it is so; each question waits for the database thread."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await service.operations.health()
            if there(answer):
                return answer


async def test_a_server_has_no_worker_until_a_job_comes_and_is_ready_then(
    open_service: Open,
) -> None:
    async with open_service() as service:
        idle = await health_until(service, lambda answer: answer.leads)
        assert (idle.status, idle.http_status) == ("no_worker", 200)
        assert (idle.queue_depth, idle.version) == (0, __version__)
        assert await ended(service) == "completed"
        ready = await service.operations.health()
        assert (ready.status, ready.http_status, ready.leads) == ("ready", 200, True)


async def test_it_opens_the_database_by_itself(open_service: Open, settings: Settings) -> None:
    async with open_service() as service:
        assert not settings.paths.database.exists()
        await health_until(service, lambda answer: answer.queue_depth == 0)


async def test_another_process_that_leads_makes_this_one_ready(open_service: Open) -> None:
    async with open_service() as leader:
        await health_until(leader, lambda answer: answer.leads)
        async with open_service() as follower:
            seen = await health_until(follower, lambda answer: answer.status == "ready")
            assert not seen.leads
            assert "another process" in seen.reason


@pytest.mark.parametrize(
    ("habit", "code"), [("dies", "worker_lost"), ("no engine", "engine_unavailable")]
)
async def test_a_worker_that_cannot_draw_degrades_until_one_can(
    open_service: Open, habit: str, code: str
) -> None:
    async with open_service(habit) as service:
        assert await ended(service) == "failed"
        seen = await service.operations.health()
        assert (seen.status, seen.http_status) == ("degraded", 503)
        assert code in seen.reason
        service.runtime.executor._fleet._command = (*BAD_WORKER, "good")
        await service.runtime.executor._fleet.kill()
        assert await ended(service) == "completed"
        assert (await service.operations.health()).status == "ready"


async def test_a_worker_that_is_ended_for_a_cancel_is_no_trouble(open_service: Open) -> None:
    async with open_service("deaf", cancel_grace_s=0.1) as service:
        job = await service.submit(REQUEST)
        async for seen in service.watch(job.id, DEADLINE_S):
            if seen.step >= 1:
                await service.cancel(job.id)
        assert (await service.find_job(job.id)).status == "cancelled"
        assert (await service.operations.health()).status == "no_worker"


async def test_a_worker_that_cannot_start_degrades(open_service: Open, settings: Settings) -> None:
    service = Service(
        settings.model_copy(update={"preload": True}),
        make_fleet=lambda settings: ProcessFleet(settings, ["no-such-program"]),
    )
    seen = await health_until(service, lambda answer: answer.status == "degraded")
    assert "worker_lost" in seen.reason
    await service.close()


async def test_a_database_that_cannot_be_opened_degrades_and_a_path_is_not_told(
    open_service: Open, settings: Settings
) -> None:
    settings.paths.database.mkdir(parents=True)
    async with open_service() as service:
        seen = await health_until(service, lambda answer: "refuses" in answer.reason)
        assert (seen.status, seen.http_status, seen.queue_depth) == ("degraded", 503, None)
        assert str(settings.paths.root) not in seen.model_dump_json()
        settings.paths.database.rmdir()
        fixed = await health_until(service, lambda answer: answer.leads)
        assert fixed.status == "no_worker"


async def test_it_answers_while_the_database_thread_is_busy_and_asks_only_once(
    open_service: Open,
) -> None:
    async with open_service() as service:
        await health_until(service, lambda answer: answer.leads)
        began, holds = threading.Event(), threading.Event()
        busy = asyncio.create_task(
            service._database.call(lambda: began.set() or holds.wait(DEADLINE_S))
        )
        await asyncio.to_thread(began.wait)
        try:
            for _ in range(3):
                seen = await service.operations.health()
                assert (seen.status, seen.queue_depth) == ("degraded", None)
                assert "busy" in seen.reason
            waiting = [task.get_name() for task in asyncio.all_tasks()]
            assert waiting.count("flux-mcp-health") == 1
        finally:
            holds.set()
        await busy
        assert (await service.operations.health()).status == "no_worker"


async def test_an_executor_whose_task_is_gone_degrades(open_service: Open) -> None:
    async with open_service() as service:
        await health_until(service, lambda answer: answer.leads)
        service.runtime.executor._task.cancel()
        seen = await health_until(service, lambda answer: answer.status == "degraded")
        assert "executor" in seen.reason


async def test_an_answer_is_kept_for_a_second() -> None:
    asked = 0

    async def load() -> QueueLoad:
        nonlocal asked
        asked += 1
        return QueueLoad(queued=asked)

    probe = Health(load, ExecutorState)
    answers = await asyncio.gather(*(probe() for _ in range(50)))
    assert {answer.queue_depth for answer in answers} == {1}
    probe._looked_s = time.monotonic() - health.KEPT_S
    assert (await probe()).queue_depth == 2


async def test_a_database_that_refuses_once_is_asked_again() -> None:
    answers: list[int | Exception] = [StorageError("no"), 3]

    async def load() -> QueueLoad:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return QueueLoad(queued=answer)

    probe = Health(load, ExecutorState)
    assert (await probe()).status == "degraded"
    probe._looked_s = float("-inf")
    assert (await probe()).queue_depth == 3


def test_trouble_is_forgotten_in_time_and_only_the_machines_counts() -> None:
    journal = Journal()
    journal.failed(make_job(), ErrorInfo(code="out_of_memory", message="too large"))
    assert journal.trouble is None
    journal.failed(make_job(), ErrorInfo(code="engine_unavailable", message="no torch"))
    assert journal.trouble == "engine_unavailable"
    journal._trouble = ("engine_unavailable", time.monotonic() - TROUBLE_S - 1)
    assert journal.trouble is None


WORKER = WorkerInfo("worker-0", is_running=True)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (ExecutorState(), "no_worker"),
        (ExecutorState(leads=True, workers=(WorkerInfo("worker-0", False),)), "no_worker"),  # noqa: FBT003
        (ExecutorState(leads=True, workers=(WORKER,)), "ready"),
        (ExecutorState(other_leads=True), "ready"),
        (ExecutorState(leads=True, workers=(WORKER,), trouble="worker_lost"), "degraded"),
        (ExecutorState(other_leads=True, is_dead=True), "degraded"),
    ],
)
def test_each_state_has_its_status(state: ExecutorState, status: str) -> None:
    assert judge(state)[0] == status
