"""Compiled transformers that share weights, or whose weights leave the GPU and come back."""

import logging

import numpy as np
import pytest

from flux_mcp.models.switches import Switches
from flux_mcp.pipelines.switches import SwitchBoard
from tests.pipelines.conftest import make_task
from tests.pipelines.desk import Desk

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 160, "height": 160, "steps": 2}
COMPILED = Switches(compiled=True)


@pytest.fixture
def graphs():
    """Everything torch hands its compiler while a test runs."""
    import torch._dynamo

    logging.getLogger("torch.__trace").setLevel(logging.WARNING)
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


@pytest.fixture
def compiler(graphs):
    """Counts what it is handed, and does nothing with it."""

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    return count


@pytest.fixture
def desk(settings, registry, compiler):
    from flux_mcp.pipelines.device import Device

    board = SwitchBoard(Device("cpu"), compiler)
    desk = Desk(settings, tuple(registry), board=board)

    def draw(spec, *loras, switches=COMPILED, placement="resident"):
        """Draw as a worker does; return each byte of the image as a number."""
        task = make_task(spec, **SMALL, switches=switches)
        return np.frombuffer(desk.draw(spec, task, placement, *loras, planned="resident"), np.uint8)

    desk.draw_with = draw
    return desk


@pytest.fixture
def striped(put):
    return put("striped")


def test_a_control_lora_stays_on_under_the_slot_of_another(desk, edges, striped):
    bare = desk.draw_with(edges, switches=Switches())
    with_lora = desk.draw_with(edges, striped, switches=Switches())
    assert np.array_equal(desk.draw_with(edges), bare)
    # Its weight is multiplied in, and it is filled up with zeros: sums round otherwise.
    compiled = desk.draw_with(edges, striped)
    assert np.abs(compiled.astype(int) - with_lora).max() <= 1
    assert np.abs(compiled.astype(int) - bare).max() > 1
    assert np.array_equal(desk.draw_with(edges), bare)


def test_a_base_and_what_is_laid_over_it_are_compiled_each_for_itself(desk, micro, edges):
    bare = {spec.id: desk.draw_with(spec, switches=Switches()) for spec in (micro, edges)}
    for spec in (micro, edges, micro, edges):
        assert np.array_equal(desk.draw_with(spec), bare[spec.id])
    told = [line for line in desk.said if line.startswith("compiling")]
    assert len(told) == 2


def test_blocks_that_stream_are_not_compiled_whatever_the_plan_hoped(desk, micro, graphs):
    bare = desk.draw_with(micro, switches=Switches())
    assert np.array_equal(desk.draw_with(micro, placement="block_stream"), bare)
    assert not graphs
    assert np.array_equal(desk.draw_with(micro), bare)
    once = len(graphs)
    assert once > 0
    assert np.array_equal(desk.draw_with(micro, placement="group_offload"), bare)
    assert np.array_equal(desk.draw_with(micro), bare)
    assert len(graphs) == once


class TestCompilerThatFails:
    """As where it has no headers to compile with."""

    @pytest.fixture
    def compiler(self, graphs):
        def fail(graph, _inputs):
            graphs.append(graph)
            raise RuntimeError("Python.h: No such file or directory")

        return fail

    def test_it_draws_all_the_same_and_the_log_says_why(self, desk, micro, graphs, caplog):
        bare = desk.draw_with(micro, switches=Switches())
        assert not graphs
        with caplog.at_level(logging.WARNING, "torch._dynamo"):
            assert np.array_equal(desk.draw_with(micro), bare)
        assert graphs
        assert "Python.h" in caplog.text


def test_weights_that_leave_the_gpu_and_come_back_compile_nothing(desk, micro, graphs):
    first = desk.draw_with(micro)
    once = len(graphs)
    assert once > 0
    key = desk.load(micro, "resident").transformer_key
    desk.store.make_room(2**60, ())
    assert not desk.store.is_on_gpu(key)
    before = desk.traffic[0]
    assert np.array_equal(desk.draw_with(micro), first)
    assert desk.traffic[0] > before
    assert len(graphs) == once
