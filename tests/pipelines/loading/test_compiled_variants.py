"""Compiled transformers that share weights, or whose weights leave the GPU and come back."""

import logging

import numpy as np
import pytest

from flux_mcp.models.switches import Switches
from flux_mcp.pipelines.memory.residency import room_for
from flux_mcp.requests.plan import load_of_plan
from tests.pipelines.harness import AMPLE_BYTES, Studio, make_task

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
def on_gpu(settings, compiler):
    return Studio(settings, gpu_bytes=AMPLE_BYTES, compiler=compiler)


@pytest.fixture
def drawn(on_gpu):
    def draw(spec, *loras, switches=COMPILED):
        """Return each byte of the image as a number."""
        task = make_task(spec, **SMALL, switches=switches, loras=loras)
        return np.frombuffer(on_gpu.pixels(task), np.uint8)

    return draw


@pytest.fixture
def striped(put):
    return put("striped")


def test_a_control_lora_stays_on_under_the_slot_of_another(drawn, edges, striped):
    bare = drawn(edges, switches=Switches())
    with_lora = drawn(edges, striped, switches=Switches())
    assert np.array_equal(drawn(edges), bare)
    # Its weight is multiplied in, and it is filled up with zeros: sums round otherwise.
    compiled = drawn(edges, striped)
    assert np.abs(compiled.astype(int) - with_lora).max() <= 1
    assert np.abs(compiled.astype(int) - bare).max() > 1
    assert np.array_equal(drawn(edges), bare)


def test_a_base_and_what_is_laid_over_it_are_compiled_each_for_itself(on_gpu, drawn, micro, edges):
    bare = {spec.id: drawn(spec, switches=Switches()) for spec in (micro, edges)}
    for spec in (micro, edges, micro, edges):
        assert np.array_equal(drawn(spec), bare[spec.id])
    told = [line for line in on_gpu.said if line.startswith("compiling")]
    assert len(told) == 2


def test_weights_that_move_are_not_compiled_whatever_the_plan_hoped(on_gpu, drawn, micro, graphs):
    """The plan hoped for a GPU with room for all of it; this one has less, and then more again."""
    bare = drawn(micro, switches=Switches())
    room = room_for(micro, load_of_plan(make_task(micro, **SMALL).plan, micro), None)
    for placement, gpu_bytes in (
        ("model_offload", room.gpu_bytes("model_offload")),
        ("block_stream", 0),
    ):
        on_gpu.limit_gpu(gpu_bytes)
        assert np.array_equal(drawn(micro), bare)
        said = f"the GPU has less room than was planned: {placement} instead of resident"
        assert said in on_gpu.last.messages
        assert not graphs
    on_gpu.limit_gpu(AMPLE_BYTES)
    assert np.array_equal(drawn(micro), bare)
    assert graphs


class TestCompilerThatFails:
    """As where it has no headers to compile with."""

    @pytest.fixture
    def compiler(self, graphs):
        def fail(graph, _inputs):
            graphs.append(graph)
            raise RuntimeError("Python.h: No such file or directory")

        return fail

    def test_it_draws_all_the_same_and_the_log_says_why(self, drawn, micro, graphs, caplog):
        bare = drawn(micro, switches=Switches())
        assert not graphs
        with caplog.at_level(logging.WARNING, "torch._dynamo"):
            assert np.array_equal(drawn(micro), bare)
        assert graphs
        assert "Python.h" in caplog.text


def test_weights_that_leave_the_gpu_and_come_back_compile_nothing(on_gpu, drawn, micro, graphs):
    first = drawn(micro)
    once = len(graphs)
    assert once > 0
    key = on_gpu.load(micro, "resident").transformer_key
    on_gpu.store.make_room(2**60, ())
    assert not on_gpu.store.is_on_gpu(key)
    before = on_gpu.traffic[0]
    assert np.array_equal(drawn(micro), first)
    assert on_gpu.traffic[0] > before
    assert len(graphs) == once
