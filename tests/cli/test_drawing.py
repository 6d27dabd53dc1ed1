"""The drawing commands: the same requests as the tools make, files of the caller, and files out."""

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from mcp import Client
from PIL import Image

from flux_mcp.cli.arguments import as_data
from flux_mcp.cli.commands.drawing import PLAIN, SHAPED, flags_of
from flux_mcp.cli.generate import requests_of, wanted_images
from flux_mcp.cli.output_files import OutputFlags
from flux_mcp.errors import (
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
    RequestError,
)
from flux_mcp.models.registry import KIND_NAMES, Kind
from flux_mcp.requests.plan import as_asked
from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.requests.validation import parse_request
from flux_mcp.server.app import build_server
from flux_mcp.service.answers import DryRunAnswer, ImageAnswer, JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.calls import SOMEBODY, job
from tests.e2e.light import light_worker
from tests.server.images import keep_image, noise

from .processes import Cli

BOX = {"x": 8, "y": 16, "width": 32, "height": 24}
TOOL_OF: dict[Kind, str] = {
    "text2img": "flux_generate",
    "kontext": "flux_edit",
    "fill": "flux_fill",
    "redux": "flux_variation",
    "control": "flux_structural",
}
NOT_FLAGS = {"preview", "wait_s"}
"""Of results inside a message, which a command does not make."""
SHAPED_AS = {
    "prompt": {"prompt"},
    "pack": {"pack", "subject", "variable", "extra"},
    "loras": {"lora"},
    "images": {"image"},
    "mask": {"mask", "box", "words", "pick", "mask_json"},
}


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Outside of every folder that callers over MCP may read from."""
    path = tmp_path / "mine" / "a picture.png"
    path.parent.mkdir()
    Image.linear_gradient("L").resize((96, 96)).convert("RGB").save(path)
    return path


# --- the same request --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DRAW_REQUESTS)
def test_every_argument_of_a_tool_is_a_flag_of_its_command(kind: Any) -> None:
    flags = {one.name for one in flags_of(KIND_NAMES[kind])}
    published = {
        name
        for name in DRAW_REQUESTS[kind].model_json_schema()["properties"]
        if name not in NOT_FLAGS
    }
    for name in published:
        assert SHAPED_AS.get(name, {name}) <= flags, name
    plain_names = {one.name for one in PLAIN if one.is_of(KIND_NAMES[kind])}
    assert plain_names <= DRAW_REQUESTS[kind].model_fields.keys()
    assert len({one.name for one in SHAPED} & plain_names) == 0


def same_calls(at: str) -> dict[Kind, tuple[dict[str, Any], tuple[str, ...]]]:
    """Return a call of each tool, and the command that means the same."""
    return {
        "text2img": (
            {"prompt": "a circle", "seed": 0, "count": 2, "aspect_ratio": "16:9"},
            ("a circle", "--seed", "0", "--count", "2", "--aspect-ratio", "16:9"),
        ),
        "kontext": (
            {"prompt": "make it red", "images": [at], "seed": 0, "quality": "low"},
            ("make it red", "--image", at, "--seed", "0", "--quality", "low"),
        ),
        "fill": (
            {
                "prompt": "a square", "image": at, "mask": {"box": BOX}, "seed": 0,
                "invert": True, "feather_px": 0,
            },
            (
                "a square", "--image", at, "--box", "8,16,40,40", "--seed", "0", "--invert",
                "--feather-px", "0",
            ),
        ),
        "redux": (
            {
                "images": [{"image": at, "weight": 0.5}, {"image": at, "weight": 1}], "seed": 0,
                "likeness": 0.7,
            },
            (
                "--image", at, "--image", at, "--weight", "0.5", "--weight", "1", "--seed", "0",
                "--likeness", "0.7",
            ),
        ),
        "control": (
            {"prompt": "a star", "image": at, "structure": "canny", "seed": 0, "steps": 3},
            ("a star", "--image", at, "--structure", "canny", "--seed", "0", "--steps", "3"),
        ),
    }  # fmt: skip


def test_a_command_plans_what_its_tool_plans(cli: Cli, picture: Path) -> None:
    calls = same_calls(str(picture))
    assert calls.keys() == DRAW_REQUESTS.keys()

    async def planned(_: Service) -> dict[Kind, DryRunAnswer]:
        settings = Settings(
            data_dir=cli.data_dir, weights_dir=cli.weights_dir, allowed_dirs=[picture.parent]
        )
        service = Service(settings, executes=False)
        await service.open()
        try:
            return {
                kind: await service.dry_run(parse_request(request, calls[kind][0]))
                for kind, request in DRAW_REQUESTS.items()
            }
        finally:
            await service.close()

    over_mcp = cli.prepare(planned)
    for kind, (_, words) in calls.items():
        ended = cli(KIND_NAMES[kind], *words, "--dry-run", "--json")
        assert ended.code == 0, ended.err
        answer = DryRunAnswer.model_validate(ended.json)
        assert answer.plan == over_mcp[kind].plan, kind
        assert answer.notices == over_mcp[kind].notices, kind


@pytest.mark.torture
def test_a_command_draws_what_its_tool_draws(cli: Cli, picture: Path) -> None:
    calls = same_calls(str(picture))
    drawn: dict[Kind, list[str]] = {}
    for kind, (_, words) in calls.items():
        ended = cli(KIND_NAMES[kind], *words, "--json")
        assert ended.code == 0, ended.err
        answer = JobAnswer.model_validate(ended.json)
        drawn[kind] = [image.pixels_sha256 for image in answer.images]
        assert drawn[kind]

    async def over_mcp() -> dict[Kind, list[str]]:
        settings = Settings(
            data_dir=cli.data_dir, weights_dir=cli.weights_dir, allowed_dirs=[picture.parent]
        )
        service = Service(settings)
        await service.open()
        found = {}
        try:
            async with Client(build_server(service), client_info=SOMEBODY) as client:
                for kind, (arguments, _) in calls.items():
                    tool = TOOL_OF[kind]
                    answer = await job(client, tool, **arguments, wait_s=200)
                    stored = await service.describe_job(await service.find_job(answer.job_id))
                    found[kind] = [image.pixels_sha256 for image in stored.images]
        finally:
            await service.close()
        return found

    assert asyncio.run(over_mcp()) == drawn


# --- files of the caller -----------------------------------------------------------------------


def test_a_file_is_read_wherever_it_lies_for_the_command_line_alone(
    cli: Cli, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    (tmp_path / "link").symlink_to(picture)
    plans = [
        cli("edit", "red", "--image", one, "--seed", "1", "--dry-run", "--json").json["plan"]
        for one in (picture.name, f"./{picture.name}", str(tmp_path / "link"), picture.as_uri())
    ]
    assert all(plan["inputs"] == plans[0]["inputs"] for plan in plans)

    async def refused(service: Service) -> None:
        request = DRAW_REQUESTS["kontext"]
        with pytest.raises(PathNotAllowedError):
            await service.dry_run(
                parse_request(request, {"prompt": "red", "images": [str(picture)]})
            )

    cli.prepare(refused)


@pytest.mark.parametrize(
    "reference",
    [
        *("img_abc", "flux://images/img_abc", "latest", "latest:one", "clipboard"),
        *("newest in Pictures", "https://example.org/a.png", "data:image/png;base64,AAEC"),
    ],
)
def test_what_names_no_file_is_left_to_the_service(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("latest", "clipboard", "Pictures"):
        (tmp_path / name).write_bytes(b"a file of that name")
    assert as_data(reference, 1000) == reference
    if "/" not in reference and (tmp_path / reference).exists():
        assert as_data(f"./{reference}", 1000).startswith("data:"), "named with its folder"


def test_the_newest_file_of_a_folder_is_read_wherever_that_lies(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = as_data(str(picture), 10**6)
    monkeypatch.setenv("HOME", str(picture.parent.parent))
    monkeypatch.chdir(picture.parent)
    for folder in (str(picture.parent), "~/mine", ".", "../mine"):
        assert as_data(f"newest in {folder}", 10**6) == whole
        assert "is 'a picture.png', changed " in capsys.readouterr().err
    with pytest.raises(RequestError, match="no image file"):
        as_data("newest in ..", 10**6)
    with pytest.raises(RequestError, match="cannot be read"):
        as_data("newest in ./" + "x" * 300, 10**6)


def test_commands_and_tools_take_latest_and_beginnings_of_ids(cli: Cli, tmp_path: Path) -> None:
    async def kept(service: Service) -> list[str]:
        rows = [
            await keep_image(
                service, noise(64, 64, n), 64, 64, id=f"img_{n}bcdefgh", job_id=f"j{n}"
            )
            for n in range(2)
        ]
        return [row.id for row in rows]

    first, newest = cli.prepare(kept)
    planned = cli("vary", "--image", "latest", "--image", "img_0bcd", "--dry-run", "--json").json
    assert [one["image_id"] for one in planned["plan"]["inputs"]] == [newest, first]
    assert any(one.startswith(f"latest is {newest} (") for one in planned["notices"])
    (tmp_path / "prompts").write_text("a\nb\n")
    lines = ("edit", "--prompts", str(tmp_path / "prompts"), "--dry-run", "--json")
    assert len(cli(*lines, "--image", newest).json["plans"]) == 2
    refused = cli(*lines, "--image", "latest")
    assert refused.code == 2
    assert "another image for each line" in refused.err


@pytest.mark.parametrize("reference", ["gone.png", "./gone", "/gone/too", "a\0b.png"])
def test_a_file_that_is_not_there_is_named(reference: str) -> None:
    with pytest.raises(InvalidRequestError, match="There is no file"):
        as_data(reference, 1000)


def test_a_folder_and_a_file_that_is_too_large_are_refused(picture: Path) -> None:
    with pytest.raises(InvalidImageError, match="not a regular file"):
        as_data(f"{picture.parent}/", 1000)
    with pytest.raises(RequestError):
        as_data(str(picture), 10)


# --- flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "given", "says"),
    [
        ("fill", {"prompt": "x", "box": "1,2,3"}, "X0,Y0,X1,Y1"),
        ("fill", {"prompt": "x", "box": "a,b,c,d"}, "X0,Y0,X1,Y1"),
        ("fill", {"prompt": "x", "box": "1,2,3,4", "mask_json": "{}"}, "the whole mask"),
        ("fill", {"prompt": "x", "mask_json": "{"}, "not JSON"),
        ("vary", {"image": ["img_a"], "weight": [1.0, 2.0]}, "1 images and 2 weights"),
        ("vary", {"weight": [1.0]}, "--weight goes with --image"),
        ("edit", {"image": ["img_a"]}, "either a prompt or --pack"),
        ("generate", {"prompt": "x", "subject": "y"}, "no --pack"),
        ("generate", {"prompt": "x", "prompts": "f"}, "one of a prompt"),
        ("generate", {"prompts": "f", "idempotency_key": "k"}, "of one job"),
        ("generate", {"prompts": "/no/such/file"}, "cannot be read"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    settings: Settings, command: str, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        requests_of(settings, command, given)


def test_a_mask_in_json_is_the_mask_of_the_tools(settings: Settings) -> None:
    common = {"prompt": "x", "image": "img_a"}
    given = requests_of(settings, "fill", {**common, "mask_json": json.dumps({"box": BOX})})
    tool = parse_request(DRAW_REQUESTS["fill"], {**common, "mask": {"box": BOX}})
    assert [as_asked(one) for one in given] == [as_asked(tool)]


def test_words_of_a_mask_are_the_words_of_the_tools(settings: Settings) -> None:
    common = {"prompt": "x", "image": "img_a"}
    given = requests_of(settings, "fill", {**common, "words": "the red car", "pick": "2"})
    mask = {"words": "the red car", "pick": 2}
    tool = parse_request(DRAW_REQUESTS["fill"], {**common, "mask": mask})
    assert [as_asked(one) for one in given] == [as_asked(tool)]
    with pytest.raises(InvalidRequestError, match="threshold and pick"):
        requests_of(settings, "fill", {**common, "pick": "2"})


def test_prompts_are_one_job_a_line_and_a_wrong_line_is_numbered(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa circle\r\n\r\n  a star \n".encode())
    requests = requests_of(settings, "generate", {"prompts": str(file), "seed": 0})
    assert [(one.prompt, one.seed) for one in requests] == [("a circle", 0), ("a star", 0)]
    file.write_text(f"a circle\n{'x' * 20_000}\n")
    with pytest.raises(RequestError, match="Line 2: prompt"):
        requests_of(settings, "generate", {"prompts": str(file)})
    file.write_text(" \n")
    with pytest.raises(InvalidRequestError, match="no line"):
        requests_of(settings, "generate", {"prompts": str(file)})


# --- files out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (OutputFlags(Path("a.gif"), None), "no format"),
        (OutputFlags(Path("a.png"), 50), "no quality"),
        (OutputFlags(Path("a.jpg"), 0), "1 to 100"),
        (OutputFlags(Path("no-such-folder/a.png"), None), "no folder"),
        (OutputFlags(None, 50), "go with --output"),
        (OutputFlags(None, None, force=True), "go with --output"),
        (OutputFlags(Path("there.png"), None), "is there"),
        (OutputFlags(Path("dangling.png"), None), "is there"),
    ],
)
def test_what_could_not_be_written_is_refused_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: OutputFlags, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.png").touch()
    Path("dangling.png").symlink_to("nowhere")
    with pytest.raises(InvalidRequestError, match=says):
        flags.check(1)


def test_a_batch_from_a_file_is_written_numbered_and_a_second_time_refused(
    cli: Cli, tmp_path: Path
) -> None:
    """One process for it all: drawn from files, in another format, with numbers."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a circle\na star\n")
    out = tmp_path / "out.webp"
    words = (
        "generate", "--prompts", str(prompts), "--output", str(out), "--width", "64",
        "--height", "64", "--steps", "2", "--json",
    )  # fmt: skip
    ended = cli.process(*words, "--output-quality", "80", **light_worker(holds=False))
    assert ended.code == 0, ended.err
    answers = [JobAnswer.model_validate(one) for one in ended.json["jobs"]]
    assert [answer.prompt for answer in answers] == ["a circle", "a star"]
    for number in (1, 2):
        with Image.open(tmp_path / f"out-{number}.webp") as written:
            assert (written.format, written.size) == ("WEBP", (64, 64))
    assert not out.exists()

    async def told(service: Service) -> list[bool]:
        return [one.id_given for one in await service.recent_jobs(9)]

    assert cli.prepare(told) == [True, True], "`latest` in the same command means them now"
    refused = cli(*words)
    assert (refused.code, refused.json["error"]["code"]) == (2, "invalid_request")
    assert "out-1.webp is there" in refused.err

    # Of the same images: a PNG keeps its bytes, a viewer is opened, a file replaced with --force.
    image = answers[0].images[0]
    flags = OutputFlags(tmp_path / "a.png", None, open=True)
    with patch("typer.launch") as viewer:
        flags.deliver([image])
    viewer.assert_called_once_with(str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == Path(image.path).read_bytes()
    with pytest.raises(InvalidRequestError, match="is in the gallery"):
        OutputFlags(tmp_path / "a.png", None).deliver([image])
    (tmp_path / "a.png").write_bytes(b"old")
    OutputFlags(tmp_path / "a.png", None, force=True).deliver([image])
    assert (tmp_path / "a.png").read_bytes() == Path(image.path).read_bytes()
    assert sorted(one.name for one in tmp_path.glob("*.png")) == ["a.png"]


# --- upscaling ---------------------------------------------------------------------------------


def test_upscale_takes_a_file_and_says_what_it_would_do(cli: Cli, picture: Path) -> None:
    words = ("upscale", str(picture), "--factor", "4", "--upscaler")
    ended = cli(*words, "lanczos", "--dry-run")
    assert "Would upscale the image to 384x384 with lanczos in 1 tile." in ended.out
    assert "only interpolates" in ended.err
    plan = cli(*words, "micro-upscaling", "--dry-run", "--json").json["plan"]
    assert (plan["kind"], plan["upscale"]["factor"]) == ("upscale", 4)
    for more, code in (((), 1), (("--upscaler", "no-such"), 2), (("--factor", "3"), 2)):
        assert cli("upscale", str(picture), *more, "--dry-run").code == code
    also = cli("generate", "a star", "--upscale", "2", "--upscaler", "lanczos", "--dry-run")
    assert "upscaled 2 times to 256x256 by lanczos" in also.err
    assert cli("models", "plan", "--kind", "upscale").code == 2


def test_of_an_image_that_was_upscaled_besides_the_larger_is_written() -> None:
    facts = dict.fromkeys(
        ("uri", "path", "thumbnail_uri", "model", "prompt", "sha256", "pixels_sha256", "job_id"), ""
    )
    numbers = dict.fromkeys(("width", "height", "seed", "seconds"), 1)
    more = {"licence": "mit", "created_at": "", "kind": "text2img"}
    one = ImageAnswer(id="img_a", parents=("img_0",), **facts, **numbers, **more)
    larger = one.model_copy(update={"id": "img_b", "parents": ("img_a",)})
    assert wanted_images([one, larger]) == [larger]
    assert wanted_images([one]) == [one]
