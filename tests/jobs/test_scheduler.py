"""Whose turn it is: first in, first out, with bounded passing where switches are expensive."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.jobs.scheduler import HORIZON, Costs, Turn, Waiting, choose_next, use

KINDS = ("fill/a", "text2img/a", "redux/a", "kontext/a")
DEAR = Costs(dict.fromkeys(KINDS, 20.0), dict.fromkeys(KINDS, 5.0))
CHEAP = Costs(dict.fromkeys(KINDS, 0.01), dict.fromkeys(KINDS, 5.0))
A, B, C = KINDS[:3]


def waits(job_id: str, pipeline: str = B, priority: int = 0, passes: int = 0) -> Waiting:
    return Waiting(job_id, pipeline, priority, passes)


def choose(
    queue: list[Waiting], loaded: tuple[str, ...], costs: Costs = DEAR, max_overtakes: int = 4
) -> Turn | None:
    return choose_next(queue, loaded, lambda: costs, max_overtakes)


def test_nobody_waits() -> None:
    assert choose([], ()) is None


def test_the_oldest_goes_first_when_nothing_is_loaded() -> None:
    assert choose([waits("1", A), waits("2"), waits("3", A)], ()) == Turn("1")


def test_the_oldest_goes_first_when_it_is_loaded_and_costs_are_not_asked_for() -> None:
    def never() -> Costs:
        raise AssertionError("nothing was to decide")

    assert choose_next([waits("1"), waits("2", A)], (B,), never, 4) == Turn("1")


def test_a_loaded_pipeline_passes_where_the_switch_is_dear() -> None:
    queue = [waits("1", A), waits("2", A), waits("3")]
    assert choose(queue, (B,)) == Turn("3", ("1", "2"))


def test_nobody_passes_where_the_switch_is_cheap() -> None:
    assert choose([waits("1", A), waits("2")], (B,), CHEAP) == Turn("1")


def test_an_unknown_switch_counts_as_dear() -> None:
    queue = [waits("1", "kontext/new"), waits("2")]
    assert choose(queue, (B,), CHEAP) == Turn("2", ("1",))


def test_a_short_job_may_pass_a_long_one_and_not_the_other_way_round() -> None:
    costs = Costs({A: 0.5, B: 0.5}, {A: 20.0, B: 0.5})
    assert choose([waits("1", A), waits("2", B)], (B,), costs) == Turn("2", ("1",))
    assert choose([waits("1", B), waits("2", A)], (A,), costs) == Turn("1")


def test_that_one_job_might_pass_is_no_leave_for_another() -> None:
    costs = Costs({A: 0.5, B: 0.5, C: 0.5}, {A: 0.5, B: 20.0, C: 0.5})
    assert choose([waits("1", A), waits("2", B), waits("3", C)], (B,), costs) == Turn("1")


def test_a_job_passed_often_enough_is_not_passed_again() -> None:
    assert choose([waits("1", A, passes=4), waits("2")], (B,)) == Turn("1")


def test_a_worn_out_job_in_the_middle_stops_those_behind_it() -> None:
    queue = [waits("1", A), waits("2", A, passes=4), waits("3")]
    assert choose(queue, (B,)) == Turn("1")


def test_nobody_passes_a_higher_priority() -> None:
    assert choose([waits("1", A, priority=1), waits("2")], (B,)) == Turn("1")


def test_the_order_is_planned_and_not_only_what_is_loaded_now() -> None:
    # Loading A first costs a third load: 3 passes 2, which then must go before 4.
    queue = [waits("1", A), waits("2", B), waits("3", A), waits("4", A)]
    assert choose(queue, (C,), max_overtakes=1) == Turn("2", ("1",))
    assert choose(queue, (C,), max_overtakes=0) == Turn("1")


def test_a_long_queue_is_looked_at_as_far_as_the_horizon() -> None:
    queue = [waits(str(n), A) for n in range(HORIZON)] + [waits("last", B)]
    assert choose(queue, (B,), max_overtakes=HORIZON + 1) == Turn("0")


arrivals = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(-1, 1), st.integers(0, 3)),
    min_size=1,
    max_size=24,
)


@pytest.mark.parametrize("costs", [DEAR, Costs({}, {}), CHEAP], ids=["dear", "unknown", "cheap"])
@given(jobs=arrivals, capacity=st.integers(1, 3), max_overtakes=st.integers(0, 5))
def test_whatever_comes_when_the_bound_priorities_and_lines_hold_and_nobody_idles(
    costs: Costs, jobs: list[tuple[str, int, int]], capacity: int, max_overtakes: int
) -> None:
    coming = [(waits(str(n), kind, prio), gap) for n, (kind, prio, gap) in enumerate(jobs)]
    queue: list[Waiting] = []
    loaded: tuple[str, ...] = ()
    served: list[Waiting] = []
    while coming or queue:
        # So many jobs come while one is drawn.
        for _ in range(coming[0][1] if coming and queue else 1):
            if coming:
                queue = sorted([*queue, coming.pop(0)[0]], key=lambda job: -job.priority)
        turn = choose(queue, loaded, costs, max_overtakes)
        assert turn is not None
        place = [job.job_id for job in queue].index(turn.job_id)
        job = queue.pop(place)
        assert turn.passed == tuple(other.job_id for other in queue[:place])
        assert all(other.priority <= job.priority for other in queue)
        assert all(other.pipeline != job.pipeline for other in queue[:place])
        if costs is CHEAP:
            assert turn.passed == ()
        queue = [
            replace(other, passes=other.passes + (at < place)) for at, other in enumerate(queue)
        ]
        assert all(other.passes <= max_overtakes for other in queue)
        loaded = use(loaded, job.pipeline, capacity)
        served.append(job)
    assert len(served) == len(jobs)
