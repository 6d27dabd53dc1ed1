"""Control LoRAs on a GPU: their base's weights move for both at once, wherever they wait."""

import gc

import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.parts import PLACEMENTS
from tests.pipelines.harness import AMPLE_BYTES, Studio, make_task

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 64, "height": 64, "steps": 2}
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)


@pytest.fixture
def on_gpu(settings):
    return Studio(settings, gpu_bytes=AMPLE_BYTES)


@pytest.fixture
def without_gpu(fresh, micro, edges):
    """What both draw where nothing moves."""
    return {spec.id: fresh.pixels(make_task(spec, **SMALL)) for spec in (micro, edges)}


@every_placement
def test_both_draw_the_same_wherever_their_weights_wait(
    on_gpu, without_gpu, micro, edges, placement
):
    for spec in (edges, micro, edges, micro):
        drawn = on_gpu.pixels(make_task(spec, **SMALL), placement=placement)
        assert drawn == without_gpu[spec.id]
    assert on_gpu.traffic[1] == 0


@pytest.mark.parametrize("first", PLACEMENTS)
def test_their_placements_may_differ(on_gpu, without_gpu, micro, edges, first):
    for placement in (first, *PLACEMENTS, first):
        for spec in (micro, edges):
            drawn = on_gpu.pixels(make_task(spec, **SMALL), placement=placement)
            assert drawn == without_gpu[spec.id]


def test_they_share_what_is_on_the_gpu(on_gpu, micro, edges):
    base = on_gpu.load(micro, "resident").pipe.transformer
    over = on_gpu.load(edges, "resident").pipe.transformer
    before = on_gpu.traffic
    on_gpu.load(micro, "resident")
    on_gpu.load(edges, "resident")
    assert on_gpu.traffic == before
    layer = "transformer_blocks.0.attn.to_q"
    pairs = [(base.get_submodule(layer).weight, over.get_submodule(f"{layer}.base_layer").weight)]
    on_gpu.load(edges, "model_offload").release()
    pairs.append(
        (base.get_submodule(layer).weight, over.get_submodule(f"{layer}.base_layer").weight)
    )
    assert all(one is other for one, other in pairs)
    assert pairs[0][0].data_ptr() != pairs[1][0].data_ptr()


def test_one_that_is_dropped_leaves_its_base_alone(on_gpu, without_gpu, micro, edges):
    on_gpu.pixels(make_task(edges, **SMALL), placement="group_offload")
    key = on_gpu.load(edges, "group_offload").transformer_key
    on_gpu.load(micro, "group_offload")
    part = on_gpu.store._parts[key]
    slots = len(part._own)
    on_gpu.residency._drop(["control/edges"])
    gc.collect()
    assert len(part._own) < slots
    assert all(len(modules) == 1 for modules, _ in part._blocks)
    assert (
        on_gpu.pixels(make_task(micro, **SMALL), placement="group_offload") == without_gpu["micro"]
    )
    assert (
        on_gpu.pixels(make_task(edges, **SMALL), placement="group_offload") == without_gpu["edges"]
    )


@every_placement
def test_a_cancel_and_a_lora_on_top_leave_both_as_they_were(
    on_gpu, without_gpu, put, micro, edges, placement
):
    striped = put("striped")
    with pytest.raises(JobCancelledError):
        on_gpu.draw(make_task(edges, **SMALL), placement=placement, stop_after=1)
    with_lora = on_gpu.pixels(make_task(edges, **SMALL), placement=placement, loras=(striped,))
    assert with_lora != without_gpu["edges"]
    assert on_gpu.pixels(make_task(micro, **SMALL), placement=placement) == without_gpu["micro"]
    assert on_gpu.pixels(make_task(edges, **SMALL), placement=placement) == without_gpu["edges"]
    again = on_gpu.pixels(make_task(edges, **SMALL), placement=placement, loras=(striped,))
    assert again == with_lora
