"""What the libraries are told, also for what only a GPU can hold."""

import importlib

import pytest

from flux_mcp.models.formats import load_formats
from flux_mcp.pipelines.loading.quantisers import compute_dtype, configuration
from flux_mcp.pipelines.loading.slots import nbytes_of

pytestmark = pytest.mark.usefixtures("torch_here")

FORMATS = load_formats().format


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
@pytest.mark.parametrize("name", [n for n, row in FORMATS.items() if row.method == "torchao"])
def test_torchao_is_told_the_rows_own_configuration(name, library):
    made = configuration(importlib.import_module(library), FORMATS[name])
    assert type(made.quant_type).__name__ == FORMATS[name].recipe


def test_fp8_arithmetic_has_a_scale_for_each_row_and_int4_the_packing_of_torch():
    import diffusers
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    fp8 = configuration(diffusers, FORMATS["fp8dq"]).quant_type
    assert fp8.activation_value_lb is None
    assert {type(each) for each in fp8.granularity} == {PerRow}
    int4 = configuration(diffusers, FORMATS["int4"]).quant_type
    assert int4.int4_packing_format == Int4PackingFormat.TILE_PACKED_TO_4D


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_bitsandbytes_is_told_nf4_worked_with_in_16_bit(library):
    if library == "diffusers":  # it asks for the package's version at once
        pytest.importorskip("bitsandbytes")
    made = configuration(importlib.import_module(library), FORMATS["nf4"])
    assert made.load_in_4bit
    assert not made.load_in_8bit
    assert made.bnb_4bit_quant_type == "nf4"
    assert made.bnb_4bit_compute_dtype == compute_dtype("bf16")


def test_numbers_of_torch_itself_need_no_configuration():
    import diffusers

    plain = [row for row in FORMATS.values() if row.method in {"plain", "casting"}]
    assert [configuration(diffusers, row) for row in plain] == [None] * len(plain)


def test_a_packed_tensor_takes_what_is_inside_of_it():
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    linear = torch.nn.Linear(256, 128, bias=False, dtype=torch.bfloat16)
    assert nbytes_of(linear.weight) == 256 * 128 * 2
    quantize_(linear, Int8WeightOnlyConfig())
    assert 256 * 128 <= nbytes_of(linear.weight) < 256 * 128 * 1.1
