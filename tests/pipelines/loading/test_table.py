"""formats.toml, parts.toml, the precisions of plans and the extras of the package say the same."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import gguf
import pytest

from flux_mcp.models.formats import format_of, load_formats, text_precision
from flux_mcp.models.parts import Precision, load_parts

REPOSITORY = Path(__file__).resolve().parents[3]
FORMATS = load_formats().format


def test_every_precision_of_a_plan_has_a_row_and_no_row_is_stale():
    assert set(FORMATS) == set(load_parts().precision) == set(get_args(Precision))


def test_every_extra_is_one_of_the_package_with_the_same_least_versions():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras, base = project["optional-dependencies"], project["dependencies"]
    for name, row in load_formats().extra.items():
        # What every installation has is no extra of the package.
        asked = extras.get(name) or [one for one in base if one.startswith(tuple(row.packages))]
        named = dict(re.split(">=", requirement) for requirement in asked)
        for package, least in row.packages.items():
            assert least.startswith(named[package]), (name, package)
    assert {row.extra for row in FORMATS.values()} <= {None, *load_formats().extra}


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.method == "gguf"])
def test_a_block_type_takes_the_bytes_that_gguf_says(name):
    row = FORMATS[name]
    block_size, type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[row.recipe]]
    told = load_parts().precision[name].bytes_per_parameter
    assert told == pytest.approx(type_size / block_size, abs=1e-4)
    assert name == row.recipe.lower()
    assert row.from_file_only


def test_what_a_row_is_worked_with_in_is_a_precision_of_its_own():
    for row in FORMATS.values():
        assert format_of(row.compute).method == "plain"
        assert format_of(row.compute).compute == row.compute


def test_a_row_is_proven_only_where_it_may_run():
    for name, row in FORMATS.items():
        assert row.drawn_on <= row.devices, name
        assert not (row.blocked and row.drawn_on), name


def test_a_text_encoder_is_held_in_16_bit_unless_the_row_says_otherwise(micro):
    def held(**changes):
        return text_precision(micro.model_copy(update=changes))

    assert held() == "fp32"
    assert held(precision="fp16") == "fp16"
    assert held(precision="q4_k") == held(precision="nf4") == held(precision="fp8") == "bf16"
    assert held(precision="bf16", text_precision="int8") == "int8"
