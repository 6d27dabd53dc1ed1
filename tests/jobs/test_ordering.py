"""The planned order loads as little as any order that keeps the bound."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.jobs.scheduler import WaitingJob, first_of_cheapest_order, use

LOAD_MS = {"a": 100, "b": 350, "c": 40}


def cheapest_firsts(jobs: list[WaitingJob], loaded: tuple[str, ...]) -> set[int]:
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
        held, spent_ms = list(loaded), 0
        for at, job in enumerate(order):
            pipeline = jobs[job].pipeline
            if len(held) > 1 and job != min(order[at:]) and kinds[min(order[at:])] in held:
                break  # the oldest of all goes at once while it is loaded
            if pipeline in held:
                held.remove(pipeline)
            else:
                spent_ms += LOAD_MS[pipeline]
                held.pop(0)
            held.append(pipeline)
        else:
            found.setdefault(spent_ms, set()).add(order[0])
    return found[min(found)]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(WaitingJob, st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=6
    ),
    st.sampled_from([("a",), ("c",), ("a", "b"), ("c", "a")]),
)
def test_the_first_job_begins_an_order_that_no_other_order_beats(
    jobs: list[WaitingJob], loaded: tuple[str, ...]
) -> None:
    assert first_of_cheapest_order(jobs, loaded, LOAD_MS) in cheapest_firsts(jobs, loaded)


def test_of_orders_that_load_as_much_the_one_that_loads_later_is_taken() -> None:
    # Both orders load b and then a again: at places 0 and 1, or at 1 and 2.
    jobs = [WaitingJob("b", 1), WaitingJob("a", 1), WaitingJob("a", 1)]
    assert first_of_cheapest_order(jobs, ("a",), LOAD_MS) == 1


def test_the_longest_unused_pipeline_makes_room() -> None:
    assert use(("a", "b"), "a", 2) == ("b", "a")
    assert use(("a", "b"), "c", 2) == ("b", "c")
    assert use(("a",), "c", 2) == ("a", "c")
