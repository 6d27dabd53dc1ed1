"""Tasks are jobs: who gets one, what it says, how it ends, and whose it is."""

import base64
import io
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp.types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    ImageContent,
    ResourceLink,
    SubscriptionFilter,
    SubscriptionsListenRequest,
    SubscriptionsListenRequestParams,
    TextContent,
)
from PIL import Image
from pydantic import TypeAdapter

from flux_mcp.errors import UnknownJobError
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.server import calls
from flux_mcp.server.app import build_server
from flux_mcp.server.calls import ToolCalls
from flux_mcp.server.job_tasks import JobTasks
from flux_mcp.server.timeouts import CancelReasons
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.calls import FAST, cancel_call_while_drawing, job
from tests.jobs.factories import ENDLESS, LIGHT_WORKER

from .task_client import TASKS_ID, TasksClient, ask, begun, ended, task_of

pytestmark = pytest.mark.anyio

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("tasks/get", {}),
    ("tasks/update", {"inputResponses": {}}),
    ("tasks/cancel", {}),
]


@pytest.fixture
async def idle(settings: Settings) -> AsyncIterator[Service]:
    """A service that queues and never draws: what it is asked stays as it is."""
    service = Service(settings, executes=False)
    await service.open()
    yield service
    await service.close()


@asynccontextmanager
async def client_of(service: Service, **options: Any) -> AsyncIterator[Client]:
    async with Client(build_server(service), **options) as client:
        yield client


@pytest.fixture
async def waiting(idle: Service) -> AsyncIterator[Client]:
    """A client that takes tasks, of a server that never draws."""
    async with client_of(idle, extensions=[TasksClient()]) as client:
        yield client


@pytest.fixture(scope="module")
async def busy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service whose worker is light, and quick or endless as it is asked."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("busy") / "data", allowed_dirs=())
    service = Service(settings, make_fleet=lambda settings: ProcessFleet(settings, LIGHT_WORKER))
    await service.open()
    yield service
    await service.close()


