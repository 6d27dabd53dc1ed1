"""What a waiting client is told: always more than before, not too often, never too rarely."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.server.progress import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    ProgressFeed,
    describe,
    next_value,
)
from tests.jobs.factories import make_job

pytestmark = pytest.mark.anyio


class Sent:
    """Collects notifications with the loop's time, and can be waited on."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.times_s: list[float] = []
        self.messages: list[str] = []
        self._arrived = asyncio.Condition()

    async def send(self, value: float, _total: float, message: str) -> None:
        async with self._arrived:
            self.values.append(value)
            self.times_s.append(asyncio.get_running_loop().time())
            self.messages.append(message)
            self._arrived.notify_all()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(30), self._arrived:
            await self._arrived.wait_for(lambda: len(self.values) >= count)


@given(st.lists(st.integers(0, 100), max_size=300))
def test_each_value_is_larger_than_the_one_before(steps: list[int]) -> None:
    value = 0.0
    for step in steps:
        following = next_value(value, step)
        assert following > value
        assert following >= min(step, following)
        value = following


async def test_notifications_keep_their_distance_however_fast_steps_come() -> None:
    sent = Sent()
    feed = ProgressFeed(sent.send)
    task = asyncio.create_task(feed.run())
    job = make_job(status="running", phase="denoising")
    for step in range(1, 200):
        feed.show(job.model_copy(update={"step": step}), None)
        await asyncio.sleep(0)
        if len(sent.values) >= 4:
            break
    for step in range(200, 203):
        feed.show(job.model_copy(update={"step": step}), None)
        await sent.wait_for(len(sent.values) + 1)
    task.cancel()
    gaps = [later - earlier for earlier, later in zip(sent.times_s, sent.times_s[1:], strict=False)]
    assert min(gaps) >= MIN_INTERVAL_S - 0.01
    assert sent.values[-1] == 202


async def test_a_sign_of_life_goes_out_while_nothing_moves() -> None:
    sent = Sent()
    feed = ProgressFeed(sent.send, max_interval_s=0.01)
    task = asyncio.create_task(feed.run())
    feed.show(make_job(status="running", phase="loading"), None)
    await sent.wait_for(3)
    task.cancel()
    assert sent.values == sorted(set(sent.values))
    assert set(sent.messages) == {"loading"}


def test_a_sign_of_life_comes_at_least_every_ten_seconds() -> None:
    assert MAX_INTERVAL_S + MIN_INTERVAL_S < 10


@pytest.mark.parametrize(
    ("changes", "position", "words"),
    [
        ({}, 2, "waiting, number 2 in the queue"),
        ({"message": "its worker was lost; it will run again"}, 1, "will run again"),
        ({"status": "running"}, None, "starting the worker"),
        ({"status": "running", "phase": "loading", "message": "transformer"}, None, "transformer"),
        ({"status": "running", "phase": "denoising", "step": 3, "eta_s": 4.2}, None, "step 3 of 4"),
        ({"status": "running", "phase": "saving"}, None, "saving"),
    ],
)
def test_the_message_says_how_far_the_job_is(
    changes: dict[str, object], position: int | None, words: str
) -> None:
    assert words in describe(make_job(**changes), position)
