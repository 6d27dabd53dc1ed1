"""The fleet of one process, proved on small real processes that speak the protocol.

tests/pipelines/test_contract.py proves it again on the real worker.
"""

import asyncio
import contextlib
import os
import signal
import sys

import psutil
import pytest

from flux_mcp.jobs.fleet import Assignment, WorkerLost
from flux_mcp.jobs.process_fleet import MAX_LOG_BYTES, ProcessFleet
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.worker_protocol.messages import Cancelled, Done, GeneratedImage, Progress

from .conftest import settings_in

pytestmark = pytest.mark.anyio

PUPPET = '''
"""A worker that does what the prompt says."""
import os, sys, threading, time
from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import *

pipe, stdin = sys.stdout.buffer, sys.stdin.buffer
print("the puppet starts", file=sys.stderr, flush=True)

def send(message, blobs=None):
    pipe.write(b"".join(encode(message.model_dump(mode="json"), blobs)))
    pipe.flush()

def read():
    frame = read_frame_blocking(stdin)
    if frame is None:
        os._exit(0)
    return parse_command(frame.header), frame.blobs

if "die" in sys.argv:
    os._exit(9)
send(WorkerReady(pid=os.getpid(), environment=Environment(
    torch="0", diffusers="0", transformers="0", device="cpu", device_name="puppet",
    threads=1, platform="test")))
while True:
    run, inputs = read()
    if not isinstance(run, RunMessage):
        continue
    stamp = {"job_id": run.job_id, "attempt": run.attempt}
    total = run.plan.total_steps
    done = Done(**stamp, seq=9, load_s=0, draw_s=0, weights_sha256="0", loaded=("text2img/puppet",),
        waiting=("fill/puppet",))
    send(Progress(**stamp, seq=0, phase="denoising", step=1, total_steps=total))
    match run.plan.prompt:
        case "draw":
            pass
        case "wait":
            while read()[0] != CancelMessage(job_id=run.job_id):
                pass
            done = Cancelled(**stamp, seq=9, loaded=())
        case "loads":
            send(Progress(**stamp, seq=1, phase="denoising", step=2, total_steps=total,
                          loaded=("text2img/other",)))
            heard = []
            while (command := read()[0]) != CancelMessage(job_id=run.job_id):
                heard.append(command)
            assert heard == [PrefetchMessage(weights=None)], heard
        case "hang":
            threading.Event().wait()
        case "exit":
            os._exit(7)
        case "garbage":
            pipe.write(b"Loading weights: 100%")
            pipe.flush()
            threading.Event().wait()
        case "stranger":
            pipe.write(b"".join(encode({"type": "no such event"})))
            pipe.flush()
            threading.Event().wait()
        case "half a frame":
            pipe.write(b"".join(encode(done.model_dump(mode="json"), {"pixels": b"x"}))[:-1])
            pipe.flush()
            os._exit(0)
        case "stale":
            old = {"job_id": run.job_id, "attempt": run.attempt - 1}
            send(Progress(**old, seq=5, phase="decoding", step=3, total_steps=total))
            send(Done(**{**done.model_dump(), **old}))
            send(Done(**{**done.model_dump(), "job_id": "another"}))
        case "echo":
            for index, (name, data) in enumerate(inputs.items()):
                image = GeneratedImage(
                    **stamp, seq=1, index=index, seed=0, width=1, height=1, seconds=0)
                send(image, {"pixels": data})
    send(done)
'''


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    script = tmp_path_factory.mktemp("puppet") / "puppet.py"
    script.write_text(PUPPET)
    return (sys.executable, "-P", str(script))


@pytest.fixture(scope="module")
async def fleet(tmp_path_factory, command):
    """One fleet for the tests that leave it able to draw, whatever they do to its worker."""
    fleet = ProcessFleet(settings_in(tmp_path_factory.mktemp("shared")), command)
    yield fleet
    await fleet.close()


@pytest.fixture
async def new_fleet(settings, command):
    fleet = ProcessFleet(settings, command)
    yield fleet
    await fleet.close()


def job(prompt, job_id="job", attempt=1, inputs=None):
    plan = RenderPlan(
        kind="text2img",
        model="puppet",
        revision=None,
        quality="low",
        precision="fp32",
        prompt=prompt,
        width=64,
        height=64,
        steps=4,
        guidance=1.0,
        seeds=(1,),
        max_sequence_length=64,
    )
    return Assignment(job_id, attempt, plan, inputs or {})


