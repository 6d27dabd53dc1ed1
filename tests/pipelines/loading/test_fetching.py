"""Files of weights are read into memory in chunks: all of it, stoppable, and within bounds."""

import hashlib
import os

import pytest
import torch

from flux_mcp.pipelines.loading import fetching
from flux_mcp.pipelines.loading.checkpoints import FetchedTensors, FileIdentity, open_checkpoint
from flux_mcp.pipelines.loading.fetching import (
    RESERVE_BYTES,
    Buffers,
    fetch_file,
    has_room,
    make_room,
)

pytestmark = pytest.mark.usefixtures("torch_here")
PLENTY = 2**40


class Stop(Exception):  # noqa: N818 - no error
    """What a caller raises who wants no more."""


def plenty():
    return PLENTY


def ignore(_read_bytes):
    """Count nothing and go on."""


@pytest.fixture
def safetensors_file(tmp_path):
    from safetensors.torch import save_file

    numbers = torch.arange(2048, dtype=torch.float32)
    tensors = {
        "wide": numbers.reshape(2, 1024),
        "half": numbers[:77].to(torch.bfloat16),
        "scalar": torch.tensor(3.5, dtype=torch.float16),
        "empty": torch.zeros(0, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "eighth": numbers[:9].to(torch.float8_e4m3fn),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {"about": "made here"})
    return path


@pytest.fixture(params=["safetensors", "F16", "Q8_0", "Q4_K"])
def file(request, safetensors_file, micro_gguf):
    path = safetensors_file if request.param == "safetensors" else micro_gguf(request.param)
    return FileIdentity.of(path)


def entries_of(file):
    with open_checkpoint([file.path]) as checkpoint:
        return list(checkpoint.entries.values())


def as_bytes(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


@pytest.mark.parametrize("arena_bytes", [None, 4096])
def test_what_is_fetched_is_what_is_read_otherwise(file, arena_bytes, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 1000)
    counted = []
    buffers = Buffers(plenty, arena_bytes=arena_bytes)
    found = fetch_file(file, entries_of(file), buffers, counted.append, with_sha256=True)
    assert found.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert sum(counted) == file.size_bytes
    assert max(counted) <= 1000
    with open_checkpoint([file.path]) as checkpoint:
        assert list(found.tensors) == [
            entry.name for entry in sorted(checkpoint.entries.values(), key=lambda e: e.offset)
        ]
        for name, entry in checkpoint.entries.items():
            fetched, read = found.tensors[name], entry.read()
            assert (type(fetched), fetched.dtype) == (type(read), read.dtype), name
            assert fetched.shape == read.shape, name
            assert getattr(fetched, "quant_type", None) == getattr(read, "quant_type", None)
            assert torch.equal(as_bytes(fetched), as_bytes(read)), name


def test_a_stop_comes_through_after_the_next_chunk(file):
    counted = []

    def stop(read_bytes):
        counted.append(read_bytes)
        if len(counted) == 2:
            raise Stop

    with pytest.raises(Stop):
        fetch_file(file, entries_of(file), Buffers(plenty), stop, with_sha256=True)
    assert len(counted) == 2


def test_what_there_is_no_room_for_is_left_out_and_still_hashed(safetensors_file):
    file = FileIdentity.of(safetensors_file)
    looks = []

    def available():
        looks.append(True)
        return PLENTY if len(looks) <= 2 else RESERVE_BYTES - 1

    entries = entries_of(file)
    found = fetch_file(file, entries, Buffers(available), ignore, with_sha256=True)
    in_order = sorted(entries, key=lambda entry: entry.offset)
    assert list(found.tensors) == [entry.name for entry in in_order[:2]]
    assert found.sha256 == hashlib.sha256(safetensors_file.read_bytes()).hexdigest()


def test_nothing_more_is_read_where_there_is_no_room_and_nothing_to_hash(safetensors_file):
    file, counted = FileIdentity.of(safetensors_file), []
    found = fetch_file(
        file, entries_of(file), Buffers(lambda: 0), counted.append, with_sha256=False
    )
    assert (found.tensors, found.sha256, sum(counted)) == ({}, None, 0)


def test_a_file_that_changes_meanwhile_is_not_kept(safetensors_file):
    file = FileIdentity.of(safetensors_file)

    def touch(_read_bytes):
        os.utime(safetensors_file, ns=(0, 0))

    found = fetch_file(file, entries_of(file), Buffers(plenty), touch, with_sha256=True)
    assert found is None


def test_a_file_that_is_cut_short_meanwhile_is_an_error_and_no_crash(safetensors_file):
    file = FileIdentity.of(safetensors_file)
    entries = entries_of(file)
    with safetensors_file.open("r+b") as stream:
        stream.truncate(file.size_bytes // 2)
    with pytest.raises(OSError, match="ends after"):
        fetch_file(file, entries, Buffers(plenty), ignore, with_sha256=False)


@pytest.mark.parametrize(
    ("needed", "free", "fits"),
    [
        (0, RESERVE_BYTES, True),
        (1, RESERVE_BYTES, False),
        (10, RESERVE_BYTES + 10, True),
        (11, RESERVE_BYTES + 10, False),
        (0, 0, False),
    ],
)
def test_a_reserve_of_host_memory_is_never_touched(needed, free, fits):
    assert has_room(needed, free) is fits


def test_arenas_are_shared_out_without_overlap():
    asked = []

    def available():
        asked.append(True)
        return PLENTY

    buffers = Buffers(available, arena_bytes=1024)
    sizes = [300, 700, 200, 5000, 100, 0]
    taken = [buffers.take(size) for size in sizes]
    assert [tensor.numel() for tensor in taken] == sizes
    # 300 and, behind it, 200 and 100; 700; 5000, which no arena is large enough for.
    assert len({tensor.untyped_storage().data_ptr() for tensor in taken if len(tensor)}) == 3
    assert len(asked) == 3
    assert all(tensor.storage_offset() % 256 == 0 for tensor in taken)
    for number, tensor in enumerate(taken):
        tensor.fill_(number)
    assert all(bool((tensor == number).all()) for number, tensor in enumerate(taken))


def test_no_arena_is_taken_where_memory_is_short():
    buffers = Buffers(lambda: RESERVE_BYTES + 1000, arena_bytes=1024)
    assert buffers.take(10) is None


def test_a_fetched_tensor_is_handed_out_once_and_for_its_file_only(safetensors_file):
    file = FileIdentity.of(safetensors_file)
    store, tensor = FetchedTensors(), torch.zeros(10)
    store.put(file, {"wide": tensor})
    assert (store.held_bytes, store.taken_bytes, store.has(file)) == (40, 0, True)
    os.utime(safetensors_file, ns=(0, 0))
    assert store.take(FileIdentity.of(safetensors_file), "wide") is None
    assert store.take(file, "narrow") is None
    assert store.take(file, "wide") is tensor
    assert store.take(file, "wide") is None
    assert (store.held_bytes, store.taken_bytes, store.has(file)) == (0, 40, False)


@pytest.mark.parametrize(
    ("is_other", "missing_bytes", "stays"),
    [(True, 0, True), (True, 1, False), (False, 1, True)],
)
def test_what_was_fetched_goes_where_another_file_would_not_fit_beside_it(
    tmp_path, safetensors_file, is_other, missing_bytes, stays
):
    other = tmp_path / "other.safetensors"
    other.write_bytes(bytes(1000))
    wanted = other if is_other else safetensors_file
    store = FetchedTensors()
    store.put(FileIdentity.of(safetensors_file), {"wide": torch.zeros(10)})
    free = wanted.stat().st_size + RESERVE_BYTES - missing_bytes
    make_room(store, [wanted], lambda: free)
    assert bool(store.held_bytes) is stays
