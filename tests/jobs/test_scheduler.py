"""Whose turn it is: FIFO, with bounded passing where swaps are dear."""

from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.jobs.scheduler import Costs, Turn, Waiting, choose_next

DEAR = Costs({"fill/a": 20.0, "text2img/a": 20.0}, {"fill/a": 5.0, "text2img/a": 5.0})
CHEAP = Costs({"fill/a": 0.01, "text2img/a": 0.01}, {"fill/a": 5.0, "text2img/a": 5.0})


def waits(job_id: str, pipeline: str = "text2img/a", priority: int = 0, passes: int = 0) -> Waiting:
    return Waiting(job_id, pipeline, priority, passes)


def test_nobody_waits() -> None:
    assert choose_next([], [], DEAR, 4) is None


def test_the_oldest_goes_first_when_nothing_is_loaded() -> None:
    assert choose_next([waits("1"), waits("2")], [], DEAR, 4) == Turn("1")


def test_a_loaded_pipeline_passes_where_the_swap_is_dear() -> None:
    queue = [waits("1", "fill/a"), waits("2", "fill/a"), waits("3")]
    assert choose_next(queue, ["text2img/a"], DEAR, 4) == Turn("3", ("1", "2"))


def test_nobody_passes_where_the_swap_is_cheap() -> None:
    assert choose_next([waits("1", "fill/a"), waits("2")], ["text2img/a"], CHEAP, 4) == Turn("1")


def test_an_unknown_swap_counts_as_dear() -> None:
    queue = [waits("1", "kontext/new"), waits("2")]
    assert choose_next(queue, ["text2img/a"], CHEAP, 4) == Turn("2", ("1",))


def test_a_job_passed_often_enough_is_not_passed_again() -> None:
    queue = [waits("1", "fill/a", passes=4), waits("2")]
    assert choose_next(queue, ["text2img/a"], DEAR, 4) == Turn("1")


def test_a_worn_out_job_in_the_middle_stops_those_behind_it() -> None:
    queue = [waits("1", "fill/a"), waits("2", "fill/a", passes=4), waits("3")]
    assert choose_next(queue, ["text2img/a"], DEAR, 4) == Turn("1")


def test_nobody_passes_a_higher_priority() -> None:
    queue = [waits("1", "fill/a", priority=1), waits("2")]
    assert choose_next(queue, ["text2img/a"], DEAR, 4) == Turn("1")


@given(
    st.lists(
        st.tuples(st.sampled_from(["fill/a", "text2img/a", "redux/a"]), st.integers(-1, 1)),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 5),
)
def test_no_job_is_ever_passed_more_often_than_allowed(
    jobs: list[tuple[str, int]], max_passes: int
) -> None:
    queue = sorted(
        (
            waits(str(number), pipeline, priority)
            for number, (pipeline, priority) in enumerate(jobs)
        ),
        key=lambda job: -job.priority,
    )
    loaded: list[str] = []
    passes = dict.fromkeys((job.job_id for job in queue), 0)
    served = []
    while queue:
        turn = choose_next(queue, loaded, DEAR, max_passes)
        assert turn is not None
        job = next(job for job in queue if job.job_id == turn.job_id)
        assert all(other.priority <= job.priority for other in queue)
        for passed in turn.passed:
            passes[passed] += 1
        queue = [
            Waiting(other.job_id, other.pipeline, other.priority, passes[other.job_id])
            for other in queue
            if other is not job
        ]
        loaded = [job.pipeline]
        served.append(job.job_id)
    assert sorted(served) == sorted(passes)
    assert max(passes.values()) <= max_passes