async def events_of(fleet, assignment):
    async with asyncio.timeout(60):  # a guard against a test that hangs, not a measurement
        return [report.event async for report in fleet.run(assignment)]


async def test_what_is_loaded_is_known_while_a_job_runs_and_it_can_be_told_what_comes_next(fleet):
    assert (await events_of(fleet, job("draw")))[-1].loaded == ("text2img/puppet",)
    stream = fleet.run(job("loads"))
    assert (await anext(stream)).event.step == 1
    assert (await anext(stream)).event.step == 2
    assert fleet.worker().loaded == ("text2img/other",)
    await fleet.prefetch(None)
    await fleet.cancel("job")
    assert isinstance((await anext(stream)).event, Done)
    await stream.aclose()


async def test_a_worker_that_is_not_running_is_not_started_to_read_ahead(new_fleet):
    await new_fleet.prefetch(None)
    assert new_fleet.worker().starts == 0
    await events_of(new_fleet, job("draw"))
    await new_fleet.kill()
    await new_fleet.prefetch(None)
    assert new_fleet.worker().starts == 1


async def draws(fleet):
    """Whether the fleet draws a whole job now."""
    events = await events_of(fleet, job("draw", "afterwards"))
    return [type(event) for event in events] == [Progress, Done]


async def test_a_run_yields_its_events_and_ends_with_the_final_one(fleet):
    events = await events_of(fleet, job("draw"))
    assert [type(event) for event in events] == [Progress, Done]
    worker = fleet.worker()
    assert worker.is_running
    assert worker.loaded == ("text2img/puppet",)
    assert worker.waiting == ("fill/puppet",)
    assert worker.environment.device_name == "puppet"


async def test_one_process_draws_job_after_job(fleet):
    assert await draws(fleet)
    pid = fleet.worker().pid
    assert await draws(fleet)
    assert fleet.worker().pid == pid


async def test_warm_starts_the_worker_and_says_when_it_is_ready(new_fleet):
    worker = new_fleet.worker()
    assert (worker.is_running, worker.pid) == (False, None)  # nothing runs before it is needed
    await new_fleet.cancel("job")
    await new_fleet.warm()
    worker = new_fleet.worker()
    assert worker.is_running
    assert worker.environment is not None
    assert psutil.pid_exists(worker.pid)


async def test_a_worker_that_dies_while_starting_is_lost(settings, command):
    fleet = ProcessFleet(settings, (*command, "die"))
    with pytest.raises(WorkerLost, match="exit code 9"):
        await fleet.warm()
    with pytest.raises(WorkerLost, match="exit code 9"):
        await events_of(fleet, job("draw"))
    await fleet.close()


async def test_a_worker_that_cannot_be_started_is_lost(settings, tmp_path):
    fleet = ProcessFleet(settings, (str(tmp_path / "no such program"),))
    with pytest.raises(WorkerLost, match="cannot be started"):
        await fleet.warm()
    await fleet.close()


async def test_cancel_stops_the_job_and_may_be_repeated(fleet):
    events = []
    async for report in fleet.run(job("wait")):
        events.append(report.event)
        await fleet.cancel("job")
        await fleet.cancel("job")
    assert isinstance(events[-1], Cancelled)
    await fleet.cancel("job")
    assert await draws(fleet)


async def test_cancel_of_another_job_does_nothing(fleet):
    await fleet.cancel("no such job")
    assert await draws(fleet)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("exit", "exit code 7"),
        ("garbage", "broke its stream"),
        ("stranger", "broke its stream"),
        ("half a frame", "broke its stream"),
    ],
)
async def test_a_worker_that_ends_or_breaks_its_stream_is_lost_and_the_next_run_works(
    fleet, prompt, reason
):
    events = fleet.run(job(prompt))
    assert isinstance((await anext(events)).event, Progress)
    with pytest.raises(WorkerLost, match=reason):
        await anext(events)
    assert not fleet.worker().is_running
    assert await draws(fleet)


async def test_a_worker_killed_from_outside_is_lost_and_the_next_run_works(fleet):
    events = fleet.run(job("hang"))
    await anext(events)
    os.kill(fleet.worker().pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        await anext(events)
    assert await draws(fleet)


async def test_an_idle_worker_killed_from_outside_is_replaced(fleet):
    assert await draws(fleet)
    process = fleet._process
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait({process._reader})
    assert await draws(fleet)


async def test_kill_ends_a_worker_that_hangs(fleet):
    events = fleet.run(job("hang"))
    await anext(events)
    pid = fleet.worker().pid
    await fleet.kill()
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerLost):
        await anext(events)
    assert await draws(fleet)


