"""What a switch costs is the median of what it took, and an expensive one is expensive for a reason."""

import pytest

from flux_mcp.jobs.fleet import WorkerInfo
from flux_mcp.jobs.scheduler import Costs, TimedJob, costs_of, load_level


def test_costs_are_medians_and_jobs_that_loaded_nothing_say_nothing_of_loading() -> None:
    jobs = [
        TimedJob("fill/a", draw_s, load, load_s)
        for draw_s, load, load_s in [(1.0, None, None), (3.0, "first", 9.0), (2.0, "first", 7.0)]
    ]
    found = costs_of([*jobs, TimedJob("fill/a", 9.0, "first", 40.0), TimedJob("b", 1, None, None)])
    assert found == Costs({"fill/a": 9.0}, {"fill/a": 2.5, "b": 1})


def test_a_first_load_counts_until_the_pipeline_was_loaded_again() -> None:
    jobs = [TimedJob("fill/a", 1.0, "first", 8.0)]
    assert costs_of(jobs).load_s == {"fill/a": 8.0}
    again = [TimedJob("fill/a", 1.0, "again", 0.5), TimedJob("fill/a", 1.0, "again", 0.7)]
    assert costs_of([*jobs, *again]).load_s == {"fill/a": pytest.approx(0.6)}


def test_a_load_is_the_first_one_once_in_each_process() -> None:
    assert load_level("a", loaded=(), used=()) == "first"
    assert load_level("a", loaded=("b",), used=("a", "b")) == "again"
    assert load_level("a", loaded=("a",), used=("a",)) is None


def test_a_switch_is_dear_from_a_tenth_of_the_job_that_would_pass() -> None:
    assert not Costs({"a": 2.0, "b": 2.0}, {"b": 20.0}).is_expensive("a", "b")
    assert Costs({"a": 2.1, "b": 2.0}, {"b": 20.0}).is_expensive("a", "b")
    assert Costs({"a": 0.0}, {"a": 1.0, "b": 1.0}).is_expensive("a", "b")


def test_loads_are_weighed_in_whole_milliseconds_and_unknown_ones_as_the_dearest() -> None:
    assert Costs({"a": 0.25, "b": 0.0}, {}).load_ms(["a", "b", "c"]) == {"a": 250, "b": 1, "c": 250}
    assert Costs({}, {}).load_ms(["a"]) == {"a": 1000}


def test_loaded_pipelines_are_told_in_the_order_in_which_they_make_room() -> None:
    worker = WorkerInfo("w", is_running=True, loaded=("a", "b", "new"), used=("b", "gone", "a"))
    assert worker.loaded_by_use == ("b", "a", "new")
