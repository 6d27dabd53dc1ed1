"""The library: shipped packs and own ones, picked up while the server runs."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import Audit, Finding, Forbidden
from flux_mcp.compose.library import PackChanges, PackLibrary, _fingerprint_of
from flux_mcp.compose.reader import read_pack
from flux_mcp.errors import InvalidPackError, UnknownPackError

from .packs_on_disk import write_pack


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    write_pack(tmp_path / "shipped" / "pins")
    write_pack(tmp_path / "shipped" / "shots")
    (tmp_path / "shipped" / "pack.schema.json").write_text("{}")
    (tmp_path / "shipped" / ".hidden").mkdir()
    return tmp_path / "shipped"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return tmp_path / "data" / "packs"


@pytest.fixture
def library(shipped: Path, user: Path) -> PackLibrary:
    return PackLibrary(shipped, user)


def test_shipped_packs_and_own_ones_stand_side_by_side(library: PackLibrary, user: Path) -> None:
    assert [pack.name for pack in library] == ["pins", "shots"]
    write_pack(user / "mine")
    assert [pack.name for pack in library] == ["mine", "pins", "shots"]
    assert library.find("mine").folder == user / "mine"


def test_an_own_pack_replaces_a_shipped_one_of_its_name_with_a_notice(
    library: PackLibrary, user: Path
) -> None:
    assert library.notices() == ()
    write_pack(user / "pins", title="My pins")
    assert library.find("pins").title == "My pins"
    assert library.notices() == ("Your own pack 'pins' replaces the shipped one.",)
    shutil.rmtree(user / "pins")
    assert library.find("pins").title == "Test"


def test_an_unknown_pack_is_refused_with_the_nearest(library: PackLibrary) -> None:
    with pytest.raises(UnknownPackError, match="There is no pack 'pin'") as caught:
        library.find("pin")
    assert caught.value.hint == "Did you mean 'pins'? Packs: pins, shots."
    assert caught.value.code == "unknown_pack"


def test_a_bad_pack_is_disabled_and_the_others_are_not(library: PackLibrary, user: Path) -> None:
    write_pack(user / "broken", {"fixed_block.txt": None, "subjects/cat.txt": b"\xff"})
    assert [pack.name for pack in library] == ["pins", "shots"]
    with pytest.raises(InvalidPackError) as caught:
        library.find("broken")
    assert str(caught.value) == (
        "[invalid_pack] The pack 'broken' cannot be used: broken/fixed_block.txt: "
        "The file is missing. 1 more. Write the text of every prompt of the pack into it."
    )
    assert len(caught.value.problems) == 2
    assert [reading.name for reading in library.readings()] == ["broken", "pins", "shots"]


def test_a_bad_own_pack_is_not_replaced_by_the_shipped_one(
    library: PackLibrary, user: Path
) -> None:
    write_pack(user / "pins", {"pack.json": "{"})
    with pytest.raises(InvalidPackError):
        library.find("pins")


def test_every_change_is_reported_once(library: PackLibrary, user: Path) -> None:
    assert library.refresh() == PackChanges(added=("pins", "shots"))
    assert not library.refresh()
    write_pack(user / "mine")
    assert library.find("mine")
    assert library.refresh() == PackChanges(added=("mine",))
    write_pack(user / "mine", title="Better")
    assert library.refresh() == PackChanges(changed=("mine",))
    write_pack(user / "mine", {"pack.json": "{"})
    assert library.refresh() == PackChanges(removed=("mine",))
    write_pack(user / "mine")
    write_pack(user / "shots", title="Own")
    assert library.refresh() == PackChanges(added=("mine",), changed=("shots",))
    shutil.rmtree(user)
    assert library.refresh() == PackChanges(removed=("mine",), changed=("shots",))
    assert not library.refresh()


def change_in_place(path: Path) -> None:
    """Change a file without changing its size, and put its time back."""
    about = path.stat()
    path.write_bytes(path.read_bytes().replace(b"a", b"o", 1))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_change_that_keeps_size_and_time_is_seen(
    library: PackLibrary, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_mcp.compose.library._SETTLED_NS", 0)
    for name in ("pack.json", "fixed_block.txt", "subjects/cat.txt"):
        before = library.find("pins").digest
        change_in_place(shipped / "pins" / name)
        assert library.find("pins").digest != before, name


def test_a_second_change_within_one_tick_of_the_clock_is_seen(
    library: PackLibrary, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    frozen = (("pack.json", now, 100, 1),)
    monkeypatch.setattr("flux_mcp.compose.library._fingerprint_of", lambda _: frozen)
    monkeypatch.setattr("flux_mcp.compose.library.time.time_ns", lambda: now + 1_000_000)
    before = library.find("pins").digest
    change_in_place(shipped / "pins" / "fixed_block.txt")
    assert library.find("pins").digest != before
    monkeypatch.setattr("flux_mcp.compose.library.time.time_ns", lambda: now + 10**9)
    settled = library.find("pins")
    assert library.find("pins") is settled


def test_files_that_come_and_go_are_seen(library: PackLibrary, shipped: Path) -> None:
    assert "owl" not in library.find("pins").subject.choices
    (shipped / "pins" / "subjects" / "owl.txt").write_text("an owl")
    assert "owl" in library.find("pins").subject.choices
    (shipped / "pins" / "subjects" / "owl.txt").unlink()
    assert "owl" not in library.find("pins").subject.choices


def test_packs_that_did_not_change_are_not_read_again(
    library: PackLibrary, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in shipped.rglob("*"):
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr("flux_mcp.compose.library._SETTLED_NS", 0)
    first = library.find("pins")
    assert library.find("pins") is first
    (shipped / "shots" / "subjects" / "owl.txt").write_text("an owl")
    assert library.find("pins") is first


def test_a_fingerprint_names_every_file_without_reading_it(shipped: Path) -> None:
    (shipped / "pins" / "gone.txt").symlink_to("nowhere")
    names = [name for name, *_ in _fingerprint_of(shipped / "pins")]
    assert names == sorted(names)
    assert {"pack.json", "subjects/cat.txt", "gone.txt"} <= set(names)


def test_there_may_be_no_folder_at_all(tmp_path: Path) -> None:
    library = PackLibrary(tmp_path / "none", tmp_path / "nothing")
    assert list(library) == []
    assert not library.refresh()
    with pytest.raises(UnknownPackError, match="Packs: none"):
        library.find("pins")


def test_a_pack_may_name_only_a_model_there_is(shipped: Path) -> None:
    write_pack(shipped / "pins", model="flux1-dve")
    library = PackLibrary(shipped, models={"text2img": ["flux1-dev"]})
    with pytest.raises(InvalidPackError, match="Did you mean 'flux1-dev'"):
        library.find("pins")


def hates_cats(blocks: Sequence[Block], forbidden: Sequence[Forbidden]) -> Audit:
    """Replace the audit by one whose findings are simple."""
    findings = tuple(
        Finding("refuse", "forbidden", "cat", block.name, at, at + 3, "cat", "No cats.", "a dog")
        for block in blocks
        if (at := block.start + block.text.find("cat")) >= block.start
    )
    return Audit("refuse" if findings else "pass", findings)


def test_a_pack_that_forbids_its_own_words_is_disabled(shipped: Path) -> None:
    write_pack(
        shipped / "pins",
        {"subjects/cat.txt": "# wild\n\na lynx, a\ncat\n"},
        forbidden=[{"pattern": "cat"}],
    )
    reading = read_pack(shipped / "pins")
    assert reading.pack is not None
    library = PackLibrary(shipped, judge=hates_cats)
    with pytest.raises(InvalidPackError) as caught:
        library.find("pins")
    assert [str(problem) for problem in caught.value.problems] == [
        "pins/subjects/cat.txt:4: The pack's own audit finds 'cat': No cats. Write instead: a dog."
    ]
    assert library.find("shots")