async def test_events_of_another_job_or_attempt_are_dropped(fleet):
    events = await events_of(fleet, job("stale", attempt=2))
    assert [(event.job_id, event.attempt) for event in events] == [("job", 2)] * 2


async def test_a_consumer_that_stops_early_cancels_the_job(fleet):
    events = fleet.run(job("wait"))
    await anext(events)
    await events.aclose()
    pid = fleet.worker().pid
    assert await draws(fleet)  # after the other has stopped, on the same worker
    assert fleet.worker().pid == pid


async def test_a_consumer_that_is_cancelled_cancels_the_job(fleet):
    first = asyncio.Event()

    async def consume():
        async for _report in fleet.run(job("wait")):
            first.set()

    consumer = asyncio.create_task(consume())
    await first.wait()
    consumer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await consumer
    pid = fleet.worker().pid
    assert await draws(fleet)
    assert fleet.worker().pid == pid


async def test_a_cancellation_is_not_lost_as_a_wait_for_an_idle_worker_ends(fleet):
    process = await fleet._started()
    for ticks in range(8):
        waiting = asyncio.create_task(process.is_idle_within(30))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def test_an_abandoned_job_that_does_not_stop_loses_its_worker(settings, command):
    impatient = settings.model_copy(update={"cancel_grace_s": 0.05})
    fleet = ProcessFleet(impatient, command)
    events = fleet.run(job("hang"))
    await anext(events)
    await events.aclose()
    pid = fleet.worker().pid
    assert await draws(fleet)
    assert fleet.worker().pid != pid
    assert not psutil.pid_exists(pid)
    await fleet.close()


async def test_a_second_run_waits_for_the_first(fleet):
    order = []

    async def consume(prompt, job_id):
        async for report in fleet.run(job(prompt, job_id)):
            order.append((job_id, type(report.event)))
            await fleet.cancel("first")

    await asyncio.gather(consume("wait", "first"), consume("draw", "second"))
    assert order == [
        ("first", Progress),
        ("first", Cancelled),
        ("second", Progress),
        ("second", Done),
    ]


async def test_images_of_many_megabytes_go_there_and_back(fleet):
    """Far beyond the buffers of pipe and stream, in both directions."""
    inputs = {"a": os.urandom(40_000_000), "b": b"", "c": os.urandom(3)}
    back = [
        report.blobs["pixels"]
        async for report in fleet.run(job("echo", inputs=inputs))
        if isinstance(report.event, GeneratedImage)
    ]
    assert back == list(inputs.values())


async def test_release_lets_an_idle_worker_exit_and_it_starts_again(fleet):
    assert await draws(fleet)
    pid = fleet.worker().pid
    await fleet.release()
    worker = fleet.worker()
    assert (worker.is_running, worker.loaded, worker.pid) == (False, (), None)
    assert worker.environment is not None  # known once it has been up
    assert not psutil.pid_exists(pid)
    await fleet.release()
    assert await draws(fleet)


async def test_release_leaves_a_worker_alone_that_is_drawing(fleet):
    events = fleet.run(job("wait"))
    await anext(events)
    await fleet.release()
    await fleet.cancel("job")
    assert isinstance((await anext(events)).event, Cancelled)
    await events.aclose()


async def test_close_ends_a_worker_that_is_drawing_and_nothing_is_left(settings, command):
    tasks = asyncio.all_tasks()
    fleet = ProcessFleet(settings, command)
    events = fleet.run(job("wait"))
    await anext(events)
    pid = fleet.worker().pid
    await fleet.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerLost):
        await anext(events)
    with pytest.raises(WorkerLost, match="closed"):
        await events_of(fleet, job("draw"))
    await fleet.close()
    assert asyncio.all_tasks() == tasks


async def test_a_worker_whose_log_cannot_be_written_draws_all_the_same(new_fleet, settings, caplog):
    settings.paths.worker_log.mkdir(parents=True)
    assert await draws(new_fleet)
    assert "log cannot be written" in caplog.text


async def test_the_worker_appends_to_its_log_and_a_large_log_is_put_aside(new_fleet, settings):
    log = settings.paths.worker_log
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    assert await draws(new_fleet)
    assert log.read_text() == "the puppet starts\n"
    assert log.with_name("worker.log.1").stat().st_size == MAX_LOG_BYTES + 1
    await new_fleet.release()
    assert await draws(new_fleet)
    assert log.read_text() == "the puppet starts\n" * 2
