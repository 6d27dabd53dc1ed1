"""Weights of every format, and FLUX.2, draw the same in every placement; the CPU is the GPU."""

import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.formats import format_of, load_formats
from flux_mcp.models.hub.cache import require_snapshot
from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import list_parts
from tests.pipelines.harness import AMPLE_BYTES, Studio, image
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 64, "height": 64, "steps": 2}
FORMATS = [
    *(
        name
        for name, row in load_formats().format.items()
        if "cpu" in row.drawn_on and not row.from_file_only
    ),
    "q8_0",
    "q4_0",
]


@pytest.fixture
def on_gpu(settings):
    return Studio(settings, gpu_bytes=AMPLE_BYTES)


@pytest.fixture
def without_gpu(fresh):
    """Draws where nothing moves."""
    return fresh.pixels


@pytest.fixture
def row_in(micro, micro_gguf):
    """Micro's row, held in a format."""

    def row(name):
        changes = {"precision": name, "text_precision": name}
        if format_of(name).method == "gguf":
            changes |= {"text_precision": "bf16", "gguf": micro_gguf(name.upper())}
        return micro.model_copy(update=changes)

    return row


@pytest.fixture
def striped(put):
    return put("striped")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_streams_draws_the_same_in_every_placement(
    on_gpu, without_gpu, task_for, row_in, striped, name
):
    spec = row_in(name)
    assert format_of(name).streams
    task = task_for(spec, **SMALL)
    expected = without_gpu(task)
    loras = [striped] if format_of(name).takes_loras else []
    changed = on_gpu.pixels(task, placement="resident", loras=loras)
    for placement in (*PLACEMENTS, "model_offload"):
        assert on_gpu.pixels(task, placement) == expected, placement
        assert on_gpu.draw(spec, task, placement=placement, loras=loras) == changed, placement
    with pytest.raises(JobCancelledError):
        on_gpu.draw(task, placement="block_stream", stop_after=1)
    assert on_gpu.pixels(task, placement="block_stream") == expected


@pytest.mark.parametrize("name", ["int8", "bf16", "fp8", "q8_0"])
def test_a_transformer_made_block_by_block_is_the_one_made_at_once(
    registry, settings, row_in, name
):
    spec = row_in(name)
    snapshot = require_snapshot(spec, registry, settings)
    part = next(p for p in list_parts(spec, snapshot) if p.loader == "denoiser")
    whole = load_part(part, spec.precision)
    made = load_part(part, spec.precision, made_on="cpu")
    ours, theirs = made.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert type(ours[key]) is type(tensor)
        flat = [t.dequantize() if hasattr(t, "dequantize") else t for t in (ours[key], tensor)]
        assert flat[0].float().equal(flat[1].float())


def test_a_format_that_cannot_stream_is_not_planned_to(micro):
    from flux_mcp.models.memory import LoadedAs
    from flux_mcp.models.planning.support import full_load_support
    from flux_mcp.pipelines.memory.residency import leaner

    engine = full_load_support()
    for name in ("svdq_int4", "bf16"):
        can = [
            placement
            for placement in PLACEMENTS
            if engine.can_load_as(micro, LoadedAs(name, "bf16", placement))
        ]
        streams = format_of(name).streams
        assert can == list(PLACEMENTS if streams else PLACEMENTS[:2])
        row = micro.model_copy(update={"precision": name})
        assert list(leaner("resident", row)) == can


@pytest.mark.parametrize("kind", ["text2img", "kontext"])
@pytest.mark.parametrize("weights", ["klein", "dev"])
def test_flux2_draws_the_same_in_every_placement(
    on_gpu, without_gpu, task_for, klein_dir, kind, weights
):
    changes = {}
    if weights == "dev":
        changes = {"pipeline": "Flux2Pipeline", "id": "tiny-dev", "takes_guidance": True}
    spec = klein_row(kind, klein_dir / weights, **changes)
    inputs = [("reference", image())] if kind == "kontext" else []
    task = task_for(spec, inputs=inputs, **SMALL)
    expected = without_gpu(task)
    for placement in PLACEMENTS:
        assert on_gpu.pixels(task, placement=placement) == expected, placement
        with pytest.raises(JobCancelledError):
            on_gpu.draw(task, placement=placement, stop_after=1)
        assert on_gpu.pixels(task, placement=placement) == expected, placement
    tiled = [
        on_gpu.pixels(task.changed(vae_tile_px=tile_px), placement="resident")
        for tile_px in (512, 32)
    ]
    assert (tiled[0] == expected, tiled[1] == expected) == (True, False)
