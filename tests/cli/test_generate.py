"""`flux-mcp generate`: one command with everything in it, and its images looked at in every way."""

import re
from pathlib import Path

import pytest

from flux_mcp.service.answers import CancelAnswer, JobAnswer, QueueAnswer, SearchAnswer
from tests.e2e.light import light_worker
from tests.models.hub_server import HubServer
from tests.models.lora_files import pair, put_striped, write
from tests.models.pulls import SCHNELL, alone, micro_files

from .processes import Cli, Drawn

SHAPES = "micro-shapes"
EXTRA = "in [red] [/] 青い丸 :car: style"
CHOSEN = (
    SHAPES, "--subject", "star", "--var", "colour=*", "--var", "background=white",
    "--extra", EXTRA, "--count", "2", "--seed", "3",
)  # fmt: skip
"""The pack and what was chosen in it, with words that a terminal could take for markup."""
SESSION = "[/bold] one"


@pytest.fixture(scope="module")
def drawn(
    running_hub: HubServer, tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> Drawn:
    """Two images with a pack and LoRAs, from weights as a pull leaves them."""
    folder = tmp_path_factory.mktemp("generate")
    cli = Cli(folder / "data", weights_dir)
    running_hub.clear()
    running_hub.add(SCHNELL, micro_files())
    pulled = cli("models", "pull", "flux1-schnell", "--yes", **alone(running_hub, folder))
    assert pulled.code == 0, pulled.err
    weights = cli("models", "info", "flux1-schnell", "--json").json["folder"]
    (folder / "pulled" / "micro").mkdir(parents=True)
    (folder / "pulled" / "micro" / "text2img").symlink_to(weights)
    put_striped(cli.data_dir / "loras")
    write(cli.data_dir / "loras" / "b.safetensors", pair("transformer.x_embedder", 32, 128))
    ended = cli.process(
        "generate", "--pack", *CHOSEN, "--lora", "striped:0.5", "--lora", "b",
        "--width", "64", "--height", "64", "--steps", "2", "--session", SESSION, "--json",
        "--model", "micro", FLUX_MCP_WEIGHTS_DIR=str(folder / "pulled"),
        **light_worker(holds=False),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return Drawn(cli, ended, JobAnswer.model_validate(ended.json))


def test_generate_prints_one_json_document_and_reports_progress_beside_it(drawn: Drawn) -> None:
    assert drawn.answer.status == "completed"
    assert drawn.ended.json == drawn.answer.model_dump(mode="json")
    assert len(drawn.answer.images) == 2
    for image in drawn.answer.images:
        assert Path(image.path).read_bytes()[:4] == b"\x89PNG"
        assert Path(image.path).is_relative_to(drawn.cli.data_dir)
        assert [(lora.name, lora.weight) for lora in image.loras] == [("b", 1.0), ("striped", 0.5)]
    assert "denoising" in drawn.ended.err
    assert "\x1b" not in drawn.ended.out + drawn.ended.err, "no colours where nobody looks"


def test_a_job_is_shown_as_it_was_answered(drawn: Drawn) -> None:
    job_id = drawn.answer.job_id or ""
    assert drawn.cli("jobs", "show", job_id, "--json").json == drawn.ended.json
    text = drawn.cli("jobs", "show", job_id)
    assert text.code == 0
    assert re.search(r"^status +completed$", text.out, re.MULTILINE)
    assert drawn.answer.images[0].path in text.out
    for image in drawn.answer.images:
        assert f"  {image.prompt}\n" in text.out, "brackets and colons are not markup"
    assert re.search(rf"^pack +{SHAPES} 1\.0\.0$", text.out, re.MULTILINE)


def test_an_ended_job_is_listed_with_all_and_not_without(drawn: Drawn) -> None:
    assert "Nothing runs and nothing waits" in drawn.cli("jobs", "list").out
    assert QueueAnswer.model_validate(drawn.cli("jobs", "list", "--json").json).jobs == ()
    listed = drawn.cli("jobs", "list", "--all")
    assert listed.code == 0, listed.err
    assert drawn.answer.job_id in listed.out
    assert drawn.ended.json in drawn.cli("jobs", "list", "--all", "--json").json["jobs"]


def test_an_image_is_found_by_its_words_and_shown(drawn: Drawn) -> None:
    first, second = drawn.answer.images
    found = drawn.cli("gallery", "search", "star", "--session", SESSION)
    assert found.out.startswith(f"{second.id}  64x64  micro  seed 4  ")
    page = SearchAnswer.model_validate(drawn.cli("gallery", "search", "star", "--json").json)
    assert page.images == (second, first)
    shown = drawn.cli("gallery", "show", first.id)
    assert shown.out.splitlines()[0] == first.path
    assert re.search(r"^plan +steps 2, .*size 64x64$", shown.out, re.MULTILINE)
    assert first.pixels_sha256 in shown.out


def test_a_search_without_hits_says_what_to_try(drawn: Drawn) -> None:
    found = drawn.cli("gallery", "search", "zebra")
    assert (found.code, found.out) == (
        0,
        "No image fits. Every word must occur in the prompt; try fewer.\n",
    )


def test_cancelling_an_ended_job_changes_nothing(drawn: Drawn) -> None:
    job_id = drawn.answer.job_id or ""
    assert drawn.cli("jobs", "cancel", job_id).out == f"{job_id}  had ended before\n"
    answer = CancelAnswer.model_validate(drawn.cli("jobs", "cancel", job_id, "--json").json)
    assert answer.already_final == (job_id,)


def test_generate_draws_with_a_pack_what_compose_prints(drawn: Drawn) -> None:
    prompts = [image.prompt for image in drawn.answer.images]
    composed = drawn.cli("packs", "compose", *CHOSEN)
    assert prompts == composed.out.splitlines()
    assert len(set(prompts)) == 2
    assert drawn.answer.pack == f"{SHAPES} 1.0.0"


def test_an_image_is_shown_with_what_its_prompt_is_made_of(drawn: Drawn) -> None:
    image = drawn.answer.images[1]
    colour = image.prompt.split()[2]
    shown = drawn.cli("gallery", "show", image.id).out
    about = shown.partition(f"\n\nComposed by the pack {SHAPES} 1.0.0:\n")[2].splitlines()
    rows = [re.split(r"  +", line.strip()) for line in about]
    fixed = image.prompt.removesuffix(f", {EXTRA}")
    assert ["fixed", "fixed_block.txt", fixed] in rows
    assert ["{subject}", "subjects/star.txt", "star"] in rows
    assert ["{colour}", f"pack.json (colour: {colour})", colour] in rows
    assert ["extra", "argument extra", EXTRA] in rows
    assert about[-1].strip() == "drawn by the seed: colour"
    kept = drawn.cli("gallery", "show", image.id, "--json").json
    assert kept["composed"]["blocks"][0]["text"] == fixed
