"""Megabytes and percent: rarely enough to be read, and true."""

import threading

import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.pipelines.loading.progress import ReadProgress


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_it_says_megabytes_of_all_and_percent(clock):
    said = []
    progress = ReadProgress("loading transformer", said.append, clock)
    progress.expect(1_234_000_000)
    clock.now_s = 1.0
    progress.add(412_000_000)
    assert said == ["loading transformer, 412 of 1,234 MB, 33 %"]


def test_it_speaks_four_times_a_second_at_most_and_always_at_the_end(clock):
    said = []
    progress = ReadProgress("loading vae", said.append, clock)
    progress.expect(1000)
    for _ in range(1000):
        clock.now_s += 0.001
        progress.add(1)
    assert [line.rsplit(", ", 1)[1] for line in said] == ["25 %", "50 %", "75 %", "100 %"]
    assert said[-1] == "loading vae, 1 of 1 MB, 100 %"


def test_what_stops_it_stops_every_later_call_too(clock):
    def stop(_message):
        raise JobCancelledError("The job was cancelled.")

    progress = ReadProgress("loading vae", stop, clock)
    progress.expect(10)
    progress.add(1)  # too soon to be told
    clock.now_s = 1.0
    with pytest.raises(JobCancelledError):
        progress.add(1)
    with pytest.raises(JobCancelledError):
        progress.add(1)
    assert isinstance(progress.stopped, JobCancelledError)


def test_readers_on_several_threads_are_counted_one_at_a_time():
    inside = threading.Lock()
    said = []

    def report(message):
        assert inside.acquire(blocking=False)
        said.append(message)
        inside.release()

    progress = ReadProgress("loading vae", report, clock=lambda: float(len(said)))
    progress.expect(4000)
    readers = [
        threading.Thread(target=lambda: [progress.add(1) for _ in range(1000)]) for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert said[-1] == "loading vae, 1 of 1 MB, 100 %"
