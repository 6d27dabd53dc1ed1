"""Checking for people and CI: one pack or a folder of them, every combination that matters."""

from pathlib import Path

import pytest

from flux_mcp.compose.library import check_packs
from flux_mcp.errors import UnknownPackError

from .packs_on_disk import write_pack

FORBIDDEN = [{"pattern": "people", "reason": "Nobody.", "instead": "an empty street"}]


def said(folder: Path) -> list[str]:
    return [str(problem) for reading in check_packs(folder) for problem in reading.problems]


def test_one_pack_or_a_folder_of_packs_is_checked(tmp_path: Path) -> None:
    write_pack(tmp_path / "one")
    write_pack(tmp_path / "two", {"fixed_block.txt": None})
    assert [reading.name for reading in check_packs(tmp_path / "one")] == ["one"]
    readings = check_packs(tmp_path)
    assert [(reading.name, reading.pack is not None) for reading in readings] == [
        ("one", True),
        ("two", False),
    ]


@pytest.mark.parametrize("name", ["empty", "none"])
def test_a_folder_without_packs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownPackError, match="There is no pack in"):
        check_packs(tmp_path / name)


def test_a_pack_that_forbids_its_own_words_is_told_the_file_and_line(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "subjects/dog.txt": "a brown dog\nbetween people in a park\n"
    }
    found = said(write_pack(tmp_path / "one", files, forbidden=FORBIDDEN))
    assert len(found) == 1
    assert found[0].startswith("one/subjects/dog.txt:2: The pack's own audit finds 'people'")
    assert "an empty street" in found[0]


def test_a_forbidden_word_in_what_fills_a_placeholder_is_found_where_it_stands(
    tmp_path: Path,
) -> None:
    variables = {
        "colour": {
            "description": "A colour.",
            "default": "red",
            "choices": {"red": "red", "people": "people in grey"},
        }
    }
    files: dict[str, str | bytes | None] = {"variable_light.txt": None}
    folder = write_pack(tmp_path / "one", files, forbidden=FORBIDDEN, variables=variables)
    lines = (folder / "pack.json").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "people in grey" in text)
    assert said(folder)[0].startswith(f"one/pack.json:{line}: The pack's own audit finds 'people'")


def test_blocks_that_contradict_each_other_are_found(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "fixed_block.txt": "A crowd of people in a street in {colour} tones.",
        "variable_light.txt": "[soft]\nSoft light, no people.\n[hard]\nHard light.\n",
    }
    found = said(write_pack(tmp_path / "one", files))
    assert any("people" in one for one in found), found


def test_related_that_has_no_effect_is_a_warning_at_its_line(tmp_path: Path) -> None:
    rows = [{"pattern": "spaceship", "related": True}, {"pattern": "weapon", "related": True}]
    (found,) = said(write_pack(tmp_path / "one", forbidden=rows))
    assert "No words related to 'spaceship' are known." in found
    assert found.startswith("one/pack.json:")
    (reading,) = check_packs(tmp_path / "one")
    assert reading.pack is not None
