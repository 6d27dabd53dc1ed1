"""LoRAs on real micro pipelines: they do what diffusers makes them do, and leave nothing behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_mcp.errors import (
    InternalError,
    InvalidLoraError,
    JobCancelledError,
    LoraMismatchError,
    UnsupportedOptionError,
    WeightsInvalidError,
)
from flux_mcp.models.registry import load_registry
from flux_mcp.pipelines.loras.adapters import KEPT_ADAPTERS, LoraAdapters
from flux_mcp.requests.render_plan import PlanLora
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import Tensors, lokr_of, pair, write
from tests.pipelines.harness import Studio, Task, make_task

REGISTRY = load_registry()
MICRO = [row for row in REGISTRY if row.is_demonstration]
every_kind = pytest.mark.parametrize("spec", MICRO, ids=[row.kind for row in MICRO])
TEXT2IMG = REGISTRY.find("text2img", "micro")
FILL = REGISTRY.find("fill", "micro")


def block(number: int = 0, **how: Any) -> Tensors:
    return pair(f"transformer.transformer_blocks.{number}.attn.to_out.0", 128, 128, **how)


# --- by kind -------------------------------------------------------------------------------------


@every_kind
def test_it_changes_the_image_and_the_next_one_is_as_before_also_after_a_cancel(studio, put, spec):
    task = make_task(spec, steps=2)
    striped = task.changed(loras=(put("striped"),))
    before = studio.pixels(task)
    first = studio.pixels(striped)
    assert first != before
    assert studio.pixels(task) == before
    assert studio.pixels(striped) == first
    with pytest.raises(JobCancelledError):
        studio.draw(striped, stop_after=1)
    assert studio.pixels(task) == before


def test_a_transformer_that_two_kinds_share_is_clean_for_the_other(studio, put):
    redux, text2img = (
        make_task(row, steps=2) for row in (REGISTRY.find("redux", "micro"), TEXT2IMG)
    )
    before = [studio.pixels(task) for task in (redux, text2img)]
    striped = put("striped")
    studio.draw(text2img, loras=(striped,))
    assert studio.pixels(redux) == before[0]
    studio.draw(redux, loras=(striped,))
    assert [studio.pixels(task) for task in (redux, text2img)] == before


# --- what is on a transformer --------------------------------------------------------------------


@dataclass
class Easel:
    """The text2img pipeline of an engine of its own: what is on its transformer is looked at."""

    studio: Studio
    task: Task

    @property
    def resident(self) -> Any:
        return self.studio.load(TEXT2IMG)

    @property
    def transformer(self) -> Any:
        return self.resident.pipe.transformer

    @property
    def adapters(self) -> LoraAdapters:
        return self.studio.engine.adapters

    def draw(self, *loras: PlanLora) -> np.ndarray:
        return self.studio.draw(self.task, loras=loras).images[0]

    def state(self) -> dict[str, Any]:
        """Return a copy of every number of the transformer."""
        return {name: value.clone() for name, value in self.transformer.state_dict().items()}

    def is_bare(self) -> bool:
        return not any("lora" in name for name, _ in self.transformer.named_modules())


@pytest.fixture(scope="module")
def own_studio(settings: Settings, torch_here: None) -> Studio:
    return Studio(settings)


@pytest.fixture
def easel(own_studio: Studio, settings: Settings) -> Iterator[Easel]:
    own_studio.engine.adapters = LoraAdapters(settings.paths.loras)
    easel = Easel(own_studio, make_task(TEXT2IMG, steps=2))
    yield easel
    if getattr(easel.transformer, "peft_config", None):
        easel.transformer.unload_lora()


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_several_count_each_with_its_weight(easel, put):
    striped, other = put("striped"), put("other", block(), block(1))

    def drawn(*loras: PlanLora) -> bytes:
        return easel.draw(*loras).tobytes()

    half = striped.model_copy(update={"weight": 0.5})
    none = striped.model_copy(update={"weight": 0.0})
    seen = [
        drawn(),
        drawn(striped),
        drawn(half),
        drawn(other),
        drawn(other, striped),
        drawn(other, half),
        drawn(other.model_copy(update={"weight": -1.0}), striped),
    ]
    assert len(set(seen)) == len(seen)
    assert drawn(none) == seen[0]
    assert drawn(other, none) == seen[3]
    assert drawn(other, striped) == seen[4]


def test_a_file_that_changed_after_the_plan_fails_the_job(easel, put, settings):
    before = easel.draw()
    planned = put("changing", block())
    put("changing", block(1))
    with pytest.raises(WeightsInvalidError, match="'changing' was changed or removed"):
        easel.draw(planned)
    (settings.paths.loras / "changing.safetensors").unlink()
    with pytest.raises(WeightsInvalidError):
        easel.draw(planned)
    assert np.array_equal(easel.draw(), before)


def test_it_draws_what_the_stock_call_of_diffusers_draws(easel, put, settings):
    striped = put("striped", weight=0.7)
    ours = easel.draw(striped)
    easel.transformer.unload_lora()
    easel.resident.pipe.load_lora_weights(
        settings.paths.loras, weight_name="striped.safetensors", adapter_name="stock"
    )
    easel.resident.pipe.set_adapters("stock", 0.7)
    assert np.array_equal(easel.draw(), ours)


def test_it_is_off_between_jobs_and_its_base_is_untouched(easel, put):
    before = easel.state()
    easel.draw(put("striped"))
    after = {
        name.replace(".base_layer", ""): value
        for name, value in easel.state().items()
        if ".lora_" not in name
    }
    assert same_state(after, before)
    layers = [m for m in easel.transformer.modules() if hasattr(m, "disable_adapters")]
    assert layers
    assert all(layer.disable_adapters for layer in layers)


def test_an_adapter_is_loaded_once_for_the_jobs_that_follow(easel, put):
    striped = put("striped")
    loads: list[str] = []
    for _ in range(3):
        easel.adapters.prepare([striped], easel.resident, loads.append)
    assert loads == ["loading LoRA striped"]


def test_a_content_that_is_held_is_drawn_with_even_if_the_file_is_gone(easel, put, settings):
    """The plan names a content; it is this one."""
    striped = put("striped")
    first = easel.draw(striped)
    (settings.paths.loras / "striped.safetensors").unlink()
    assert np.array_equal(easel.draw(striped), first)


def test_only_the_newest_stay_and_pixels_do_not_depend_on_it(easel, put):
    before = easel.draw()
    many = [put(f"one{n}", block(n % 2, rank=n + 1)) for n in range(KEPT_ADAPTERS + 2)]
    drawn = [easel.draw(lora) for lora in many]
    newest = tuple(lora.sha256 for lora in many[-KEPT_ADAPTERS:])
    assert easel.adapters.carried(easel.transformer) == newest
    assert set(easel.transformer.peft_config) == set(newest)
    assert np.array_equal(easel.draw(), before)
    for lora, pixels in zip(many, drawn, strict=True):
        assert np.array_equal(easel.draw(lora), pixels)


def test_more_at_once_than_are_kept_are_all_drawn_with(easel, put):
    many = [put(f"one{n}", block(n % 2, rank=n + 1)) for n in range(KEPT_ADAPTERS + 2)]
    together = easel.draw(*many)
    assert len(easel.adapters.carried(easel.transformer)) == len(many)
    for lora in many:
        left = [other for other in many if other is not lora]
        assert not np.array_equal(easel.draw(*left), together)
    assert np.array_equal(easel.draw(*many), together)


def fits_not() -> Tensors:
    return pair("transformer.transformer_blocks.0.attn.to_out.0", 40, 128)


def not_finite() -> Tensors:
    tensors = block()
    next(iter(tensors.values()))[0, 0] = np.nan
    return tensors


def write_unseen(path: Path, tensors: Tensors) -> PlanLora:
    """Write a file the library would not list, as if it had been planned with."""
    import hashlib

    write(path, tensors)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return PlanLora(name=path.stem, sha256=digest, weight=1.0)


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        (fits_not(), LoraMismatchError),
        (pair("transformer.other.layer", 128, 128), LoraMismatchError),
        (not_finite(), InvalidLoraError),
        ({"transformer.x_embedder.weight": np.ones((8, 8), np.float32)}, InvalidLoraError),
    ],
)
@pytest.mark.parametrize("after_a_good_one", [False, True])
def test_a_load_that_fails_leaves_the_transformer_as_it_was(
    easel, put, settings, tensors, error, *, after_a_good_one
):
    before, image = easel.state(), easel.draw()
    good = [put("striped")] if after_a_good_one else []
    broken = write_unseen(settings.paths.loras / "broken.safetensors", tensors)
    with pytest.raises(error):
        easel.draw(*good, broken)
    assert easel.is_bare()
    assert same_state(easel.state(), before)
    assert easel.adapters.carried(easel.transformer) == ()
    assert np.array_equal(easel.draw(), image)


def test_a_load_that_is_stopped_leaves_the_transformer_as_it_was(easel, put):
    before = easel.state()

    def stop_at_the_second(message: str) -> None:
        if message.endswith("other"):
            raise JobCancelledError("The job was cancelled.")

    with pytest.raises(JobCancelledError):
        easel.adapters.prepare(
            [put("striped"), put("other", block())], easel.resident, stop_at_the_second
        )
    assert easel.is_bare()
    assert same_state(easel.state(), before)


def test_a_lora_that_arrives_in_part_is_noticed(easel, put, monkeypatch):
    """As diffusers does with names it does not know: no error, and the layers are not there."""
    load = easel.transformer.load_lora_adapter

    def lose_one(matrices: dict[str, Any], **options: Any) -> None:
        kept = list(matrices)[2:]
        load({name: matrices[name] for name in kept}, **options)

    monkeypatch.setattr(easel.transformer, "load_lora_adapter", lose_one, raising=False)
    with pytest.raises(InternalError, match="attached in part: 50 of 52 matrices"):
        easel.draw(put("striped"))
    assert easel.is_bare()


def test_an_error_while_drawing_switches_it_off(easel, put):
    image, striped = easel.draw(), put("striped")
    easel.adapters.prepare([striped], easel.resident, lambda _: None)
    with (
        pytest.raises(RuntimeError, match="broke"),
        easel.adapters.active([striped], easel.resident),
    ):
        raise RuntimeError("broke")
    assert np.array_equal(easel.draw(), image)


def test_a_lokr_of_a_folder_leaves_the_transformer_as_it_was(easel, put, settings):
    """Beside a LoRA on the same layers, with a suffix in capitals, also after one that fails."""
    before, image, striped = easel.state(), easel.draw(), put("striped")
    name = "styles/my lokr (v2)"
    lokr = put(name, lokr_of("lora_unet_double_blocks_0_img_attn_qkv", 128, 384))
    path = settings.paths.loras / f"{name}.safetensors"
    path.rename(path.with_suffix(".SAFETENSORS"))
    together = easel.draw(striped, lokr)
    seen = {one.tobytes() for one in (image, together, easel.draw(lokr), easel.draw(striped))}
    assert len(seen) == 4
    assert np.array_equal(easel.draw(lokr.model_copy(update={"weight": 0.0})), image)
    assert np.array_equal(easel.draw(striped, lokr), together)
    broken = write_unseen(settings.paths.loras / "broken.safetensors", fits_not())
    with pytest.raises(LoraMismatchError):
        easel.draw(lokr, broken)
    assert easel.is_bare()
    assert same_state(easel.state(), before)
    assert np.array_equal(easel.draw(), image)


def test_a_slot_of_compiled_blocks_takes_no_lokr(easel, put):
    """A plan with one is made without compilation; here it is asked for all the same."""
    lokr = put("lokr", lokr_of("lora_unet_double_blocks_0_img_attn_qkv", 128, 384))
    with pytest.raises(UnsupportedOptionError, match="'lokr' is a LoKr or has biases"):
        easel.adapters.prepare([lokr], easel.resident, lambda _: None, compiled=True)
    assert easel.is_bare()


def test_kohyas_names_and_alpha_draw_the_same(easel, put):
    """The same numbers under other names: q, k and v in one, and half the scale twice as large."""
    fused = pair("lora_unet_double_blocks_0_img_attn_qkv", 128, 384, ends="lora_down", alpha=1.0)
    down, up = list(fused.values())[:2]
    split: Tensors = {}
    for part, rows in zip("qkv", np.split(up, 3), strict=True):
        layer = f"transformer.transformer_blocks.0.attn.to_{part}"
        split[f"{layer}.lora_A.weight"] = down
        split[f"{layer}.lora_B.weight"] = np.ascontiguousarray(rows) * np.float32(0.5)
    drawn = easel.draw(put("fused", fused))
    assert np.array_equal(easel.draw(put("split", split)), drawn)
    assert not np.array_equal(easel.draw(), drawn)


def test_a_pipeline_that_is_loaded_again_carries_nothing(easel, put):
    """What is known of a transformer goes with it."""
    easel.draw(put("striped"))
    assert easel.adapters.carried(easel.transformer)
    other = easel.studio.load(FILL)
    assert easel.adapters.carried(other.pipe.transformer) == ()


def test_nothing_is_asked_of_a_transformer_without_loras(easel):
    easel.adapters.prepare([], easel.resident, lambda _: None)
    with easel.adapters.active([], easel.resident):
        assert easel.is_bare()


def test_the_files_hash_is_what_counts_and_not_its_name(easel, put, settings):
    striped = put("striped")
    other = striped.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(WeightsInvalidError):
        easel.draw(other)
    assert easel.is_bare()
    assert settings.paths.loras.is_dir()
