"""A new pack: works as written, and nothing is overwritten."""

from pathlib import Path

import pytest

from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import compose
from flux_mcp.compose.library import PackLibrary, check_packs
from flux_mcp.compose.skeleton import skeleton
from flux_mcp.errors import InvalidRequestError, StorageError


def test_a_new_pack_passes_every_check_and_composes(tmp_path: Path) -> None:
    folder = skeleton("my-brand_2", tmp_path / "packs")
    assert folder == tmp_path / "packs" / "my-brand_2"
    (reading,) = check_packs(folder)
    assert reading.problems == ()
    library = PackLibrary(tmp_path / "packs")
    choice = Choice("my-brand_2", subject="orchard", variables={"season": "autumn"})
    composition = compose(library, choice, 0)
    assert composition.prompt == (
        "A photograph of an old orchard behind a dry stone wall in autumn, taken with a 35 mm lens "
        "in natural colours. Low morning sun comes in from the left and throws long, soft shadows."
    )


def test_the_page_for_beginners_shows_the_prompt_a_new_pack_makes(tmp_path: Path) -> None:
    skeleton("my-brand", tmp_path)
    page = Path(__file__).resolve().parents[2] / "docs" / "packs.md"
    prompt = compose(PackLibrary(tmp_path), Choice("my-brand"), 0).prompt
    assert prompt in " ".join(page.read_text(encoding="utf-8").split())


def test_the_schema_for_editors_lies_where_the_pack_says(tmp_path: Path) -> None:
    folder = skeleton("mine", tmp_path)
    assert '"$schema": "../pack.schema.json"' in (folder / "pack.json").read_text()
    assert (folder.parent / "pack.schema.json").is_file()


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    for name in ("My Pack", "", "../up", "-x", "x" * 65):
        with pytest.raises(InvalidRequestError, match="lower-case"):
            skeleton(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    with pytest.raises(InvalidRequestError, match="nothing is overwritten"):
        skeleton("mine", tmp_path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note"]


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, InvalidRequestError)):
        skeleton("mine", tmp_path / "file")
