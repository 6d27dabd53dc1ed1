"""The embedding cache: the same bits again, never more than allowed, and no harm done by a disk."""

import logging
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.pipelines.texts import (
    LEFTOVER_S,
    SLACK,
    EmbeddingCache,
    EmbeddingFiles,
    embedding_key,
    size_bytes,
)

pytestmark = pytest.mark.usefixtures("torch_here")

HERE = Path(__file__).parent


def key_of(number):
    return embedding_key(["t5", "clip"], "cpu", f"prompt {number}", 128)


def entry(number, tokens=4, dtype="float32"):
    """Embeddings that differ from those of any other number, NaN and infinity among them."""
    import torch

    chance = torch.Generator().manual_seed(number)
    embeds = torch.randn((1, tokens, 8), generator=chance)
    embeds[0, 0, :2] = torch.tensor([float("nan"), float("-inf")])
    pooled = torch.randn((1, 8), generator=chance)
    kind = getattr(torch, dtype)
    return {"prompt_embeds": embeds.to(kind), "pooled_prompt_embeds": pooled.to(kind)}


def same_bits(one, other):
    import torch

    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
        for name in one
    )


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def file_size(tokens=4):
    with tempfile.TemporaryDirectory() as folder:
        EmbeddingFiles(Path(folder), 10**6).write(key_of(0), entry(0, tokens))
        return files_in(Path(folder))[0].stat().st_size


def in_order_of_use(folder):
    return [p.stem for p in sorted(files_in(folder), key=lambda path: path.stat().st_mtime_ns)]


# --- the same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_was_put_comes_back_to_the_bit_from_memory_and_from_disk(tmp_path, dtype):
    put = entry(1, dtype=dtype)
    cache = EmbeddingCache("cpu", 10**6, EmbeddingFiles(tmp_path, 10**6))
    cache.put(key_of(1), put)
    assert cache.get(key_of(1)) is put
    again = EmbeddingCache("cpu", 10**6, EmbeddingFiles(tmp_path, 10**6))
    from_disk = again.get(key_of(1))
    assert from_disk is not put
    assert same_bits(from_disk, put)
    assert again.get(key_of(1)) is from_disk  # now in memory
    assert again.get(key_of(2)) is None


def test_everything_that_decides_the_bits_is_in_the_key():
    given_ = (["t5", "clip"], "cpu", "a cat", 128)
    others = [
        (["t5 other", "clip"], "cpu", "a cat", 128),
        (["t5", "clip other"], "cpu", "a cat", 128),
        (["clip", "t5"], "cpu", "a cat", 128),
        (["t5", "clip"], "cuda", "a cat", 128),
        (["t5", "clip"], "cpu", "a cat ", 128),
        (["t5", "clip"], "cpu", "a cat", 512),
        (["t5"], "clip", "cpu a cat", 128),
    ]
    assert embedding_key(*given_) == embedding_key(*given_)
    keys = {embedding_key(*facts) for facts in (given_, *others)}
    assert len(keys) == 1 + len(others)
    cache = EmbeddingCache("cpu", 0, EmbeddingFiles(Path(os.devnull), 0))
    assert cache.key(["t5", "clip"], "a cat", 128) == embedding_key(*given_)


def test_any_text_can_be_named():
    assert embedding_key([], "", "\ud800 \0 🦊", 1) != embedding_key([], "", "\ud801 \0 🦊", 1)


def test_neither_a_files_name_nor_its_bytes_tell_the_prompt(tmp_path):
    prompt = "a secret lighthouse"
    key = embedding_key(["t5"], "cpu", prompt, 128)
    EmbeddingFiles(tmp_path, 10**6).write(key, entry(1))
    (path,) = files_in(tmp_path)
    assert path == tmp_path / key[:2] / f"{key}.safetensors"
    assert b"lighthouse" not in path.read_bytes()


# --- bounds ----------------------------------------------------------------------------------

operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "forget", "reopen"]), st.integers(0, 9)),
    max_size=40,
)


@given(operations=operations, memory=st.integers(0, 6000), disk=st.integers(0, 8000))
@settings(max_examples=150)
def test_neither_memory_nor_disk_ever_holds_more_than_allowed(operations, memory, disk):
    with tempfile.TemporaryDirectory() as name:
        folder, written = Path(name), {}

        def opened():
            return EmbeddingCache("cpu", memory, EmbeddingFiles(folder, disk))

        cache = opened()
        for operation, number in operations:
            if operation == "put":
                written.setdefault(number, entry(number, tokens=4 * number + 1))
                cache.put(key_of(number), written[number])
                fits = size_bytes(written[number]) <= memory
                assert (cache.get(key_of(number)) is written[number]) == fits
            elif operation == "forget":
                cache.forget()
                assert cache.memory_bytes == 0
            elif operation == "reopen":
                cache = opened()
            found = cache.get(key_of(number))
            assert found is None or same_bits(found, written[number])
            assert cache.memory_bytes == sum(size_bytes(held) for held in cache._held.values())
            assert cache.memory_bytes <= memory
            assert sum(path.stat().st_size for path in files_in(folder)) <= disk


