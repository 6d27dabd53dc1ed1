"""What goes where when memory runs short: rules, and that they keep what they promise."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.pipelines.memory.eviction import (
    EvictionStep,
    PartState,
    forget_without_gpu,
    free_gpu,
    free_host,
)

LARGE = 1000


def on_gpu(key, nbytes, last_used, *, in_host=False, wanted=False):
    return PartState(key, nbytes, last_used, wanted, gpu_bytes=nbytes, in_host=in_host)


def waiting(key, nbytes, last_used, *, wanted=False):
    return PartState(key, nbytes, last_used, wanted, in_host=True)


def test_nothing_moves_while_the_next_one_fits():
    assert free_gpu([on_gpu("a", 22, 1)], 20, 20, LARGE) == ()
    assert free_host([waiting("a", 22, 1)], 20, 20) == ()


def test_the_longest_unused_leaves_the_gpu_first_and_no_more_than_needed():
    loaded = [on_gpu("new", 22, 9), on_gpu("old", 22, 1), on_gpu("older", 22, 0)]

    def left(needed):
        return [(m.key, m.step) for m in free_gpu(loaded, needed, 3, LARGE)]

    assert left(24) == [("older", "leave_gpu")]
    assert left(40) == [("older", "leave_gpu"), ("old", "leave_gpu")]
    assert [key for key, _ in left(500)] == ["older", "old", "new"]


def test_what_is_wanted_stays_where_it_is():
    loaded = [on_gpu("old", 22, 0, wanted=True), on_gpu("new", 22, 9)]
    assert free_gpu(loaded, 500, 0, LARGE) == (EvictionStep("new", "leave_gpu"),)
    assert free_host([waiting("old", 22, 0, wanted=True)], 500, 0) == ()


def test_what_host_memory_has_no_room_for_is_forgotten():
    assert free_gpu([on_gpu("a", 22, 0)], 10, 0, 21) == (EvictionStep("a", "forget"),)
    assert free_gpu([on_gpu("a", 22, 0, in_host=True)], 10, 0, 0) == (
        EvictionStep("a", "leave_gpu"),
    )


def test_host_memory_is_made_for_what_leaves_the_gpu_by_forgetting_what_was_used_before():
    loaded = [waiting("oldest", 22, 0), on_gpu("old", 22, 1)]
    expected = (EvictionStep("oldest", "forget"), EvictionStep("old", "leave_gpu"))
    assert free_gpu(loaded, 10, 0, 5) == expected


def test_a_copy_that_made_room_for_another_is_not_there_any_more():
    loaded = [on_gpu("old", 1, 0), on_gpu("new", 1, 1, in_host=True)]
    assert free_gpu(loaded, 2, 0, 0) == (
        EvictionStep("new", "drop_copy"),
        EvictionStep("old", "leave_gpu"),
        EvictionStep("old", "forget"),
        EvictionStep("new", "leave_gpu"),
    )


def test_host_memory_gives_up_copies_of_what_is_on_the_gpu_first():
    loaded = [waiting("oldest", 22, 0), on_gpu("new", 22, 5, in_host=True)]
    assert free_host(loaded, 20, 0) == (EvictionStep("new", "drop_copy"),)
    assert free_host(loaded, 40, 0) == (
        EvictionStep("new", "drop_copy"),
        EvictionStep("oldest", "forget"),
    )


def test_where_memory_cannot_be_told_one_real_model_stays_and_the_demonstration_family_all():
    loaded = [("micro-fill", True), ("dev", False), ("schnell", False)]
    assert forget_without_gpu(loaded, frozenset({"schnell"})) == ("dev",)


@st.composite
def held_parts(draw):
    parts = []
    for number in range(draw(st.integers(0, 6))):
        nbytes = draw(st.integers(1, 50))
        where = draw(st.sampled_from(["gpu", "host", "both"]))
        parts.append(
            PartState(
                key=f"part{number}",
                nbytes=nbytes,
                last_used=draw(st.integers(0, 9)),
                is_wanted=draw(st.booleans()),
                gpu_bytes=nbytes if where != "host" else 0,
                in_host=where != "gpu",
            )
        )
    return parts


def carried_out(held, moves):
    """Do what was decided, refusing what cannot be done."""
    parts = {part.key: [part, bool(part.gpu_bytes), part.in_host] for part in held}
    for move in moves:
        part, is_on_gpu, in_host = parts[move.key]
        assert not part.is_wanted
        if move.step == "forget":
            del parts[move.key]
        elif move.step == "leave_gpu":
            assert is_on_gpu
            parts[move.key] = [part, False, True]
        else:
            assert is_on_gpu
            assert in_host
            parts[move.key] = [part, True, False]
    return parts


@settings(max_examples=1000)
@given(
    held=held_parts(),
    needed=st.integers(0, 200),
    free=st.integers(0, 60),
    host=st.integers(-20, 90),
)
def test_room_is_made_if_it_can_be_and_host_memory_is_never_overdrawn(held, needed, free, host):
    after = carried_out(held, free_gpu(held, needed, free, host))
    gained = sum(p.nbytes for p in held if p.gpu_bytes) - sum(
        part.nbytes for part, is_on_gpu, _ in after.values() if is_on_gpu
    )
    could = sum(p.nbytes for p in held if p.gpu_bytes and not p.is_wanted)
    assert free + gained >= min(needed, free + could)
    used = sum(part.nbytes for part, _, in_host in after.values() if in_host)
    before = sum(p.nbytes for p in held if p.in_host)
    assert used - before <= max(0, host)


@settings(max_examples=200)
@given(held=held_parts(), needed=st.integers(0, 200), host=st.integers(-20, 90))
def test_host_memory_is_freed_if_it_can_be_and_no_part_is_lost_that_need_not_be(held, needed, host):
    moves = free_host(held, needed, host)
    after = carried_out(held, moves)
    gained = sum(p.nbytes for p in held if p.in_host) - sum(
        part.nbytes for part, _, in_host in after.values() if in_host
    )
    could = sum(p.nbytes for p in held if p.in_host and not p.is_wanted)
    assert host + gained >= min(needed, host + could)
    if moves:
        size = {part.key: part.nbytes for part in held}
        assert host + gained - size[moves[-1].key] < needed
    on_gpu_before = {part.key for part in held if part.gpu_bytes}
    assert on_gpu_before <= after.keys()
