"""Which formats a LoRA can be put on and taken off again: what the table says of it."""

import numpy as np
import pytest

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.formats import format_of, load_formats
from flux_mcp.pipelines.loras import adapters
from tests.models.lora_files import lokr_of
from tests.pipelines.harness import TINY

pytestmark = pytest.mark.usefixtures("torch_here")

MADE_ON_CPU = [
    name
    for name, row in load_formats().format.items()
    if "cpu" in row.drawn_on and not row.from_file_only
]


@pytest.fixture
def striped(put):
    return put("striped")


@pytest.fixture
def lokr(put):
    block = "lora_unet_double_blocks_0_img_attn"
    biases = {f"{block}_proj.diff_b": np.ones(128, np.float32)}
    return put(
        "lokr", lokr_of(f"{block}_qkv", 128, 384), lokr_of(f"{block}_proj", 128, 128), biases
    )


@pytest.fixture
def drawn(fresh, task_for):
    return lambda spec, *loras: fresh.pixels(task_for(spec, **TINY, loras=loras))


# Plain weights, quantised ones, GGUF; others of these three sorts are asked by `make torture`.
USUAL = ("fp32", "q8_0")
PRECISIONS = [*(name for name in MADE_ON_CPU if format_of(name).takes_loras), "q8_0", "q4_0"]


@pytest.mark.parametrize(
    "precision",
    [pytest.param(p, marks=[] if p in USUAL else [pytest.mark.torture]) for p in PRECISIONS],
)
def test_a_lora_and_a_lokr_change_the_image_and_leave_nothing_behind(
    drawn, micro, micro_gguf, striped, lokr, precision
):
    changes = {"precision": precision}
    if format_of(precision).method == "gguf":
        changes["gguf"] = micro_gguf(precision.upper())
    spec = micro.model_copy(update=changes)
    before = drawn(spec)
    with_lora = drawn(spec, striped)
    assert with_lora != before
    assert drawn(spec, striped, lokr) not in {before, with_lora}
    assert drawn(spec) == before
    assert drawn(spec, striped) == with_lora


def test_fp8_storage_refuses_one(drawn, micro, striped):
    with pytest.raises(UnsupportedOptionError, match="in fp8 take no LoRAs"):
        drawn(micro.model_copy(update={"precision": "fp8"}), striped)


def test_fp8_storage_could_not_draw_with_one(drawn, micro, striped, monkeypatch):
    """When this fails, formats.toml can say `takes_loras` for fp8."""
    monkeypatch.setattr(adapters, "require_takes_loras", lambda _precision: None)
    with pytest.raises((NotImplementedError, RuntimeError), match="Float8_e4m3fn"):
        drawn(micro.model_copy(update={"precision": "fp8"}), striped)