def test_what_was_used_last_stays_in_memory():
    cache = EmbeddingCache("cpu", 3 * size_bytes(entry(0)), EmbeddingFiles(Path(os.devnull), 0))
    for number in range(3):
        cache.put(key_of(number), entry(number))
    assert cache.get(key_of(0)) is not None
    cache.put(key_of(3), entry(3))
    kept = [number for number in range(4) if cache.get(key_of(number)) is not None]
    assert kept == [0, 2, 3]


def test_what_was_used_last_stays_on_disk_also_if_memory_answered(tmp_path):
    limit = 40 * file_size()
    cache = EmbeddingCache("cpu", 10**6, EmbeddingFiles(tmp_path, limit))
    for number in range(40):
        cache.put(key_of(number), entry(number))
    cache.get(key_of(0))  # from memory
    cache.put(key_of(40), entry(40))
    there = {path.stem for path in files_in(tmp_path)}
    gone = [number for number in range(41) if key_of(number) not in there]
    # One had to go; a 16th of the limit more makes room for the next few.
    assert gone == list(range(1, len(gone) + 1))
    assert 1 <= len(gone) <= 2 + 40 // SLACK
    assert in_order_of_use(tmp_path)[-2:] == [key_of(0), key_of(40)]


def test_reading_from_disk_counts_as_use(tmp_path):
    files = EmbeddingFiles(tmp_path, 10**6)
    for number in range(3):
        files.write(key_of(number), entry(number))
    assert in_order_of_use(tmp_path) == [key_of(0), key_of(1), key_of(2)]
    files.read(key_of(0))
    assert in_order_of_use(tmp_path) == [key_of(1), key_of(2), key_of(0)]


def test_a_disk_cache_of_no_size_neither_writes_nor_reads(tmp_path):
    EmbeddingFiles(tmp_path, 10**6).write(key_of(1), entry(1))
    off = EmbeddingFiles(tmp_path, 0)
    off.write(key_of(2), entry(2))
    assert off.read(key_of(1)) is None
    assert len(files_in(tmp_path)) == 1


def test_an_entry_larger_than_the_cache_drives_nothing_out(tmp_path):
    small, large = entry(1, tokens=4), entry(2, tokens=4000)
    cache = EmbeddingCache("cpu", 10_000, EmbeddingFiles(tmp_path, 10_000))
    cache.put(key_of(1), small)
    cache.put(key_of(2), large)
    assert cache.get(key_of(1)) is small
    assert cache.get(key_of(2)) is None
    assert [path.stem for path in files_in(tmp_path)] == [key_of(1)]


def test_a_smaller_limit_than_before_is_kept_at_the_next_write(tmp_path):
    many = EmbeddingFiles(tmp_path, 10**6)
    for number in range(20):
        many.write(key_of(number), entry(number))
    limit = 5 * file_size()
    EmbeddingFiles(tmp_path, limit).write(key_of(20), entry(20))
    assert sum(path.stat().st_size for path in files_in(tmp_path)) <= limit
    assert in_order_of_use(tmp_path)[-1] == key_of(20)


# --- damaged and foreign files ---------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=300)
def test_a_damaged_file_is_a_miss_and_is_removed(data):
    with tempfile.TemporaryDirectory() as name:
        files, written = EmbeddingFiles(Path(name), 10**6), entry(1)
        files.write(key_of(1), written)
        (path,) = files_in(Path(name))
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        flipped = whole[at] ^ data.draw(st.integers(1, 255))
        damaged = data.draw(
            st.sampled_from(
                [
                    whole[:at] + bytes([flipped]) + whole[at + 1 :],
                    whole[:at],
                    whole + b"\0",
                    whole[:at] + bytes(len(whole) - at),
                ]
            )
        )
        path.write_bytes(damaged)
        found = files.read(key_of(1))
        if found is None:
            assert not path.exists()
        else:  # white space in the header, or zeros that were zeros
            assert same_bits(found, written)


def test_every_bit_of_the_tensors_is_checked(tmp_path):
    files = EmbeddingFiles(tmp_path, 10**6)
    files.write(key_of(1), entry(1))
    (path,) = files_in(tmp_path)
    whole = path.read_bytes()
    tensors_at = 8 + int.from_bytes(whole[:8], "little")
    for at in range(tensors_at, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert files.read(key_of(1)) is None, at
        assert not path.exists()


def test_the_file_of_another_entry_is_a_miss_and_is_removed(tmp_path, caplog):
    files = EmbeddingFiles(tmp_path, 10**6)
    files.write(key_of(1), entry(1))
    wrong = tmp_path / key_of(2)[:2] / f"{key_of(2)}.safetensors"
    wrong.parent.mkdir(exist_ok=True)
    files_in(tmp_path)[0].rename(wrong)
    assert files.read(key_of(2)) is None
    assert not wrong.exists()
    assert "no entry of the cache" in caplog.text


def foreign_tensors():
    import torch
    from safetensors.torch import save

    return save({"lora_A.weight": torch.zeros(4)}, {"sha256": "0" * 64})


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG", b"\xff" * 64, foreign_tensors],
    ids=["empty", "an image", "a huge header", "other tensors"],
)
def test_a_foreign_file_is_a_miss_and_is_removed(tmp_path, content):
    files = EmbeddingFiles(tmp_path, 1900)
    path = tmp_path / key_of(1)[:2] / f"{key_of(1)}.safetensors"
    path.parent.mkdir()
    path.write_bytes(content() if callable(content) else content)
    assert files.read(key_of(1)) is None
    assert not path.exists()
    files.write(key_of(1), entry(1))
    assert same_bits(files.read(key_of(1)), entry(1))


