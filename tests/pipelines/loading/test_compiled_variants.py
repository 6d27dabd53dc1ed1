"""Compiled transformers that share weights, or whose weights leave the GPU and come back."""

import logging

import numpy as np
import pytest

from flux_mcp.models.switches import Switches
from flux_mcp.pipelines.memory.residency import room_for
from flux_mcp.requests.plan import load_of_plan
from tests.models.control_lora_files import bfl
from tests.models.lora_files import write
from tests.pipelines.harness import AMPLE_BYTES, Studio, make_task
from tests.pipelines.loading.conftest import CHANNELS

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 80, "height": 80, "steps": 2}
"""Fewer tokens than the prompt has: torch would take equal numbers for one."""
COMPILED = Switches(compiled=True)


@pytest.fixture
def short_edges(short_micro, config, row_for, tmp_path):
    """What is merged onto `short_micro`."""
    counts = {"num_layers": 1, "num_single_layers": 1}
    return row_for(write(tmp_path / "edges.safetensors", bfl(config | counts, CHANNELS)))


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
def on_gpu(settings, short_micro, compiler):
    return Studio(settings, (short_micro,), gpu_bytes=AMPLE_BYTES, compiler=compiler)


@pytest.fixture
def drawn(on_gpu):
    def draw(spec, *loras, switches=COMPILED):
        """Return each byte of the image as a number."""
        task = make_task(spec, **SMALL, switches=switches, loras=loras)
        return np.frombuffer(on_gpu.pixels(task), np.uint8)

    return draw


@pytest.mark.torture
def test_compiled_transformers_share_weights_and_follow_them_off_the_gpu_and_back(
    on_gpu, drawn, short_micro, short_edges, graphs, short_striped
):
    """One story, because torch takes seconds to trace a transformer: a base, then one over it."""
    micro, edges = short_micro, short_edges
    bare = drawn(micro, switches=Switches())

    # Weights that move are not compiled, whatever the plan hoped: this GPU has less room.
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

    # With room again, they are.
    on_gpu.limit_gpu(AMPLE_BYTES)
    assert np.array_equal(drawn(micro), bare)
    once = len(graphs)
    assert once > 0

    # Weights that leave the GPU and come back compile nothing.
    key = on_gpu.load(micro, "resident").transformer_key
    on_gpu.store.make_room(2**60, ())
    assert not on_gpu.store.is_on_gpu(key)
    before = on_gpu.traffic[0]
    assert np.array_equal(drawn(micro), bare)
    assert on_gpu.traffic[0] > before
    assert len(graphs) == once

    # A base and what is merged onto it are compiled each for itself, once.
    followed = drawn(edges, switches=Switches())
    for spec, expected in ((edges, followed), (micro, bare), (edges, followed)):
        assert np.array_equal(drawn(spec), expected)
    assert len([line for line in on_gpu.said if line.startswith("compiling")]) == 2

    # A control LoRA stays on under the slot of another.
    with_lora = drawn(edges, short_striped, switches=Switches())
    # Its weight is multiplied in, and it is filled up with zeros: sums round otherwise.
    compiled = drawn(edges, short_striped)
    assert np.abs(compiled.astype(int) - with_lora).max() <= 1
    assert np.abs(compiled.astype(int) - followed).max() > 1
    assert np.array_equal(drawn(edges), followed)


class TestCompilerThatFails:
    """As where it has no headers to compile with."""

    @pytest.fixture
    def compiler(self, graphs):
        def fail(graph, _inputs):
            graphs.append(graph)
            raise RuntimeError("Python.h: No such file or directory")

        return fail

    @pytest.mark.torture
    def test_it_draws_all_the_same_and_the_log_says_why(self, drawn, short_micro, graphs, caplog):
        bare = drawn(short_micro, switches=Switches())
        assert not graphs
        with caplog.at_level(logging.WARNING, "torch._dynamo"):
            assert np.array_equal(drawn(short_micro), bare)
        assert graphs
        assert "Python.h" in caplog.text
