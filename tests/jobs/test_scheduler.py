"""First in, first out, with bounded overtaking where model swaps are expensive."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.jobs.fleet import WorkerInfo
from flux_mcp.jobs.scheduler import (
    HORIZON,
    Costs,
    NextJob,
    OrderedJob,
    TimedJob,
    WaitingJob,
    choose_next,
    costs_of,
    first_of_cheapest_order,
    load_level,
    use,
)

KINDS = ("fill/a", "text2img/a", "redux/a", "kontext/a")
EXPENSIVE = Costs(dict.fromkeys(KINDS, 20.0), dict.fromkeys(KINDS, 5.0))
CHEAP = Costs(dict.fromkeys(KINDS, 0.01), dict.fromkeys(KINDS, 5.0))
A, B, C = KINDS[:3]


def waits(job_id: str, pipeline: str = B, overtakes: int = 0) -> WaitingJob:
    return WaitingJob(job_id, pipeline, overtakes)


def choose(
    queue: list[WaitingJob],
    loaded: tuple[str, ...],
    costs: Costs = EXPENSIVE,
    max_overtakes: int = 4,
) -> NextJob | None:
    return choose_next(queue, loaded, lambda: costs, max_overtakes)


def test_nobody_waits() -> None:
    assert choose([], ()) is None


def test_the_oldest_goes_first_when_nothing_is_loaded() -> None:
    assert choose([waits("1", A), waits("2"), waits("3", A)], ()) == NextJob("1")


def test_the_oldest_goes_first_when_it_is_loaded_and_costs_are_not_asked_for() -> None:
    def never() -> Costs:
        raise AssertionError("nothing was to decide")

    assert choose_next([waits("1"), waits("2", A)], (B,), never, 4) == NextJob("1")


def test_a_job_of_a_loaded_pipeline_overtakes_where_the_swap_is_expensive() -> None:
    queue = [waits("1", A), waits("2", A), waits("3")]
    assert choose(queue, (B,)) == NextJob("3", ("1", "2"))


def test_no_job_overtakes_where_the_swap_is_cheap() -> None:
    assert choose([waits("1", A), waits("2")], (B,), CHEAP) == NextJob("1")


def test_an_unknown_swap_counts_as_expensive() -> None:
    queue = [waits("1", "kontext/new"), waits("2")]
    assert choose(queue, (B,), CHEAP) == NextJob("2", ("1",))


def test_a_short_job_may_overtake_a_long_one_and_not_the_other_way_round() -> None:
    costs = Costs({A: 0.5, B: 0.5}, {A: 20.0, B: 0.5})
    assert choose([waits("1", A), waits("2", B)], (B,), costs) == NextJob("2", ("1",))
    assert choose([waits("1", B), waits("2", A)], (A,), costs) == NextJob("1")


def test_that_one_job_may_overtake_does_not_allow_it_to_another() -> None:
    costs = Costs({A: 0.5, B: 0.5, C: 0.5}, {A: 0.5, B: 20.0, C: 0.5})
    assert choose([waits("1", A), waits("2", B), waits("3", C)], (B,), costs) == NextJob("1")


def test_a_job_overtaken_often_enough_is_not_overtaken_again() -> None:
    assert choose([waits("1", A, overtakes=4), waits("2")], (B,)) == NextJob("1")


def test_a_job_in_the_middle_that_may_not_be_overtaken_stops_those_behind_it() -> None:
    queue = [waits("1", A), waits("2", A, overtakes=4), waits("3")]
    assert choose(queue, (B,)) == NextJob("1")


def test_the_order_is_planned_and_not_only_what_is_loaded_now() -> None:
    # Loading A first costs a third load: 3 overtakes 2, which then must go before 4.
    queue = [waits("1", A), waits("2", B), waits("3", A), waits("4", A)]
    assert choose(queue, (C,), max_overtakes=1) == NextJob("2", ("1",))
    assert choose(queue, (C,), max_overtakes=0) == NextJob("1")


def test_a_long_queue_is_looked_at_as_far_as_the_horizon() -> None:
    queue = [waits(str(n), A) for n in range(HORIZON)] + [waits("last", B)]
    assert choose(queue, (B,), max_overtakes=HORIZON + 1) == NextJob("0")


arrivals = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3)),
    min_size=1,
    max_size=24,
)


@pytest.mark.parametrize(
    "costs", [EXPENSIVE, Costs({}, {}), CHEAP], ids=["expensive", "unknown", "cheap"]
)
@given(jobs=arrivals, capacity=st.integers(1, 3), max_overtakes=st.integers(0, 5))
def test_whatever_comes_when_the_bound_holds_and_every_job_is_served(
    costs: Costs, jobs: list[tuple[str, int]], capacity: int, max_overtakes: int
) -> None:
    coming = [(waits(str(n), kind), gap) for n, (kind, gap) in enumerate(jobs)]
    queue: list[WaitingJob] = []
    loaded: tuple[str, ...] = ()
    served: list[WaitingJob] = []
    while coming or queue:
        # So many jobs come while one is drawn.
        come = coming[0][1] if coming and queue else 1
        queue += [job for job, _ in coming[:come]]
        del coming[:come]
        chosen = choose(queue, loaded, costs, max_overtakes)
        assert chosen is not None
        place = [job.job_id for job in queue].index(chosen.job_id)
        job = queue.pop(place)
        assert chosen.overtaken == tuple(other.job_id for other in queue[:place])
        assert all(other.pipeline != job.pipeline for other in queue[:place])
        if costs is CHEAP:
            assert chosen.overtaken == ()
        queue = [
            replace(other, overtakes=other.overtakes + (at < place))
            for at, other in enumerate(queue)
        ]
        assert all(other.overtakes <= max_overtakes for other in queue)
        loaded = use(loaded, job.pipeline, capacity)
        served.append(job)
    assert len(served) == len(jobs)


# --- what a model swap costs: the median of what it took -----------------------------------------


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


def test_a_swap_is_expensive_from_a_tenth_of_the_job_that_would_overtake() -> None:
    assert not Costs({"a": 2.0, "b": 2.0}, {"b": 20.0}).is_expensive("a", "b")
    assert Costs({"a": 2.1, "b": 2.0}, {"b": 20.0}).is_expensive("a", "b")
    assert Costs({"a": 0.0}, {"a": 1.0, "b": 1.0}).is_expensive("a", "b")


def test_loads_are_weighed_in_whole_milliseconds_and_unknown_ones_as_the_most_expensive() -> None:
    assert Costs({"a": 0.25, "b": 0.0}, {}).load_ms(["a", "b", "c"]) == {"a": 250, "b": 1, "c": 250}
    assert Costs({}, {}).load_ms(["a"]) == {"a": 1000}


def test_loaded_pipelines_are_told_in_the_order_in_which_they_make_room() -> None:
    worker = WorkerInfo("w", is_running=True, loaded=("a", "b", "new"), used=("b", "gone", "a"))
    assert worker.loaded_by_use == ("b", "a", "new")


# --- the planned order loads as little as any order that keeps the bound --------------------------

LOAD_MS = {"a": 100, "b": 350, "c": 40}


def cheapest_firsts(jobs: list[OrderedJob], loaded: tuple[str, ...]) -> set[int]:
    """Try every order that keeps the bound; return the first jobs of the cheapest ones."""
    found: dict[int, set[int]] = {}
    for order in permutations(range(len(jobs))):
        places = {job: at for at, job in enumerate(order)}
        if any(
            sum(places[later] < places[job] for later in range(job + 1, len(jobs)))
            > jobs[job].overtakes_left
            for job in range(len(jobs))
        ):
            continue
        kinds = [jobs[job].pipeline for job in range(len(jobs))]
        if any(
            kinds[one] == kinds[other] and places[one] > places[other]
            for one in range(len(jobs))
            for other in range(one + 1, len(jobs))
        ):
            continue  # jobs of one pipeline keep their order
        resident, spent_ms = list(loaded), 0
        for at, job in enumerate(order):
            pipeline = jobs[job].pipeline
            if len(resident) > 1 and job != min(order[at:]) and kinds[min(order[at:])] in resident:
                break  # the oldest of all goes at once while it is loaded
            if pipeline in resident:
                resident.remove(pipeline)
            else:
                spent_ms += LOAD_MS[pipeline]
                resident.pop(0)
            resident.append(pipeline)
        else:
            found.setdefault(spent_ms, set()).add(order[0])
    return found[min(found)]


@given(
    st.lists(
        st.builds(OrderedJob, st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=6
    ),
    st.sampled_from([("a",), ("c",), ("a", "b"), ("c", "a")]),
)
def test_the_first_job_begins_an_order_that_no_other_order_beats(
    jobs: list[OrderedJob], loaded: tuple[str, ...]
) -> None:
    assert first_of_cheapest_order(jobs, loaded, LOAD_MS) in cheapest_firsts(jobs, loaded)


def test_of_orders_that_load_as_much_the_one_that_loads_later_is_taken() -> None:
    # Both orders load b and then a again: at places 0 and 1, or at 1 and 2.
    jobs = [OrderedJob("b", 1), OrderedJob("a", 1), OrderedJob("a", 1)]
    assert first_of_cheapest_order(jobs, ("a",), LOAD_MS) == 1


def test_the_longest_unused_pipeline_makes_room() -> None:
    assert use(("a", "b"), "a", 2) == ("b", "a")
    assert use(("a", "b"), "c", 2) == ("b", "c")
    assert use(("a",), "c", 2) == ("a", "c")
