"""Compiled transformers: compiled once, kept, set aside and taken up again; LoRAs change in place.

A compiler that only counts what it is handed stands behind torch.compile: what is asked here is
how often torch compiles, which does not depend on what it compiles to. tests/gpu has the real one.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from flux_mcp.errors import InvalidLoraError
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.switches import Switches
from flux_mcp.pipelines.loras.adapters import combined, slot_rank
from flux_mcp.requests.render_plan import PlanLora
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import Tensors, pair, write
from tests.pipelines.harness import Studio, Task

COMPILED = Switches(compiled=True)
SMALL, LARGE = {"width": 80, "height": 80}, {"width": 96, "height": 112}
"""Neither has as many tokens as the prompt: torch would take the two numbers for one."""


@dataclass
class Compiled:
    """An engine of its own: what is asked is what happens to one transformer over time."""

    studio: Studio
    task: Task
    spec: ModelSpec
    graphs: list[Any]

    @property
    def transformer(self) -> Any:
        return self.studio.load(self.spec).pipe.transformer

    @property
    def said(self) -> list[str]:
        return [line for line in self.studio.said if line.startswith("compiling")]

    def draw(self, *loras: PlanLora, switches: Switches = COMPILED, **changes: Any) -> np.ndarray:
        changes = {**SMALL, **changes, "loras": loras, "switches": switches}
        return self.studio.draw(self.task, **changes).images[0]


@pytest.fixture(scope="module")
def compiled(
    task_for: Any, settings: Settings, short_micro: ModelSpec, torch_here: None
) -> Iterator[Compiled]:
    import torch._dynamo

    graphs: list[Any] = []

    def count(graph: Any, _inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        forward: Callable[..., Any] = graph.forward
        return forward

    # The compiler's trace: pytest would keep each of its many thousand lines.
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)
    torch._dynamo.reset()
    studio = Studio(settings, (short_micro,), compiler=count)
    yield Compiled(studio, task_for(short_micro, steps=2), short_micro, graphs)
    torch._dynamo.reset()


def block(layer: str = "attn.to_q", **how: Any) -> Tensors:
    return pair(f"transformer.transformer_blocks.0.{layer}", 128, 128, **how)


def weighted(lora: PlanLora, weight: float) -> PlanLora:
    return lora.model_copy(update={"weight": weight})


def test_a_transformer_is_compiled_once_for_all_jobs_and_sizes(compiled):
    plain = Switches()
    exact, exact_large = compiled.draw(switches=plain), compiled.draw(switches=plain, **LARGE)
    assert not compiled.graphs
    assert np.array_equal(compiled.draw(), exact)
    once = len(compiled.graphs)
    assert once > 0
    assert np.array_equal(compiled.draw(**LARGE), exact_large)
    assert np.array_equal(compiled.draw(seeds=(7,)), exact)
    assert np.array_equal(compiled.draw(switches=plain), exact)
    assert np.array_equal(compiled.draw(), exact)
    assert len(compiled.graphs) == once
    assert compiled.said == ["compiling transformer, its first step takes up to a minute"]


def test_a_plan_that_is_not_compiled_does_not_run_compiled_blocks(compiled):
    import torch

    compiled.draw()
    blocks = [m for m in compiled.transformer.modules() if m._compiled_call_impl is not None]
    assert blocks
    compiled.draw(switches=Switches())
    assert all(m._compiled_call_impl is None for m in compiled.transformer.modules())
    compiled.draw()
    again = [m for m in compiled.transformer.modules() if m._compiled_call_impl is not None]
    assert again == blocks
    assert torch._dynamo.config.recompile_limit >= 64


@pytest.mark.torture
def test_loras_on_a_compiled_transformer_change_without_compiling_again(
    compiled, put, short_striped
):
    bare, bare_large = compiled.draw(), compiled.draw(**LARGE)
    striped, small = short_striped, put("small", block(), block(layer="attn.to_k"))
    first = compiled.draw(striped)
    compiled.draw()
    once = len(compiled.graphs)
    half = compiled.draw(weighted(striped, 0.5))
    other = compiled.draw(small)
    both = compiled.draw(small, striped)
    assert len({one.tobytes() for one in (bare, first, half, other, both)}) == 5
    # With none, the image is the bare one; with the first again, the first again.
    assert np.array_equal(compiled.draw(), bare)
    assert np.array_equal(compiled.draw(**LARGE), bare_large)
    assert np.array_equal(compiled.draw(striped), first)
    assert not np.array_equal(compiled.draw(striped, **LARGE), bare_large)
    assert len(compiled.graphs) == once, "something compiled again"


@pytest.mark.torture
def test_only_a_lora_of_other_layers_or_of_a_larger_rank_compiles_again(
    compiled, put, short_striped
):
    compiled.draw(short_striped)
    before = len(compiled.graphs)
    elsewhere = put("elsewhere", block(layer="attn.to_out.0"))
    drawn = compiled.draw(elsewhere)
    once = len(compiled.graphs)
    assert once > before
    compiled.draw(weighted(short_striped, 0.5))
    assert np.array_equal(compiled.draw(elsewhere), drawn)
    assert len(compiled.graphs) == once


@pytest.mark.torture
def test_adapters_of_plans_that_are_not_compiled_do_not_disturb_the_slots(
    compiled, put, short_striped
):
    striped = short_striped
    first, once = compiled.draw(striped), len(compiled.graphs)
    compiled.draw(striped, put("small", block()), switches=Switches())
    assert np.array_equal(compiled.draw(striped), first)
    assert len(compiled.graphs) == once


def test_what_a_slot_draws_is_what_adapters_draw(compiled, put, short_striped):
    """The weights are multiplied in beforehand: only the last bits may round otherwise."""
    striped = weighted(short_striped, 0.7)
    small = put("small", block(), block(layer="attn.to_k"), weight=-0.4)
    plain = Switches()
    in_slot = compiled.draw(small, striped).astype(int)
    assert np.abs(in_slot - compiled.draw(small, striped, switches=plain)).max() <= 1
    assert np.abs(in_slot - compiled.draw(switches=plain)).max() > 1


def test_pixels_do_not_depend_on_what_the_slot_held_before(compiled, put, short_striped):
    small = put("small", block(), block(layer="attn.to_k"))
    alone = compiled.draw(small)
    compiled.draw(short_striped)
    assert np.array_equal(compiled.draw(small), alone)


def test_a_lora_that_is_broken_leaves_a_compiled_transformer_as_it_was(
    compiled, put, short_striped, settings
):
    import hashlib

    compiled.draw(short_striped)
    bare = compiled.draw(switches=Switches())
    tensors = block()
    next(iter(tensors.values()))[0, 0] = np.nan
    path = settings.paths.loras / "broken.safetensors"
    write(path, tensors)
    broken = PlanLora(
        name="broken", sha256=hashlib.sha256(path.read_bytes()).hexdigest(), weight=1.0
    )
    with pytest.raises(InvalidLoraError):
        compiled.draw(broken)
    assert not any("lora" in name for name, _ in compiled.transformer.named_modules())
    assert np.array_equal(compiled.draw(switches=Switches()), bare)


def matrices(rank: int, layer: str = "a", seed: int = 0) -> dict[str, Any]:
    import torch

    random = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.lora_A.weight": torch.randn(rank, 5, generator=random),
        f"{layer}.lora_B.weight": torch.randn(6, rank, generator=random),
    }


@pytest.mark.parametrize(("ranks", "slot"), [((1,), 32), ((32,), 32), ((32, 1), 64), ((70,), 128)])
def test_a_slot_is_as_wide_as_the_loras_are_together(ranks, slot):
    assert slot_rank([(1.0, matrices(rank)) for rank in ranks]) == slot


def test_several_loras_in_a_slot_are_their_weighted_sum():
    import torch

    one, other, apart = matrices(3), matrices(4, seed=1), matrices(2, "b", seed=2)
    together = combined([(0.5, one), (-2.0, other), (1.0, apart)], 16)
    assert {tuple(matrix.shape) for matrix in together.values()} == {(16, 5), (6, 16)}
    product = together["a.lora_B.weight"] @ together["a.lora_A.weight"]
    expected = 0.5 * one["a.lora_B.weight"] @ one["a.lora_A.weight"]
    expected = expected - 2.0 * other["a.lora_B.weight"] @ other["a.lora_A.weight"]
    assert torch.allclose(product, expected, atol=1e-5)
