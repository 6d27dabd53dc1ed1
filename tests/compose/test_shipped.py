"""The packs that come with the server: right, useful, and in the wheel."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flux_mcp.compose.assemble import assemble
from flux_mcp.compose.checks import covering, one_by_one
from flux_mcp.compose.choices import Choice, parts_of
from flux_mcp.compose.composer import compose
from flux_mcp.compose.library import PackLibrary, check_packs
from flux_mcp.compose.manifest import SCHEMA_FILE, PackManifest, pack_schema, pack_schema_text
from flux_mcp.compose.packs import Pack
from flux_mcp.compose.reader import read_pack
from flux_mcp.errors import PromptRefusedError
from flux_mcp.models.registry import KINDS, load_registry
from flux_mcp.settings.installation import PACKAGE_DIR, default_packs_dir
from flux_mcp.settings.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
PACKS = REPOSITORY / "packs"
NAMES = ("blog-pin", "editorial-illustration", "micro-shapes", "product-shot")
MICRO_WORDS = """
a an of on in at the background center left right top bottom corner picture drawing image icon
small medium large circle square triangle star heart diamond cross ring
red orange yellow green cyan blue purple pink white black
"""


def models() -> Mapping[str, list[str]]:
    registry = load_registry()
    return {kind: list(registry[kind]) for kind in KINDS}


def pack_of(name: str) -> Pack:
    pack = read_pack(PACKS / name, models()).pack
    assert pack is not None
    return pack


def test_these_packs_are_shipped_and_every_check_passes() -> None:
    readings = check_packs(PACKS, models=models())
    assert tuple(reading.name for reading in readings) == NAMES
    assert [str(problem) for reading in readings for problem in reading.problems] == []


def test_a_shipped_pack_offers_enough_to_be_worth_having() -> None:
    for name in NAMES:
        pack = pack_of(name)
        assert len(pack.variables) >= 5, name
        assert len(pack.subject.choices) >= 5, name
        assert pack.forbidden, name
        for variable in pack.variables.values():
            assert len(variable.choices) >= 3 or variable.free_text, (name, variable.name)
            assert variable.description.endswith("."), (name, variable.name)
        assert all(row.reason and row.instead for row in pack.forbidden), name


def test_every_prompt_of_a_shipped_pack_is_one_tidy_line_of_moderate_length() -> None:
    for pack in map(pack_of, NAMES):
        for example in (*one_by_one(pack), *covering(pack)):
            prompt = assemble(parts_of(pack, example), woven=pack.woven).prompt
            assert "\n" not in prompt
            assert "{" not in prompt
            assert len(prompt.split()) <= 150, prompt


def test_defaults_alone_make_a_prompt() -> None:
    for name in NAMES:
        composition = compose(PackLibrary(PACKS), Choice(name), 0)
        assert (composition.audit.verdict, composition.notices) == ("pass", ()), name


def test_micro_is_asked_only_in_words_it_was_taught() -> None:
    pack = pack_of("micro-shapes")
    assert pack.defaults.model == "micro"
    for example in (*one_by_one(pack), *covering(pack)):
        prompt = assemble(parts_of(pack, example), woven=pack.woven).prompt
        assert set(prompt.split()) <= set(MICRO_WORDS.split()), prompt
        assert len(prompt.split()) < 31
    prompt = compose(PackLibrary(PACKS), Choice("micro-shapes"), 0).prompt
    assert prompt == "a large red circle on a blue background in the center"


def test_what_would_spoil_the_image_is_refused() -> None:
    library = PackLibrary(PACKS)
    for name, extra in (
        ("product-shot", "with people in the background"),
        ("product-shot", "a hand holds it"),
        ("product-shot", "with some text"),
        ("editorial-illustration", "with a speech bubble"),
        ("editorial-illustration", "drawn in the style of Banksy"),
        ("blog-pin", "with a paragraph of body text"),
        ("micro-shapes", "with people"),
    ):
        with pytest.raises(PromptRefusedError) as caught:
            compose(library, Choice(name, extra=extra), 0)
        assert caught.value.hint, extra


def test_a_movement_is_no_artist() -> None:
    choice = Choice("editorial-illustration", extra="drawn in the style of Art Deco posters")
    assert compose(PackLibrary(PACKS), choice, 0).audit.verdict == "pass"


def test_a_label_in_quotation_marks_is_allowed() -> None:
    choice = Choice("product-shot", subject="coffee-bag", variables={"label": "GOOD MORNING"})
    assert 'reads "GOOD MORNING"' in compose(PackLibrary(PACKS), choice, 0).prompt


def test_the_schema_for_editors_accepts_the_shipped_packs() -> None:
    schema: dict[str, Any] = json.loads((PACKS / SCHEMA_FILE).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in NAMES:
        manifest = json.loads((PACKS / name / "pack.json").read_text(encoding="utf-8"))
        validator.validate(manifest)
        assert manifest["$schema"] == f"../{SCHEMA_FILE}"
        assert not validator.is_valid({**manifest, "titel": "x"})


def test_the_schema_is_what_the_code_says() -> None:
    """If this fails: python scripts/build_reference.py."""
    assert (PACKS / SCHEMA_FILE).read_text(encoding="utf-8") == pack_schema_text()
    assert set(pack_schema()["properties"]) == {
        field.alias or name for name, field in PackManifest.model_fields.items()
    }


def test_every_key_of_pack_json_is_described_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "packs.md").read_text(encoding="utf-8")
    schema = pack_schema()
    shapes = [schema, *schema["$defs"].values()]
    for name in {key for shape in shapes for key in shape.get("properties", {})}:
        assert f"`{name}`" in page, name


def test_a_checkout_reads_its_own_packs_and_the_wheel_has_a_copy() -> None:
    assert default_packs_dir() == PACKS
    assert Settings().packs_dir == PACKS
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {"packs": f"{PACKAGE_DIR.name}/packs"}
    assert "packs" in targets["sdist"]["include"]
