"""Speed switches on real micro pipelines: they do what their rows say, and leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flux_mcp.errors import JobCancelledError, UnsupportedOptionError
from flux_mcp.models.planning.switches import Drawing, SwitchSettings, TargetDevice, choose_switches
from flux_mcp.models.registry import load_registry
from flux_mcp.models.switches import Switches, load_switches
from flux_mcp.pipelines.switches import set_attention

REGISTRY = load_registry()
MICRO = [row for row in REGISTRY if row.is_demonstration]
TEXT2IMG = REGISTRY.find("text2img", "micro")
FILL = REGISTRY.find("fill", "micro")
CACHES = tuple(load_switches().step_cache)
STEPS = 9
EVERY_KIND_AND_CACHE = [
    *(pytest.param(TEXT2IMG, cache, id=f"text2img-{cache}") for cache in CACHES),
    *(
        pytest.param(
            row,
            CACHES[0],
            id=f"{row.kind}-{CACHES[0]}",
            marks=[] if row.kind == "kontext" else [pytest.mark.torture],
        )
        for row in MICRO[1:]
    ),
]
"""Every cache with one kind and every kind with one cache: the pipeline's class decides how a cache
is told of a pass, the cache decides what it keeps."""
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


@pytest.mark.parametrize(("spec", "cache"), EVERY_KIND_AND_CACHE)
def test_a_step_cache_skips_blocks_and_leaves_nothing_behind(studio, task_for, spec, cache):
    task = task_for(spec, steps=STEPS)
    exact = studio.pixels(task)
    cached = task.changed(switches=switches_with(cache, spec))
    transformer = studio.load(spec).pipe.transformer
    with counted_blocks(transformer) as ran:
        approximate = studio.pixels(cached)
    every_block = blocks_of(transformer) * STEPS
    assert 0 < len(ran) < every_block, (len(ran), every_block)
    assert approximate != exact
    with counted_blocks(transformer) as ran:
        assert studio.pixels(task) == exact
    assert len(ran) == every_block
    # A cancel in the middle, before a job with the cache and before one without.
    with pytest.raises(JobCancelledError):
        studio.draw(cached, stop_after=7)
    assert studio.pixels(cached) == approximate
    with pytest.raises(JobCancelledError):
        studio.draw(cached, stop_after=7)
    assert studio.pixels(task) == exact


@every_cache
def test_each_of_several_images_is_the_one_it_is_alone(studio, task_for, cache):
    task = task_for(TEXT2IMG, steps=STEPS, switches=switches_with(cache))
    together = studio.draw(task.changed(seeds=(7, 8))).pixels
    assert together == [studio.pixels(task), studio.pixels(task.changed(seeds=(8,)))]


@pytest.mark.parametrize(
    "cache", [CACHES[0], *(pytest.param(cache, marks=pytest.mark.torture) for cache in CACHES[1:])]
)
def test_both_passes_of_true_guidance_have_a_cache_of_their_own(studio, task_for, cache):
    """With one for both, the negative prompt's rest would be added to the prompt's own."""

    def difference(task: Any) -> float:
        """How far off the image is with the cache."""
        exact, approximate = (
            studio.draw(one).images[0].astype(int)
            for one in (task, task.changed(switches=switches_with(cache)))
        )
        return float(np.abs(approximate - exact).mean())

    alone = task_for(TEXT2IMG, width=128, height=128, steps=STEPS)
    steered = alone.changed(negative_prompt="a green star", true_cfg_scale=2.0)
    # As far off as an image without a negative prompt, not more.
    assert 0 < difference(steered) <= 4 * difference(alone)


def test_a_first_block_that_never_changes_little_skips_nothing(studio, task_for):
    """The threshold is what decides: at zero, the image is the exact one."""
    task = task_for(TEXT2IMG, steps=STEPS)
    never = task.changed(switches=switches_with("first_block", threshold=0.0))
    transformer = studio.load(TEXT2IMG).pipe.transformer
    with counted_blocks(transformer) as ran:
        drawn = studio.pixels(never)
    assert len(ran) == blocks_of(transformer) * STEPS
    assert drawn == studio.pixels(task)


def test_the_first_steps_are_computed_whole(studio, task_for):
    task = task_for(TEXT2IMG, steps=STEPS, switches=switches_with("taylorseer"))
    transformer = studio.load(TEXT2IMG).pipe.transformer
    in_steps: list[int] = []
    with counted_blocks(transformer) as ran:
        studio.draw(task, on_step=lambda _step: in_steps.append(len(ran)))
    blocks = blocks_of(transformer)
    computed = [after - before for before, after in zip([0, *in_steps], in_steps, strict=False)]
    assert computed[:3] == [blocks] * 3
    assert set(computed[3:]) == {0, blocks}


# --- attention and memory layout -----------------------------------------------------------------


@pytest.mark.parametrize(("backend", "levels"), [("_native_flash", 0), ("_native_math", 1)])
def test_attention_of_another_backend_draws_the_same_on_a_cpu(studio, task_for, backend, levels):
    """The board sets what a plan says at each job; here nothing sets it back meanwhile.

    Sums in another order round some pixel to the next of 256 levels.
    """
    task = task_for(TEXT2IMG, steps=2)
    before = studio.pixels(task)
    transformer = studio.load(TEXT2IMG).pipe.transformer
    seen = set()

    def switch(_step: int) -> None:
        set_attention(transformer, backend)
        seen.update(backends(transformer))

    drawn = studio.pixels(task, on_step=switch)
    ours, theirs = (np.frombuffer(one, np.uint8).astype(int) for one in (drawn, before))
    assert np.abs(ours - theirs).max() <= levels
    assert seen == {backend}
    assert studio.pixels(task) == before
    assert backends(transformer) == {"native"}


def backends(transformer: Any) -> set[str]:
    return {
        str(m.processor._attention_backend.value)
        for m in transformer.modules()
        if hasattr(m, "set_attention_backend") and hasattr(m, "processor")
    }


def test_a_backend_is_that_of_one_model_and_only_while_a_plan_says_so(studio, task_for):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    default = _AttentionBackendRegistry.get_active_backend()
    task = task_for(TEXT2IMG, steps=2)
    before = studio.pixels(task)
    flash = task.changed(switches=Switches(attention="native_flash"))
    assert studio.pixels(flash) == before
    transformer = studio.load(TEXT2IMG).pipe.transformer
    other = studio.load(FILL).pipe.transformer
    assert backends(transformer) == {"_native_flash"}
    assert {m.processor._attention_backend for m in other.modules() if hasattr(m, "processor")} <= {
        None,
        "native",
    }
    assert _AttentionBackendRegistry.get_active_backend() == default
    studio.draw(task)
    assert backends(transformer) == {"native"}


def test_channels_last_rounds_by_one_grey_level_and_can_be_taken_back(studio, task_for):
    """With fill, whose VAE both encodes and decodes; all kinds share it."""
    import torch

    task = task_for(FILL, steps=2)
    before = studio.draw(task).images[0]
    weight = studio.load(FILL).pipe.vae.decoder.conv_in.weight
    drawn = studio.draw(task.changed(switches=Switches(channels_last=True))).images[0]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(drawn.astype(int) - before).max() <= 1
    assert np.array_equal(studio.draw(task).images[0], before)
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


def test_a_plan_made_for_another_machine_is_refused_before_anything_is_set(studio, task_for):
    task = task_for(TEXT2IMG, switches=Switches(attention="sage", channels_last=True))
    with pytest.raises(UnsupportedOptionError, match="it needs cuda, this draws on cpu"):
        studio.draw(task)
    assert studio.load(TEXT2IMG).pipe.vae.decoder.conv_in.weight.is_contiguous()
