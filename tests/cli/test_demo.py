"""`flux-mcp demo` as a person and as a script meets it: five tools, five images, one sheet."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_mcp.cli.demo import print_demo
from flux_mcp.images.masks import default_feather_px
from flux_mcp.models.registry import ROW_KINDS
from flux_mcp.requests.geometry import Rectangle
from flux_mcp.server.demo import STORY
from flux_mcp.service.answers import DemoAnswer, JobAnswer, SearchAnswer
from tests.e2e.light import light_worker

from .processes import Cli, Ended

TOOLS = ["flux_generate", "flux_edit", "flux_fill", "flux_structural", "flux_variation"]


@dataclass(frozen=True)
class Told:
    cli: Cli
    ended: Ended
    answer: DemoAnswer


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Told:
    """The demonstration, once for every test that looks at it."""
    folder = tmp_path_factory.mktemp("demo")
    cli = Cli(folder / "data", weights_dir)
    ended = cli("demo", "--json")
    assert ended.code == 0, ended.err
    return Told(cli, ended, DemoAnswer.model_validate(ended.json))


@pytest.fixture
def printed(told: Told, capsys: pytest.CaptureFixture[str]) -> str:
    """The same answer as a person sees it: what is made on stdout, notes on stderr."""
    print_demo(told.answer)
    return "".join(capsys.readouterr())


def test_every_kind_is_drawn_by_its_tool_with_micro_in_one_session(told: Told) -> None:
    assert [chapter.tool for chapter in STORY] == TOOLS
    assert tuple(job.kind for job in told.answer.jobs) == ROW_KINDS
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
    soft_px = default_feather_px([Rectangle(box["x"], box["y"], box["width"], box["height"])])
    assert soft_px > 0
    left, top, right, bottom = inside
    for image in (first, filled):
        image.paste("black", (left - soft_px, top - soft_px, right + soft_px, bottom + soft_px))
    assert first.tobytes() == filled.tobytes()


def test_the_sheet_is_an_image_of_all_of_them_in_the_data_folder(told: Told) -> None:
    assert told.answer.sheet == str(told.cli.data_dir / "demo.png")
    with Image.open(told.answer.sheet) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 5 * 256
        assert sheet.height > 256


def test_the_sheet_is_where_it_was_asked_for(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told_already(*_: Any) -> tuple[JobAnswer, ...]:
        return told.answer.jobs

    # The images of the story are there; only what becomes of them is looked at.
    monkeypatch.setattr("flux_mcp.cli.demo.tell_story", told_already)
    named = tmp_path / "sheet.png"
    ended = told.cli("demo", "--json", "--sheet", str(named))
    assert (ended.code, ended.json["sheet"]) == (0, str(named)), ended.err
    assert named.read_bytes() == Path(told.answer.sheet).read_bytes()


def test_a_script_gets_one_document_and_no_colours(told: Told) -> None:
    assert told.ended.json == told.answer.model_dump(mode="json")
    assert "\x1b" not in told.ended.out + told.ended.err


def test_a_person_sees_every_tool_every_step_and_what_to_do_next(told: Told, printed: str) -> None:
    for tool in TOOLS:
        assert f"{tool} " in told.ended.err
        assert any(line.startswith(f"{tool} ") for line in printed.splitlines())
    assert told.ended.err.count("8/8 steps") == 5
    rows = [line for line in printed.splitlines() if line.endswith(".png")]
    assert all(Path(line.split()[-1]).is_file() for line in rows)
    assert len(rows) == 6, "five images and the sheet"
    notes = [line for line in printed.splitlines() if line.startswith("Note: ")]
    assert len(notes) == len(set(notes)) == 1, "what all of them say is said once"
    assert "micro" in notes[0]
    assert "doctor" in printed


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.torture)])
def test_the_command_it_names_draws_the_first_image_again(
    told: Told, printed: str, *, is_real: bool
) -> None:
    line = next(line for line in printed.splitlines() if " generate " in line)
    # What is drawn with a plan is decided by the plan; a light worker is enough to compare those.
    again = told.cli(*shlex.split(line)[1:], **({} if is_real else light_worker(holds=False)))
    assert again.code == 0, again.err
    path, facts = again.out.splitlines()
    assert Path(path).is_file()
    image_id = Path(path).stem
    first = told.answer.jobs[0].images[0]
    assert facts.split()[:4] == [image_id, "128x128", "seed", str(first.seed)]
    assert "Note: micro is a demo" in again.err
    shown = told.cli("gallery", "show", image_id, "--json").json
    assert shown["plan"] == told.cli("gallery", "show", first.id, "--json").json["plan"]
    assert (shown["pixels_sha256"] == first.pixels_sha256) == is_real
    assert shown["path"] == path
    page = SearchAnswer.model_validate(told.cli("gallery", "search", "circle", "--json").json)
    assert first in page.images


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