@pytest.fixture
async def drawing(busy: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client that takes tasks, of a server that draws and whose grace no job is quick enough for.

    So a small image becomes a task on any machine.
    """
    monkeypatch.setattr(calls, "TASK_GRACE_S", 0.0)
    async with client_of(busy, extensions=[TasksClient()]) as client:
        yield client


async def until(service: Service, job_id: str, status: str) -> Job:
    async for seen in service.watch(job_id, 120):
        if seen.status == status:
            return seen
    raise AssertionError(f"the job never was {status}: {seen}")


def plain(result: CallToolResult) -> dict[str, Any]:
    dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {key: value for key, value in dumped.items() if key != "_meta"}


# --- who gets a task ---------------------------------------------------------------------------


async def test_the_server_says_that_it_has_tasks(waiting: Client) -> None:
    assert waiting.server_capabilities.extensions == {TASKS_ID: {}}


async def test_the_tools_are_the_same_for_a_client_that_takes_tasks(
    waiting: Client, idle: Service
) -> None:
    async with client_of(idle) as other:
        assert (await other.list_tools()).tools == (await waiting.list_tools()).tools


async def test_a_drawing_call_becomes_a_task_that_is_its_job(
    waiting: Client, idle: Service
) -> None:
    created = await task_of(waiting, "flux_generate", **FAST)
    stored = await idle.find_job(created.task_id)
    assert created.wire == {
        "resultType": "task",
        "taskId": stored.id,
        "status": "working",
        "statusMessage": "waiting, number 1 in the queue",
        "createdAt": stored.created_at,
        "lastUpdatedAt": stored.created_at,
        "ttlMs": None,
        "pollIntervalMs": 1000,
    }
    assert datetime.fromisoformat(created.wire["createdAt"]).utcoffset() is not None
    assert stored.id_given
    assert await ask(waiting.session, "tasks/get", stored.id) == {
        **created.wire,
        "resultType": "complete",
    }


@pytest.mark.parametrize("tool", ["flux_edit", "flux_fill", "flux_variation", "flux_structural"])
async def test_all_five_drawing_tools_do(waiting: Client, tool: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    arguments: dict[str, dict[str, Any]] = {
        "flux_edit": {"prompt": "make it blue", "images": [uri]},
        "flux_fill": {
            "prompt": "a blue circle",
            "image": uri,
            "mask": {"box": {"x": 8, "y": 8, "width": 40, "height": 40}},
        },
        "flux_variation": {"images": [{"image": uri}]},
        "flux_structural": {"prompt": "a blue circle", "image": uri, "structure": "canny"},
    }
    assert (await task_of(waiting, tool, **arguments[tool])).status == "working"


@pytest.mark.parametrize("tool", ["flux_get_job", "flux_search_gallery"])
async def test_the_other_tools_never_do(waiting: Client, tool: str) -> None:
    assert isinstance(await begun(waiting, tool), CallToolResult)


async def test_looking_at_and_cancelling_a_job_are_no_tasks_either(waiting: Client) -> None:
    task_id = (await task_of(waiting, "flux_generate", **FAST)).task_id
    looked = await begun(waiting, "flux_get_job", job_id=task_id, wait_s=0.5)
    assert isinstance(looked, CallToolResult)
    assert looked.structured_content["status"] == "queued"
    cancelled = await begun(waiting, "flux_cancel_job", job_id=task_id)
    assert isinstance(cancelled, CallToolResult)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"extensions": [advertise("com.example/other")]},
        {"mode": "legacy"},
        {"mode": "legacy", "extensions": [advertise(TASKS_ID)]},
    ],
)
async def test_a_client_that_does_not_declare_tasks_in_their_era_never_gets_one(
    idle: Service, options: dict[str, Any]
) -> None:
    async with client_of(idle, **options) as client:
        answer = await job(client, "flux_generate", **FAST, wait_s=0.5)
        assert answer.status == "queued"


@pytest.mark.parametrize(
    ("changes", "is_error"),
    [
        ({"wait_s": 0}, False),
        ({"dry_run": True}, False),
        ({"width": 63}, True),
        ({"model": "no-such-model"}, True),
        ({"no_such_argument": 1}, True),
    ],
)
async def test_what_needs_no_waiting_is_answered_directly(
    waiting: Client, changes: dict[str, Any], *, is_error: bool
) -> None:
    answer = await begun(waiting, "flux_generate", **{**FAST, **changes})
    assert isinstance(answer, CallToolResult)
    assert answer.is_error is is_error


async def test_a_full_queue_refuses_a_call_instead_of_making_a_task(settings: Settings) -> None:
    service = Service(settings.model_copy(update={"queue_limit": 1}), executes=False)
    async with client_of(service, extensions=[TasksClient()]) as client:
        await task_of(client, "flux_generate", **FAST)
        refused = await begun(client, "flux_generate", **FAST)
        assert isinstance(refused, CallToolResult)
        assert refused.is_error
        assert "[queue_full]" in refused.content[0].text
    await service.close()


async def test_a_repeated_call_is_the_same_task_and_at_last_its_result(drawing: Client) -> None:
    asked = {**FAST, "idempotency_key": secrets.token_hex(8)}
    before = await task_of(drawing, "flux_generate", **ENDLESS)
    first = await task_of(drawing, "flux_generate", **asked)
    again = await task_of(drawing, "flux_generate", **asked)
    assert again.task_id == first.task_id
    await ask(drawing.session, "tasks/cancel", before.task_id)
    task = await ended(drawing.session, first.task_id)
    last = await begun(drawing, "flux_generate", **asked)
    assert isinstance(last, CallToolResult)
    assert last.structured_content is not None
    again, told = last.structured_content, task["result"]["structuredContent"]
    # That micro is a demo is said once in a session, and to whoever asks for a task's result.
    assert {**again, "notices": []} == {**told, "notices": []}


# --- how it ends -------------------------------------------------------------------------------


async def test_a_task_ends_with_exactly_what_the_call_would_have_answered(
    drawing: Client, busy: Service
) -> None:
    asked = {**FAST, "count": 2, "idempotency_key": secrets.token_hex(8)}
    created = await task_of(drawing, "flux_generate", **asked)
    task = await ended(drawing.session, created.task_id)
    assert (task["status"], task["statusMessage"]) == ("completed", "completed")
    assert task["createdAt"] < task["lastUpdatedAt"]
    result = CallToolResult.model_validate(task["result"], by_name=False)
    kinds = [type(block) for block in result.content]
    assert kinds == [TextContent, ImageContent, ImageContent, ResourceLink, ResourceLink]
    async with client_of(busy) as other:
        waited = await other.call_tool("flux_generate", {**asked, "wait_s": 60})
    assert task["result"] == plain(waited)


async def test_a_client_that_drives_tasks_gets_its_image(drawing: Client) -> None:
    answer = await job(drawing, "flux_generate", **FAST)
    assert answer.status == "completed"
    assert len(answer.images) == 1


@pytest.mark.parametrize(("preview", "previews"), [("none", 0), ("small", 1), (None, 1)])
async def test_the_result_has_the_preview_that_the_call_asked_for(
    drawing: Client, preview: str | None, previews: int
) -> None:
    asked: dict[str, Any] = FAST | ({"preview": preview} if preview else {})
    created = await task_of(drawing, "flux_generate", **asked)
    task = await ended(drawing.session, created.task_id)
    shown = [block for block in task["result"]["content"] if block["type"] == "image"]
    assert len(shown) == previews


async def test_a_task_says_how_far_its_job_is(drawing: Client, busy: Service) -> None:
    created = await task_of(drawing, "flux_generate", **ENDLESS)
    async for seen in busy.watch(created.task_id, 120):
        if seen.step >= 2:
            break
    task = await ask(drawing.session, "tasks/get", created.task_id)
    assert task["status"] == "working"
    assert re.match(r"denoising, step 2 of \d+", task["statusMessage"])
    assert task["lastUpdatedAt"] > task["createdAt"]
    await busy.cancel(created.task_id)


async def test_a_job_that_fails_is_a_call_that_succeeded_with_an_error(
    drawing: Client, busy: Service
) -> None:
    before = await task_of(drawing, "flux_generate", **ENDLESS)
    colour = "#" + secrets.token_hex(3)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    created = await task_of(drawing, "flux_edit", prompt="make it blue", images=[uri])
    (incoming,) = (await busy.find_job(created.task_id)).plan.inputs
    (stored,) = busy.settings.paths.uploads.glob(f"**/{incoming.sha256}*")
    stored.unlink()
    await ask(drawing.session, "tasks/cancel", before.task_id)
    task = await ended(drawing.session, created.task_id)
    failed = await busy.find_job(created.task_id)
    assert failed.status == "failed"
    assert task["status"] == "completed"
    assert task["result"]["isError"] is True
    assert task["result"]["structuredContent"]["error"]["code"] == failed.error.code
    assert task["statusMessage"].startswith(f"[{failed.error.code}] ")
    assert "error" not in task


# --- update and cancel -------------------------------------------------------------------------


async def test_answers_to_a_task_that_asks_nothing_are_ignored(waiting: Client) -> None:
    task_id = (await task_of(waiting, "flux_generate", **FAST)).task_id
    before = await ask(waiting.session, "tasks/get", task_id)
    answers = {"nobody-asked": {"action": "accept", "content": {}}}
    assert await ask(waiting.session, "tasks/update", task_id, inputResponses=answers) == {
        "resultType": "complete"
    }
    assert await ask(waiting.session, "tasks/get", task_id) == before


async def test_a_waiting_task_is_cancelled_at_once(waiting: Client, idle: Service) -> None:
    task_id = (await task_of(waiting, "flux_generate", **FAST)).task_id
    assert await ask(waiting.session, "tasks/cancel", task_id) == {"resultType": "complete"}
    task = await ask(waiting.session, "tasks/get", task_id)
    assert (task["status"], task["statusMessage"]) == ("cancelled", "cancelled")
    assert not {"result", "error", "inputRequests"} & task.keys()
    assert (await idle.find_job(task_id)).status == "cancelled"


async def test_a_running_task_is_stopped_and_says_so(drawing: Client, busy: Service) -> None:
    task_id = (await task_of(drawing, "flux_generate", **ENDLESS)).task_id
    await until(busy, task_id, "running")
    assert await ask(drawing.session, "tasks/cancel", task_id) == {"resultType": "complete"}
    stopped = await until(busy, task_id, "cancelled")
    assert stopped.step < stopped.total_steps
    assert (await ask(drawing.session, "tasks/get", task_id))["status"] == "cancelled"


async def test_cancelling_a_task_that_has_ended_changes_nothing(drawing: Client) -> None:
    task_id = (await task_of(drawing, "flux_generate", **FAST)).task_id
    before = await ended(drawing.session, task_id)
    assert await ask(drawing.session, "tasks/cancel", task_id) == {"resultType": "complete"}
    assert await ask(drawing.session, "tasks/get", task_id) == before


async def test_a_call_cancelled_before_it_became_a_task_takes_its_job_along(
    drawing: Client, busy: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "TASK_GRACE_S", 100.0)
    session = secrets.token_hex(8)
    await cancel_call_while_drawing(
        drawing, "flux_generate", **ENDLESS, session=session, wait_s=200
    )
    (only_one,) = [one for one in await busy.recent_jobs(5) if one.session == session]
    assert not only_one.id_given
    await until(busy, only_one.id, "cancelled")


async def test_a_task_outlives_its_client(drawing: Client, busy: Service) -> None:
    before = await task_of(drawing, "flux_generate", **ENDLESS)
    async with client_of(busy, extensions=[TasksClient()]) as client:
        created = await task_of(client, "flux_generate", **FAST)
    await busy.cancel(before.task_id)
    assert (await until(busy, created.task_id, "completed")).id_given


# --- whose it is -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_an_unknown_task_is_an_invalid_parameter(
    waiting: Client, method: str, params: dict[str, Any]
) -> None:
    with pytest.raises(MCPError) as refused:
        await ask(waiting.session, method, "job_nobody-ever-had", **params)
    assert refused.value.code == INVALID_PARAMS
    assert refused.value.message.startswith("[unknown_job] There is no task 'job_nobody-ever-had'")


async def test_a_task_is_its_principals_alone(idle: Service) -> None:
    tasks = JobTasks(idle, ToolCalls(idle, CancelReasons()))
    with acting_as("ada"):
        task_id = (await idle.submit(GenerateRequest(**FAST))).id
    with acting_as("bob"):
        for asked in (tasks.find(task_id), tasks.update(task_id, {}), tasks.cancel(task_id)):
            with pytest.raises(UnknownJobError):
                await asked
    with acting_as("ada"):
        assert (await tasks.find(task_id)).status == "working"
    with acting_as(LOCAL):
        await tasks.cancel(task_id)
        assert (await tasks.find(task_id)).status == "cancelled"


async def test_who_asks_for_a_task_has_its_id(idle: Service) -> None:
    """So the call that made it can no longer take its job along."""
    stored = await idle.submit(GenerateRequest(**FAST))
    await JobTasks(idle, ToolCalls(idle, CancelReasons())).find(stored.id)
    await idle.let_go(stored.id)
    assert (await idle.find_job(stored.id)).status == "queued"


# --- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_a_client_that_declares_nothing_may_not_ask(
    waiting: Client, idle: Service, method: str, params: dict[str, Any]
) -> None:
    task_id = (await task_of(waiting, "flux_generate", **FAST)).task_id
    async with client_of(idle) as client:
        with pytest.raises(MCPError) as refused:
            await ask(client.session, method, task_id, **params)
    assert refused.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert refused.value.data == {"requiredCapabilities": {"extensions": {TASKS_ID: {}}}}
    assert (await idle.find_job(task_id)).status == "queued"


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_the_handshake_era_has_no_such_methods(
    idle: Service, method: str, params: dict[str, Any]
) -> None:
    async with client_of(idle, mode="legacy", extensions=[advertise(TASKS_ID)]) as client:
        with pytest.raises(MCPError) as refused:
            await ask(client.session, method, "job_any", **params)
    assert refused.value.code == METHOD_NOT_FOUND


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_the_methods_of_the_withdrawn_design_are_not_there(
    waiting: Client, method: str
) -> None:
    with pytest.raises(MCPError) as refused:
        await ask(waiting.session, method, "job_any")
    assert refused.value.code == METHOD_NOT_FOUND


async def test_listening_for_tasks_without_declaring_them_is_refused(idle: Service) -> None:
    wanted = SubscriptionFilter(prompts_list_changed=True, taskIds=["job_any"])
    request = SubscriptionsListenRequest(
        params=SubscriptionsListenRequestParams(notifications=wanted)
    )
    async with client_of(idle) as client:
        with pytest.raises(MCPError) as refused:
            await client.session.send_request(
                request, TypeAdapter(dict[str, Any]), request_read_timeout_seconds=30
            )
    assert refused.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
