"""What docs/packs.md and the README show of packs is what comes out."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.compose.audit import audit
from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import compose
from flux_mcp.compose.library import PackLibrary, check_packs
from flux_mcp.compose.skeleton import skeleton
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.prompts import compose_request
from flux_mcp.settings.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "packs.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BAKERY = "the window of a small bakery with fresh loaves"


@pytest.fixture
def brand(tmp_path: Path) -> Path:
    return skeleton("my-brand", tmp_path)


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for one, block in found if one == language]


def calls(page: str) -> list[dict[str, Any]]:
    return [json.loads(block) for block in blocks(page, "json") if block.startswith('{"pack"')]


def texts(call: dict[str, Any], library: PackLibrary) -> tuple[str, ...]:
    request = parse_request(GenerateRequest, call)
    assert request.pack is not None
    assert request.seed is not None
    return compose_request(
        request, library.find(request.pack.name), request.seed, refuse=True
    ).texts


def test_the_prompt_of_the_new_pack_is_the_one_shown(brand: Path) -> None:
    shown = blocks(PAGE, "")
    assert f"{compose(PackLibrary(brand.parent), Choice('my-brand'), 0).prompt}\n" in shown


def test_the_files_of_the_new_pack_are_those_shown(brand: Path) -> None:
    tree = next(block for block in blocks(PAGE, "") if block.startswith("my-brand/\n"))
    names = {line.split()[0].strip("/") for line in tree.splitlines()}
    assert names == {"my-brand", *(path.name for path in brand.rglob("*"))}


def test_what_the_page_adds_leaves_the_pack_right_and_forbids_people(brand: Path) -> None:
    (rows,) = [block for block in blocks(PAGE, "json") if block.startswith('"forbidden"')]
    facts = json.loads((brand / "pack.json").read_text(encoding="utf-8"))
    facts |= json.loads(f"{{{rows}}}")
    (brand / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    (fixed,) = [block for block in blocks(PAGE, "") if block.startswith("# A line like this")]
    (brand / "fixed_block.txt").write_text(fixed, encoding="utf-8")
    (light,) = [block for block in blocks(PAGE, "") if block.startswith("[morning]")]
    (brand / "variable_light.txt").write_text(light, encoding="utf-8")
    (brand / "subjects" / "bakery.txt").write_text(BAKERY, encoding="utf-8")
    assert f"`{BAKERY}`" in PAGE
    (reading,) = check_packs(brand)
    assert reading.problems == ()
    assert reading.pack is not None
    assert "our brand" in reading.pack.fixed.text
    (people,) = reading.pack.forbidden
    assert (people.pattern, people.instead) == ("people", "a quiet, deserted place")


def test_the_mistakes_shown_are_those_that_are_found(brand: Path) -> None:
    manifest = brand / "pack.json"
    text = manifest.read_text(encoding="utf-8")
    mistaken = text.replace('"default": "morning"', '"default": "mornign"')
    manifest.write_text(mistaken, encoding="utf-8")
    (brand / "subjects" / "bakery.txt").write_text(f"{BAKERY} in {{sesaon}}", encoding="utf-8")
    (reading,) = check_packs(brand)
    said = "".join(f"{problem}\n" for problem in reading.problems)
    assert said in blocks(PAGE, "")


def test_the_call_of_the_page_draws_lighthouses_in_light_that_varies(brand: Path) -> None:
    (call,) = calls(PAGE)
    drawn = texts(call, PackLibrary(brand.parent))
    assert len(drawn) == 4
    assert len(set(drawn)) == 2
    assert all("lighthouse" in text for text in drawn)


def test_call_and_command_of_the_readme_draw_the_same_four_colours() -> None:
    (call,) = calls(README)
    drawn = texts(call, PackLibrary(Settings().packs_dir, judge=audit))
    assert len(set(drawn)) == 4
    assert not any("white star" in text for text in drawn)
    (command,) = [
        line for line in "".join(blocks(README, "sh")).splitlines() if "--pack micro-shapes" in line
    ]
    _, _, *flags = shlex.split(command)
    given = list(zip(flags[::2], flags[1::2], strict=True))
    assert given == [
        ("--pack", call["pack"]["name"]),
        ("--subject", call["pack"]["subject"]),
        *(("--var", choice) for choice in call["pack"]["variables"]),
        ("--count", str(call["count"])),
        ("--seed", str(call["seed"])),
    ]
