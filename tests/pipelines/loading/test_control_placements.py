"""Control LoRAs on a GPU: their base's weights move for both at once, wherever they wait."""

import gc

import numpy as np
import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.parts import PLACEMENTS
from tests.pipelines.conftest import make_task
from tests.pipelines.desk import Desk

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 64, "height": 64, "steps": 2}
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)


@pytest.fixture
def desk(settings, registry):
    return Desk(settings, tuple(registry))


@pytest.fixture
def without_gpu(bench, micro, edges):
    """What both draw where nothing moves."""
    from tests.pipelines.conftest import Recorder

    return {
        spec.id: bench.draw(spec, make_task(spec, **SMALL), Recorder()).images[0].tobytes()
        for spec in (micro, edges)
    }


@every_placement
def test_both_draw_the_same_wherever_their_weights_wait(desk, without_gpu, micro, edges, placement):
    for spec in (edges, micro, edges, micro):
        drawn = desk.draw(spec, make_task(spec, **SMALL), placement)
        assert drawn == without_gpu[spec.id]
    assert desk.traffic[1] == 0


@pytest.mark.parametrize("first", PLACEMENTS)
def test_their_placements_may_differ(desk, without_gpu, micro, edges, first):
    for placement in (first, *PLACEMENTS, first):
        for spec in (micro, edges):
            drawn = desk.draw(spec, make_task(spec, **SMALL), placement)
            assert drawn == without_gpu[spec.id]


def test_they_share_what_is_on_the_gpu(desk, micro, edges):
    base = desk.load(micro, "resident").pipe.transformer
    over = desk.load(edges, "resident").pipe.transformer
    before = desk.traffic
    desk.load(micro, "resident")
    desk.load(edges, "resident")
    assert desk.traffic == before
    layer = "transformer_blocks.0.attn.to_q"
    pairs = [(base.get_submodule(layer).weight, over.get_submodule(f"{layer}.base_layer").weight)]
    desk.load(edges, "model_offload").rest()
    pairs.append(
        (base.get_submodule(layer).weight, over.get_submodule(f"{layer}.base_layer").weight)
    )
    assert all(one is other for one, other in pairs)
    assert pairs[0][0].data_ptr() != pairs[1][0].data_ptr()


def test_one_that_is_dropped_leaves_its_base_alone(desk, without_gpu, micro, edges):
    desk.draw(edges, make_task(edges, **SMALL), "group_offload")
    key = desk.load(edges, "group_offload").transformer_key
    desk.load(micro, "group_offload")
    part = desk.store._parts[key]
    slots = len(part._own)
    desk.residency._drop(["control/edges"])
    gc.collect()
    assert len(part._own) < slots
    assert all(len(modules) == 1 for modules, _ in part._blocks)
    assert desk.draw(micro, make_task(micro, **SMALL), "group_offload") == without_gpu["micro"]
    assert desk.draw(edges, make_task(edges, **SMALL), "group_offload") == without_gpu["edges"]


@every_placement
def test_a_cancel_and_a_lora_on_top_leave_both_as_they_were(
    desk, without_gpu, put, micro, edges, placement
):
    striped = put("striped")
    with pytest.raises(JobCancelledError):
        desk.draw(edges, make_task(edges, **SMALL), placement, stop_after=1)
    with_lora = desk.draw(edges, make_task(edges, **SMALL), placement, striped)
    assert with_lora != without_gpu["edges"]
    assert desk.draw(micro, make_task(micro, **SMALL), placement) == without_gpu["micro"]
    assert desk.draw(edges, make_task(edges, **SMALL), placement) == without_gpu["edges"]
    again = desk.draw(edges, make_task(edges, **SMALL), placement, striped)
    assert np.array_equal(np.frombuffer(again, np.uint8), np.frombuffer(with_lora, np.uint8))
