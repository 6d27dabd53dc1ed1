"""`flux-mcp demo` as a person and as a script meets it: five tools, five images, one sheet."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from flux_mcp.models.registry import KINDS
from flux_mcp.server.demo import STORY
from flux_mcp.service.answers import DemoAnswer, SearchAnswer

from .processes import Cli, Ended

TOOLS = ["flux_generate", "flux_edit", "flux_fill", "flux_structural", "flux_variation"]


@dataclass(frozen=True)
class Told:
    cli: Cli
    as_json: Ended
    answer: DemoAnswer
    as_text: Ended


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Told:
    """The demonstration twice on one data folder: for a script, and for a person."""
    folder = tmp_path_factory.mktemp("demo")
    cli = Cli(folder / "data", weights_dir)
    as_json = cli("demo", "--json", "--sheet", str(folder / "sheet.png"))
    assert as_json.code == 0, as_json.err
    as_text = cli("demo")
    assert as_text.code == 0, as_text.err
    return Told(cli, as_json, DemoAnswer.model_validate(as_json.json), as_text)


def test_every_kind_is_drawn_by_its_tool_with_micro_in_one_session(told: Told) -> None:
    assert [chapter.tool for chapter in STORY] == TOOLS
    assert tuple(job.kind for job in told.answer.jobs) == KINDS
    for job in told.answer.jobs:
        assert (job.status, job.model, job.session) == ("completed", "micro", "demo")
        assert (job.quality, job.total_steps) == ("standard", 8)
        assert (job.images[0].width, job.images[0].height) == (128, 128)
        assert Path(job.images[0].path).is_file()


def test_every_other_image_is_made_of_the_first(told: Told) -> None:
    first, *others = (job.images[0] for job in told.answer.jobs)
    assert first.parents == ()
    assert [image.parents for image in others] == [(first.id,)] * 4


def test_only_the_hole_of_the_fill_is_drawn_again(told: Told) -> None:
    first, filled = (
        Image.open(told.answer.jobs[number].images[0].path).convert("RGB") for number in (0, 2)
    )
    box = STORY[2].more["mask"]["box"]
    inside = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    assert first.crop(inside).tobytes() != filled.crop(inside).tobytes()
    for picture in (first, filled):
        picture.paste("black", inside)
    assert first.tobytes() == filled.tobytes()


def test_the_sheet_is_an_image_of_all_of_them_where_it_was_asked_for(told: Told) -> None:
    assert told.answer.sheet == str(told.cli.data_dir.with_name("sheet.png"))
    default = told.cli.data_dir / "demo.png"
    with Image.open(told.answer.sheet) as sheet, Image.open(default) as other:
        assert sheet.format == "PNG"
        assert sheet.width > 5 * 256
        assert sheet.height > 256
        assert sheet.tobytes() == other.tobytes(), "the same story each time"


def test_a_script_gets_one_document_and_no_colours(told: Told) -> None:
    assert told.as_json.json == told.answer.model_dump(mode="json")
    assert "\x1b" not in told.as_json.out + told.as_json.err


def test_a_person_sees_every_tool_every_step_and_what_to_do_next(told: Told) -> None:
    for tool in TOOLS:
        assert f"{tool} " in told.as_text.err
        assert any(line.startswith(f"{tool} ") for line in told.as_text.out.splitlines())
    assert told.as_text.err.count("8/8 steps") == 5
    rows = [line for line in told.as_text.out.splitlines() if line.endswith(".png")]
    assert all(Path(line.split()[-1]).is_file() for line in rows)
    assert len(rows) == 6, "five images and the sheet"
    notes = [line for line in told.as_text.out.splitlines() if line.startswith("Note: ")]
    assert len(notes) == len(set(notes)) == 1, "what all of them say is said once"
    assert "micro" in notes[0]
    assert "doctor" in told.as_text.out


def test_the_command_it_names_draws_the_first_image_again(told: Told) -> None:
    line = next(line for line in told.as_text.out.splitlines() if " generate " in line)
    drawn = told.cli(*shlex.split(line)[1:], "--json")
    assert drawn.code == 0, drawn.err
    assert drawn.json["images"][0]["pixels_sha256"] == told.answer.jobs[0].images[0].pixels_sha256
    page = SearchAnswer.model_validate(told.cli("gallery", "search", "circle", "--json").json)
    assert told.answer.jobs[0].images[0] in page.images


def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_drawn(
    tmp_path: Path, weights_dir: Path
) -> None:
    cli = Cli(tmp_path / "data", weights_dir)
    ended = cli("demo", "--sheet", str(tmp_path / "none" / "sheet.png"))
    assert (ended.code, ended.out) == (1, "")
    assert "[storage] " in ended.err
    assert "--sheet" in ended.err
    assert "Traceback" not in ended.err
    assert not cli.data_dir.exists()
