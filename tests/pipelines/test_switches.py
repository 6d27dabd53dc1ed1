"""Speed switches on real micro pipelines: they do what their rows say, and leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from flux_mcp.errors import JobCancelledError, UnsupportedOptionError
from flux_mcp.models.planning.switches import Drawing, SwitchSettings, TargetDevice, choose_switches
from flux_mcp.models.registry import load_registry
from flux_mcp.models.switches import Switches, load_switches
from flux_mcp.pipelines.engine import draw
from flux_mcp.pipelines.steps import StepWatch
from flux_mcp.pipelines.switches import SwitchBoard, set_attention
from flux_mcp.worker_protocol.messages import Cancelled, Done, Failed

pytestmark = pytest.mark.anyio

REGISTRY = load_registry()
MICRO = [row for row in REGISTRY if row.is_demonstration]
TEXT2IMG = REGISTRY.find("text2img", "micro")
CACHES = tuple(load_switches().step_cache)
STEPS = 12
every_kind = pytest.mark.parametrize("spec", MICRO, ids=[row.kind for row in MICRO])
every_cache = pytest.mark.parametrize("cache", CACHES)


def switches_with(cache: str, spec: Any = TEXT2IMG, steps: int = STEPS, **options: Any) -> Switches:
    """What a plan gets that asks for a cache; options stand in place of the row's own."""
    drawing = Drawing(spec, spec.precision, "resident", steps, has_true_cfg=False)
    chosen = choose_switches(
        drawing, TargetDevice("cpu"), SwitchSettings(step_cache=cache)
    ).switches
    if cache == "first_block":
        # Micro's first block changes more from step to step than that of a large model.
        options = {"threshold": 0.5, **options}
    return chosen.model_copy(
        update={"step_cache_options": {**chosen.step_cache_options, **options}}
    )


@dataclass
class Bench:
    """Micro's pipelines in this process, with a switch board of their own."""

    residency: Any
    texts_of: Any
    recorder: Any
    board: SwitchBoard
    said: list[str] = field(default_factory=list)

    def load(self, task: Any) -> Any:
        row = REGISTRY.find(task.plan.kind, "micro")
        return self.residency.pipeline(row, "resident", lambda _: None)

    def draw(self, task: Any, *, stop_after: int | None = None) -> np.ndarray:
        self.recorder.images.clear()
        self.recorder.steps.clear()
        resident = self.load(task)
        self.board.apply(task.plan, resident, self.said.append)
        texts = self.texts_of(task.plan, resident)
        watch = StepWatch(
            task.plan,
            self.recorder,
            lambda: stop_after is not None and len(self.recorder.steps) >= stop_after,
        )
        with self.board.active(task.plan, resident):
            draw(task.plan, task.blobs, resident, texts, watch, self.recorder)
        return np.stack(self.recorder.images)


@pytest.fixture
def bench(residency: Any, texts_of: Any, recorder: Any) -> Bench:
    from flux_mcp.pipelines.device import Device

    return Bench(residency, texts_of, recorder, SwitchBoard(Device("cpu")))


