"""A family of models is one record and one module; nothing else asks which family it is."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from flux_mcp.errors import InternalError
from flux_mcp.models.families import FAMILIES, PART_CLASSES, Family, PipelineClass
from flux_mcp.models.registry import load_registry
from flux_mcp.pipelines import families
from flux_mcp.pipelines.families.family import FamilyPipelines
from flux_mcp.settings.installation import PACKAGE_DIR

SHARED = {"adapter", "family"}
"""Modules of pipelines/families/ that all families use."""


def test_each_family_has_one_record_and_records_and_modules_name_each_other():
    assert tuple(FAMILIES) == get_args(Family)
    assert all(key == row.id for key, row in FAMILIES.items())
    modules = {module.name for module in pkgutil.iter_modules(families.__path__)} - SHARED
    assert {row.module for row in FAMILIES.values()} == modules


@pytest.mark.parametrize("row", FAMILIES.values(), ids=lambda row: row.id)
def test_a_family_draws_the_kinds_of_its_record(row):
    module = importlib.import_module(f"{families.__name__}.{row.module}")
    assert isinstance(module.FAMILY, FamilyPipelines)
    kinds = {*row.pipelines, "img2img"}
    assert set(module.FAMILY.adapters) == kinds
    assert row.negative_prompt_kinds <= kinds
    assert row.img2img.keys() == set(row.pipelines["text2img"])


def test_every_pipeline_and_every_family_is_used_by_a_row():
    rows = list(load_registry())
    assert {row.family for row in rows} == set(FAMILIES)
    classes = {
        name for row in FAMILIES.values() for some in row.pipelines.values() for name in some
    }
    assert classes == {row.pipeline for row in rows}
    drawing = {name for row in FAMILIES.values() for name in row.img2img.values()}
    assert classes | drawing == set(get_args(PipelineClass))


def test_a_class_is_loaded_in_one_way_in_all_families():
    for row in FAMILIES.values():
        assert all(PART_CLASSES[name] == part for name, part in row.part_classes.items())
        loaders = [part.loader for part in row.part_classes.values()]
        assert loaders.count("denoiser") == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pipeline": "Flux2Pipeline"}, "FLUX.1 draws text2img with FluxPipeline"),
        ({"takes_negative_prompt": True, "kind": "fill", "pipeline": "FluxFillPipeline"}, "negat"),
        ({"family": "flux2", "kind": "fill"}, "FLUX.2 has text2img, kontext, not fill"),
    ],
)
def test_a_row_that_its_family_cannot_draw_is_refused(tmp_path, changes, says):
    row = load_registry().find("text2img", "flux1-dev").model_dump(exclude_none=True) | changes
    lines = [f"{key} = {_toml(value)}" for key, value in row.items()]
    path = tmp_path / "models.toml"
    path.write_text("[[model]]\n" + "\n".join(lines), encoding="utf-8")
    with pytest.raises(InternalError, match=says):
        load_registry(path)


def _toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_no_other_module_of_the_package_compares_a_family_by_its_name():
    found = [
        f"{path.relative_to(PACKAGE_DIR)}:{line}"
        for path in sorted(PACKAGE_DIR.rglob("*.py"))
        if path != PACKAGE_DIR / "models" / "families.py"
        for line in _comparisons(path)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('if row.family == "flux2": pass', [1]),
        ('x = family in ("flux1", "micro")', [1, 1]),
        ('match family:\n case "micro":\n  pass', [2]),
        ('x = {"flux1": 1}[family]', [1]),
        ('x = rows["flux2"]', [1]),
        ('x = {"model": "micro"}', []),
    ],
)
def test_a_comparison_is_found_in_any_form(tmp_path, code, expected):
    path = tmp_path / "module.py"
    path.write_text(code, encoding="utf-8")
    assert list(_comparisons(path)) == expected


def _comparisons(path: Path) -> Iterator[int]:
    """Yield the lines on which a family's name decides something."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        deciding: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            deciding = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            deciding = [node.value]
        elif isinstance(node, ast.Dict):
            deciding = list(node.keys)
        elif isinstance(node, ast.Subscript):
            deciding = [node.slice]
        for one in deciding:
            for inner in ast.walk(one) if one is not None else ():
                if isinstance(inner, ast.Constant) and inner.value in FAMILIES:
                    yield inner.lineno