def test_a_file_larger_than_the_cache_may_be_is_not_read(tmp_path):
    EmbeddingFiles(tmp_path, 10**6).write(key_of(1), entry(1, tokens=4000))
    assert EmbeddingFiles(tmp_path, 10**4).read(key_of(1)) is None
    assert files_in(tmp_path) == []


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    limit = 3 * file_size()
    note = tmp_path / "ab" / "notes.txt"
    note.parent.mkdir()
    note.write_text("mine" * 5000)
    files = EmbeddingFiles(tmp_path, limit)
    for number in range(9):
        files.write(key_of(number), entry(number))
    assert note.exists()
    assert same_bits(files.read(key_of(8)), entry(8))


def test_what_a_dead_process_left_half_written_is_removed_and_what_is_being_written_is_not(
    tmp_path,
):
    folder = tmp_path / "ab"
    folder.mkdir()
    old, fresh = (folder / f".{key_of(n)}.0123abcd.part" for n in (1, 2))
    for path in (old, fresh):
        path.write_bytes(b"half")
    long_ago = fresh.stat().st_mtime - LEFTOVER_S - 60
    os.utime(old, (long_ago, long_ago))
    EmbeddingFiles(tmp_path, 10**6).write(key_of(3), entry(3))
    assert not old.exists()
    assert fresh.exists()


# --- disks that refuse -----------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_costs_a_warning(tmp_path, caplog):
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file")
    cache = EmbeddingCache("cpu", 10**6, EmbeddingFiles(in_the_way / "embeddings", 10**6))
    with caplog.at_level(logging.WARNING):
        cache.put(key_of(1), entry(1))
    assert "drawing goes on" in caplog.text
    assert same_bits(cache.get(key_of(1)), entry(1))  # from memory
    assert cache.get(key_of(2)) is None


def test_a_full_disk_costs_a_warning_and_leaves_no_half_file(tmp_path, caplog):
    files = EmbeddingFiles(tmp_path, 10**6)
    files.write(key_of(1), entry(1, tokens=4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system itself refuses to write on, as it does when the disk is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        files.write(key_of(2), entry(2, tokens=1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "drawing goes on" in caplog.text
    assert [path.stem for path in files_in(tmp_path)] == [key_of(1)]
    files.write(key_of(2), entry(2, tokens=1000))
    assert same_bits(files.read(key_of(2)), entry(2, tokens=1000))


def test_files_that_cannot_be_removed_keep_new_ones_out(tmp_path, caplog):
    blocked = tmp_path / "ab" / f"{'ab' * 32}.safetensors"
    (blocked / "inside").mkdir(parents=True)  # a folder: it takes some bytes and cannot be unlinked
    files = EmbeddingFiles(tmp_path, file_size())
    files.write(key_of(1), entry(1))
    assert files_in(tmp_path) == []
    assert "cannot be removed" in caplog.text
    (blocked / "inside").rmdir()
    blocked.rmdir()
    files.write(key_of(1), entry(1))
    assert [path.stem for path in files_in(tmp_path)] == [key_of(1)]


# --- several processes -----------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.pipelines.test_embeddings import entry, key_of, same_bits
from flux_mcp.pipelines.texts import EmbeddingFiles

folder, limit, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
files = EmbeddingFiles(folder, limit)
entry(0)  # torch is imported before the start
print("ready", flush=True)
sys.stdin.readline()
hits = 0
for turn in range(150):
    number = turn * step % 40
    files.write(key_of(number), entry(number))
    for other in range(0, 40, 7):
        found = files.read(key_of(other))
        if found is not None:
            hits += 1
            assert same_bits(found, entry(other)), other
print(hits)
"""


@pytest.mark.torture  # two processes import torch for it
def test_processes_that_write_at_once_read_whole_entries_and_keep_the_bound(tmp_path):
    limit = 16 * file_size()
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(limit)]
    root = HERE.parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    writers = [
        subprocess.Popen(
            [*command, str(step)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for step in (1, 3)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        hits, log = writer.communicate()
        assert writer.returncode == 0, log
        assert int(hits) > 0
        assert log == ""  # nothing was damaged, nothing refused
    left = files_in(tmp_path)
    assert {path.suffix for path in left} == {".safetensors"}
    total = sum(path.stat().st_size for path in left)
    assert total <= limit + len(writers) * (limit // SLACK)
    files = EmbeddingFiles(tmp_path, limit)
    assert all(files.read(path.stem) is not None for path in left)
