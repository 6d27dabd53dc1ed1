"""A cancel from another thread ends a job within a step."""

import threading

import pytest

from flux_mcp.errors import JobCancelledError


def test_no_step_begins_after_the_one_in_which_the_cancel_came(studio, tiny_task):
    task = tiny_task.changed(seeds=tuple(range(50)))
    reached, cancelled = threading.Event(), threading.Event()
    steps, seen = [], []

    def on_step(step):
        steps.append(step)
        if step == 2:
            reached.set()
            cancelled.wait()
            seen.append(step)

    def send():
        reached.wait()
        cancelled.set()

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(JobCancelledError):
        studio.draw(task, on_step=on_step, cancelled=lambda _recorder: cancelled.is_set())
    sender.join()
    assert seen == [2]
    assert steps == [1, 2]


def test_what_it_draws_afterwards_is_what_it_drew_before(studio, tiny_task):
    task = tiny_task
    before = studio.draw(task).pixels
    cancelled = threading.Event()

    def on_step(_step):
        cancelled.set()

    with pytest.raises(JobCancelledError):
        studio.draw(task, on_step=on_step, cancelled=lambda _recorder: cancelled.is_set())
    assert studio.draw(task).pixels == before