@contextmanager
def counted_blocks(transformer: Any) -> Iterator[list[str]]:
    """Note each block whose attention really ran."""
    ran: list[str] = []
    handles = [
        module.attn.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in transformer.named_modules()
        if hasattr(module, "attn")
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(transformer: Any) -> int:
    return sum(hasattr(module, "attn") for module in transformer.modules())


# --- step caches ---------------------------------------------------------------------------------


@every_cache
@every_kind
def test_a_step_cache_skips_blocks_and_the_next_image_is_as_before(bench, task_for, spec, cache):
    task = task_for(spec, steps=STEPS)
    before = bench.draw(task)
    cached = task.changed(switches=switches_with(cache, spec))
    transformer = bench.load(task).pipe.transformer
    with counted_blocks(transformer) as ran:
        approximate = bench.draw(cached)
    every_block = blocks_of(transformer) * STEPS
    assert 0 < len(ran) < every_block, (len(ran), every_block)
    assert not np.array_equal(approximate, before)
    with counted_blocks(transformer) as ran:
        assert np.array_equal(bench.draw(task), before)
    assert len(ran) == every_block
    assert np.array_equal(bench.draw(cached), approximate)


@every_cache
@every_kind
def test_a_cancel_in_the_middle_leaves_nothing_in_a_step_cache(bench, task_for, spec, cache):
    task = task_for(spec, steps=STEPS)
    cached = task.changed(switches=switches_with(cache, spec))
    before, approximate = bench.draw(task), bench.draw(cached)
    with pytest.raises(JobCancelledError):
        bench.draw(cached, stop_after=7)
    assert np.array_equal(bench.draw(cached), approximate)
    with pytest.raises(JobCancelledError):
        bench.draw(cached, stop_after=7)
    assert np.array_equal(bench.draw(task), before)


@every_cache
def test_each_of_several_images_is_the_one_it_is_alone(bench, task_for, cache):
    task = task_for(TEXT2IMG, steps=STEPS, switches=switches_with(cache))
    together = bench.draw(task.changed(seeds=(7, 8)))
    assert np.array_equal(together[0], bench.draw(task)[0])
    assert np.array_equal(together[1], bench.draw(task.changed(seeds=(8,)))[0])


@every_cache
def test_both_passes_of_true_guidance_have_a_cache_of_their_own(bench, task_for, cache):
    """With one for both, the negative prompt's rest would be added to the prompt's own."""
    task = task_for(TEXT2IMG, steps=STEPS, negative_prompt="a green star", true_cfg_scale=2.0)
    cached = task.changed(switches=switches_with(cache))
    exact, approximate = bench.draw(task), bench.draw(cached)
    alone = task_for(TEXT2IMG, steps=STEPS)
    apart = alone.changed(switches=switches_with(cache))
    # As far off as an image without a negative prompt, not more.
    off = np.abs(approximate.astype(int) - exact).mean()
    off_alone = np.abs(bench.draw(apart).astype(int) - bench.draw(alone)).mean()
    assert 0 < off <= 4 * off_alone
    assert np.array_equal(bench.draw(task), exact)


def test_a_first_block_that_never_changes_little_skips_nothing(bench, task_for):
    """The threshold is what decides: at zero, the image is the exact one."""
    task = task_for(TEXT2IMG, steps=STEPS)
    never = task.changed(switches=switches_with("first_block", threshold=0.0))
    transformer = bench.load(task).pipe.transformer
    with counted_blocks(transformer) as ran:
        drawn = bench.draw(never)
    assert len(ran) == blocks_of(transformer) * STEPS
    assert np.array_equal(drawn, bench.draw(task))


def test_the_first_steps_are_computed_whole(bench, task_for):
    task = task_for(TEXT2IMG, steps=STEPS, switches=switches_with("taylorseer"))
    transformer = bench.load(task).pipe.transformer
    in_steps: list[int] = []
    with counted_blocks(transformer) as ran:
        original = bench.recorder.progress

        def progress(phase: str, step: int, **more: Any) -> None:
            original(phase, step, **more)
            if phase == "denoising" and step:
                in_steps.append(len(ran))

        bench.recorder.progress = progress
        bench.draw(task)
    blocks = blocks_of(transformer)
    computed = [after - before for before, after in zip([0, *in_steps], in_steps, strict=False)]
    assert computed[:3] == [blocks] * 3
    assert set(computed[3:]) == {0, blocks}


# --- attention and memory layout -----------------------------------------------------------------


@pytest.mark.parametrize("backend", ["_native_flash", "_native_math"])
def test_attention_of_another_backend_is_identical_on_a_cpu(bench, task_for, backend):
    task = task_for(TEXT2IMG)
    before = bench.draw(task)
    resident = bench.load(task)
    set_attention(resident.pipe.transformer, backend)
    texts = bench.texts_of(task.plan, resident)
    bench.recorder.images.clear()
    watch = StepWatch(task.plan, bench.recorder, lambda: False)
    draw(task.plan, task.blobs, resident, texts, watch, bench.recorder)
    assert np.array_equal(bench.recorder.images[0], before[0])
    set_attention(resident.pipe.transformer, "native")


def backends(transformer: Any) -> set[str]:
    return {
        str(m.processor._attention_backend.value)
        for m in transformer.modules()
        if hasattr(m, "set_attention_backend") and hasattr(m, "processor")
    }


def test_a_backend_is_that_of_one_model_and_only_while_a_plan_says_so(bench, task_for):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    default = _AttentionBackendRegistry.get_active_backend()
    task = task_for(TEXT2IMG)
    before = bench.draw(task)
    flash = task.changed(switches=Switches(attention="native_flash"))
    assert np.array_equal(bench.draw(flash), before)
    transformer = bench.load(task).pipe.transformer
    other = bench.load(task_for(REGISTRY.find("fill", "micro"))).pipe.transformer
    assert backends(transformer) == {"_native_flash"}
    assert {m.processor._attention_backend for m in other.modules() if hasattr(m, "processor")} <= {
        None,
        "native",
    }
    assert _AttentionBackendRegistry.get_active_backend() == default
    bench.draw(task)
    assert backends(transformer) == {"native"}


@every_kind
def test_channels_last_rounds_by_one_grey_level_and_can_be_taken_back(bench, task_for, spec):
    import torch

    task = task_for(spec)
    before = bench.draw(task)
    weight = bench.load(task).pipe.vae.decoder.conv_in.weight
    drawn = bench.draw(task.changed(switches=Switches(channels_last=True)))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(drawn.astype(int) - before).max() <= 1
    assert np.array_equal(bench.draw(task), before)
    assert weight.is_contiguous()


# --- what the table says of diffusers -----------------------------------------------------------


def test_every_option_of_a_cache_is_one_its_class_has() -> None:
    import dataclasses

    from diffusers import hooks
    from diffusers.hooks import mag_cache

    for row in load_switches().step_cache.values():
        names = {entry.name for entry in dataclasses.fields(getattr(hooks, row.config))}
        named = {row.steps_option, row.warm_up_option} - {None}
        assert {*row.options, *named} <= names
        assert row.ratios is None or hasattr(mag_cache, row.ratios)


def test_every_backend_is_one_diffusers_has_and_none_downloads_code() -> None:
    from diffusers.models.attention_dispatch import _HUB_KERNELS_REGISTRY, AttentionBackendName

    for row in load_switches().attention.values():
        assert AttentionBackendName(row.backend) not in _HUB_KERNELS_REGISTRY


# --- through a real worker -----------------------------------------------------------------------


@every_cache
async def test_a_worker_draws_with_the_cache_of_a_plan_and_then_without(studio, task_for, cache):
    task = task_for(TEXT2IMG, steps=STEPS)
    before = await studio.draw(task)
    cached = task.changed(switches=switches_with(cache))
    first = await studio.draw(cached)
    long = cached.changed(width=256, height=256, seeds=(1, 2, 3, 4))
    stopped = await studio.draw(long, cancel_after_step=7)
    after = await studio.draw(task)
    assert isinstance(first.final, Done), first.final
    assert isinstance(stopped.final, Cancelled)
    assert first.pixels != before.pixels
    assert after.pixels == before.pixels
    assert (await studio.draw(cached)).pixels == first.pixels


async def test_a_plan_made_for_another_machine_is_refused(studio, task_for):
    task = task_for(TEXT2IMG, switches=Switches(attention="native_cudnn"))
    drawing = await studio.draw(task)
    assert isinstance(drawing.final, Failed)
    assert drawing.final.error.code == "unsupported_option"
    assert "it needs cuda, this draws on cpu" in drawing.final.error.message


def test_a_switch_this_device_lacks_is_refused_before_anything_is_set(bench, task_for):
    task = task_for(TEXT2IMG, switches=Switches(attention="sage", channels_last=True))
    resident = bench.load(task)
    with pytest.raises(UnsupportedOptionError, match="needs cuda"):
        bench.board.apply(task.plan, resident, bench.said.append)
    assert resident.pipe.vae.decoder.conv_in.weight.is_contiguous()
