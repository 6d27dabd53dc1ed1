"""What models weigh and how long they take, beside what others counted and measured."""

import pytest

from flux_mcp.models.memory import (
    Load,
    LoadedAs,
    Pieces,
    gpu_gib,
    on_gpu_gib,
    ram_gib,
    streamed_gib,
    transformer_gib,
)
from flux_mcp.models.parts import PLACEMENTS, load_parts
from flux_mcp.models.planning.speed import find_gpu, step_flops
from flux_mcp.models.registry import load_registry

REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev").pieces
SQUARE = Load(1024 * 1024 / 1e6)


@pytest.mark.parametrize(
    ("transformer", "pixels", "tflop"),
    [("flux1-12b", 1024**2, 74.38), ("flux2-32b", 1024**2, 282.6), ("flux1-12b", 2048**2, 418.1)],
)
def test_the_operations_of_a_step_are_those_torch_counts(transformer, pixels, tflop):
    assert step_flops(transformer, pixels / 1e6) / 1e12 == pytest.approx(tflop, rel=2e-3)


@pytest.mark.parametrize(
    ("precision", "measured_gib"), [("bf16", 36.2), ("int8", 21.5), ("nf4", 14.9)]
)
def test_peaks_of_a_resident_pipeline_are_near_those_measured(precision, measured_gib):
    """By others: an H100 (bf16, int8) and a 4090 (nf4), 1024x1024; without the context."""
    held = LoadedAs(precision, precision, "resident")
    ours = gpu_gib(DEV, held, SQUARE) - load_parts().machine.context_gib
    assert ours == pytest.approx(measured_gib, rel=0.08)


def test_a_whole_transformer_weighs_what_was_counted():
    assert transformer_gib(DEV, "bf16") == pytest.approx(22.17, abs=0.01)
    assert transformer_gib(DEV, "nf4") == pytest.approx(6.23, abs=0.01)


@pytest.mark.parametrize("spec", list(REGISTRY), ids=lambda spec: f"{spec.kind}-{spec.id}")
def test_each_placement_needs_no_more_of_the_gpu_than_the_one_before(spec):
    load = Load(spec.default_pixels / 1e6, spec.max_reference_images, spec.references_are_tokens)
    peaks = [gpu_gib(spec.pieces, LoadedAs("bf16", "bf16", p), load) for p in PLACEMENTS]
    assert peaks == sorted(peaks, reverse=True)


def test_what_is_not_on_the_gpu_waits_in_host_memory():
    base = load_parts().machine.base_ram_gib
    held = {p: LoadedAs("bf16", "bf16", p) for p in PLACEMENTS}
    assert ram_gib(DEV, held["resident"]) == base
    assert ram_gib(DEV, held["model_offload"]) == pytest.approx(base + 31.4, abs=0.1)
    # What stays on the GPU has a copy in host memory too: it leaves the GPU for nothing.
    assert ram_gib(DEV, held["group_offload"]) == ram_gib(DEV, held["model_offload"])
    assert on_gpu_gib(DEV, held["block_stream"]) < 1.5


def test_what_is_in_no_block_stays_on_the_gpu_where_blocks_stream():
    dev = Pieces("flux2-32b", (), "flux2")
    held = LoadedAs("bf16", "bf16", "block_stream")
    row = load_parts().transformer["flux2-32b"]
    outside = row.outside_m * 1e6 * 2 / 2**30
    in_flight = 2 * row.largest_block_m * 1e6 * 2 / 2**30
    assert on_gpu_gib(dev, held) == pytest.approx(outside + in_flight)
    whole = on_gpu_gib(dev, LoadedAs("bf16", "bf16", "model_offload"))
    assert streamed_gib(dev, held) == pytest.approx(whole - outside)


def test_images_references_and_batches_take_working_memory():
    held = LoadedAs("int8", "int8", "model_offload")
    alone = gpu_gib(DEV, held, SQUARE)
    assert gpu_gib(DEV, held, Load(SQUARE.megapixels, 1, references_are_tokens=True)) > alone
    assert gpu_gib(DEV, held, Load(SQUARE.megapixels, batch=4)) > alone
    assert gpu_gib(DEV, held, Load(4 * SQUARE.megapixels)) > alone


def test_tiles_bound_what_decoding_takes():
    four = Load(4 * SQUARE.megapixels)
    whole = gpu_gib(DEV, LoadedAs("nf4", "nf4", "block_stream"), four)
    tiled = gpu_gib(DEV, LoadedAs("nf4", "nf4", "block_stream", tile_px=512), four)
    assert whole > 19
    assert tiled < 6


@pytest.mark.parametrize(
    ("name", "memory_gib", "row"),
    [
        ("NVIDIA GeForce RTX 4090", 23.99, "RTX 4090"),
        ("NVIDIA GeForce RTX 5060 Ti", 15.9, "RTX 5060 Ti"),
        ("NVIDIA H200", 140, "H200"),
        (None, 24, "RTX 3090"),
        ("some GPU", 47, "RTX 5090"),
        (None, 4, "RTX 4060 Ti"),
    ],
)
def test_a_gpu_is_known_by_its_name_else_by_its_size(name, memory_gib, row):
    assert find_gpu(name, memory_gib).name == row


def test_every_number_of_a_part_names_its_source():
    parts = load_parts()
    tables = (parts.transformer, parts.text_encoder, parts.vae, parts.extra, parts.precision)
    for table in (*tables, parts.placement):
        assert all(row.source for row in table.values())
    assert all(row.source for row in parts.gpu)
