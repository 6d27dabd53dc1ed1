"""Control LoRAs: what diffusers draws with them, on a base that is never touched."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import (
    InternalError,
    JobCancelledError,
    LoraMismatchError,
    UnsupportedOptionError,
    WeightsInvalidError,
)
from flux_mcp.models.hub.cache import Snapshot, require_snapshot
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import list_parts
from flux_mcp.pipelines.loading.pipeline_files import open_control_lora
from flux_mcp.pipelines.loras.adapters import KEPT_ADAPTERS
from flux_mcp.pipelines.loras.layers import CONTROL_ADAPTER
from flux_mcp.requests.render_plan import PlanLora
from tests.models.control_lora_files import bfl, in_diffusers_names
from tests.models.lora_files import STRIPED, Tensors, pair, write
from tests.pipelines.harness import TINY, Studio, make_task
from tests.pipelines.harness import image as picture
from tests.pipelines.loading.conftest import CHANNELS

pytestmark = pytest.mark.usefixtures("torch_here")

NARROW = 32
SMALL = {"width": 64, "height": 64, "steps": 2}


def unload(studio: Studio, spec: ModelSpec) -> None:
    """Let a row be loaded again; its base stays."""
    studio.residency._drop([f"{spec.kind}/{spec.id}"])


def drawn(
    studio: Studio, spec: ModelSpec, image: Image.Image | None = None, *loras: PlanLora
) -> np.ndarray:
    inputs = None if image is None else [("control", image)]
    size = SMALL if spec.precision == "fp32" else TINY
    return studio.draw(make_task(spec, inputs, **size, loras=loras)).images[0]


# --- what it draws -------------------------------------------------------------------------------


def stock(studio: Studio, spec: ModelSpec) -> Any:
    """Put the file onto a base of its own as diffusers does; the studio then draws with that."""
    import diffusers

    resident = studio.load(spec)
    micro = studio.rows.find("text2img", "micro")
    snapshot = require_snapshot(micro, studio.rows, studio.settings)
    (base,) = (part for part in list_parts(micro, snapshot) if part.name == "transformer")
    parts = resident.pipe.components | {"transformer": load_part(base, "fp32").eval()}
    pipe = diffusers.FluxControlPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    path = spec.file
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="control")
    studio.residency._pipelines[f"control/{spec.id}"] = replace(resident, pipe=pipe)
    return pipe


@pytest.mark.parametrize(
    ("has_norms", "has_biases", "most_levels"),
    [(False, False, 0), (True, False, 0), (True, True, 1)],
)
def test_it_draws_what_the_stock_call_of_diffusers_draws(
    studio, config, row_for, tmp_path, has_norms, has_biases, most_levels
):
    """To the bit; where biases are added up beforehand, to a rounding."""
    tensors = bfl(config, CHANNELS, has_norms=has_norms, has_biases=has_biases)
    spec = row_for(write(tmp_path / "one.safetensors", in_diffusers_names(tensors)))
    ours = drawn(studio, spec)
    stock(studio, spec)
    theirs = drawn(studio, spec)
    assert np.abs(ours.astype(int) - theirs).max() <= most_levels
    assert ours.std() > 10


def test_each_part_of_the_file_counts(studio, config, row_for, tmp_path):
    """Otherwise the comparison with diffusers would show nothing."""
    whole = bfl(config, CHANNELS)
    ends = {"all": "", "biases": ".bias", "norms": ".scale"}
    images = []
    for name, end in ends.items():
        kept = {key: one for key, one in whole.items() if not (end and key.endswith(end))}
        images.append(drawn(studio, row_for(write(tmp_path / f"{name}.safetensors", kept))))
    assert not any(np.array_equal(images[0], other) for other in images[1:])


def test_both_ways_to_name_its_layers_draw_the_same(studio, edges, row_for, tmp_path):
    from safetensors.numpy import load_file

    renamed = write(tmp_path / "renamed.safetensors", in_diffusers_names(load_file(edges.file)))
    assert np.array_equal(drawn(studio, row_for(renamed)), drawn(studio, edges))


def test_what_is_drawn_follows_the_control_image(studio, edges):
    one, other = picture(), picture().rotate(90)
    assert not np.array_equal(drawn(studio, edges, one), drawn(studio, edges, other))


# --- the base ------------------------------------------------------------------------------------


def test_the_base_draws_as_before_while_both_are_loaded(studio, micro, edges):
    before = drawn(studio, micro)
    followed = drawn(studio, edges)
    for _ in range(2):
        assert np.array_equal(drawn(studio, micro), before)
        assert np.array_equal(drawn(studio, edges), followed)
    assert {"text2img/micro", "control/edges"} <= set(studio.residency.loaded)


def test_it_draws_the_same_whichever_was_loaded_first(fresh, studio, micro, edges):
    first = drawn(fresh, edges)
    drawn(studio, micro)
    unload(studio, edges)
    assert np.array_equal(drawn(studio, edges), first)


def test_all_other_weights_are_the_bases_own(fresh, micro, edges):
    base = fresh.load(micro).pipe.transformer
    before = {name: value.clone() for name, value in base.state_dict().items()}
    over = fresh.load(edges).pipe.transformer
    own = {name.replace(".base_layer", ""): one for name, one in over.named_parameters()}
    changed = {
        name
        for name, parameter in base.named_parameters()
        if own[name].data_ptr() != parameter.data_ptr()
    }
    # What the file says something of, itself: the first layer, norms of the attention, biases.
    assert changed == {
        name
        for name, _ in base.named_parameters()
        if name == "x_embedder.weight" or ".attn.norm_" in name or name.endswith(".bias")
    }
    assert (base.config.in_channels, over.config.in_channels) == (NARROW, CHANNELS)
    assert base.x_embedder.in_features == NARROW
    assert not any("lora" in name for name, _ in base.named_modules())
    assert all(np.array_equal(value, before[name]) for name, value in base.state_dict().items())


def test_two_of_them_share_one_base(studio, edges, config, row_for, tmp_path):
    other = row_for(write(tmp_path / "depth.safetensors", bfl(config, CHANNELS, rank=3)))
    before = studio.said.count("loading transformer")
    one, two = (studio.load(row).pipe.transformer for row in (edges, other))
    name = "transformer_blocks.0.attn.to_q.base_layer.weight"
    assert one.get_parameter(name).data_ptr() == two.get_parameter(name).data_ptr()
    assert studio.said.count("loading transformer") <= before + 1


def test_its_fingerprint_is_of_the_base_and_of_the_file(studio, micro, edges, row_for, tmp_path):
    same = tmp_path / "same.safetensors"
    same.write_bytes(edges.file.read_bytes())
    other = write(tmp_path / "other.safetensors", {})
    other.write_bytes(edges.file.read_bytes()[:-4] + b"\0\0\0\0")
    found = [
        studio.load(row).weights_sha256 for row in (micro, edges, row_for(same), row_for(other))
    ]
    assert found[1] == found[2]
    assert len(set(found)) == 3


def test_a_base_that_is_being_offloaded_is_not_copied(fresh, micro, edges):
    from accelerate.hooks import ModelHook, add_hook_to_module

    base = fresh.load(micro).pipe.transformer
    add_hook_to_module(base.transformer_blocks[0], ModelHook())
    with pytest.raises(InternalError, match="hooks"):
        fresh.load(edges)


# --- LoRAs of a plan on top ----------------------------------------------------------------------


def block(number: int = 0, **how: Any) -> Tensors:
    return pair(f"transformer.transformer_blocks.{number}.attn.to_out.0", 128, 128, **how)


@pytest.fixture
def with_loras(studio: Studio) -> Callable[..., np.ndarray]:
    return lambda spec, *loras: drawn(studio, spec, None, *loras)


def test_a_lora_on_top_leaves_nothing_behind(with_loras, put, micro, edges):
    striped = put("striped")
    plain, before = with_loras(edges), with_loras(micro)
    with_lora = with_loras(edges, striped)
    assert not np.array_equal(with_lora, plain)
    assert np.array_equal(with_loras(edges), plain)
    assert np.array_equal(with_loras(micro), before)
    assert np.array_equal(with_loras(edges, striped), with_lora)


def test_a_lora_on_top_draws_what_diffusers_draws(
    studio, with_loras, put, config, row_for, tmp_path
):
    tensors = bfl(config, CHANNELS, has_biases=False)
    spec = row_for(write(tmp_path / "one.safetensors", in_diffusers_names(tensors)))
    ours = with_loras(spec, put("striped", weight=0.7))
    pipe = stock(studio, spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        pipe.load_lora_weights(str(STRIPED), adapter_name="striped")
    pipe.set_adapters(["control", "striped"], [1.0, 0.7])
    assert np.array_equal(drawn(studio, spec), ours)


def test_a_base_with_loras_on_it_is_copied_without_them(studio, with_loras, put, micro, edges):
    alone = drawn(studio, edges)
    unload(studio, edges)
    striped = put("striped")
    with_lora = with_loras(micro, striped)
    assert np.array_equal(with_loras(edges), alone)
    assert set(studio.load(edges).pipe.transformer.peft_config) == {CONTROL_ADAPTER}
    assert np.array_equal(with_loras(micro, striped), with_lora)


@pytest.mark.torture
def test_only_the_newest_loras_stay_on_it_and_the_control_lora_does(with_loras, put, studio, edges):
    plain = with_loras(edges)
    many = [put(f"one{n}", block(n % 2, rank=n + 1)) for n in range(KEPT_ADAPTERS + 2)]
    images = [with_loras(edges, lora) for lora in many]
    carried = set(studio.load(edges).pipe.transformer.peft_config)
    assert carried == {CONTROL_ADAPTER, *(lora.sha256 for lora in many[-KEPT_ADAPTERS:])}
    assert np.array_equal(with_loras(edges), plain)
    assert np.array_equal(with_loras(edges, many[0]), images[0])


def test_a_lora_that_fails_takes_nothing_else_with_it(with_loras, put, studio, edges):
    plain, good = with_loras(edges), put("good", block())
    with_good = with_loras(edges, good)
    # Trained on fill, whose first layer is wider than this one.
    narrow = put("narrow", pair("transformer.x_embedder", 320, 128), block())
    with pytest.raises(LoraMismatchError, match="x_embedder"):
        with_loras(edges, good, narrow)
    transformer = studio.load(edges).pipe.transformer
    assert set(transformer.peft_config) == {CONTROL_ADAPTER}
    assert studio.engine.adapters.carried(transformer) == ()
    assert np.array_equal(with_loras(edges), plain)
    assert np.array_equal(with_loras(edges, good), with_good)


def test_a_lora_that_is_attached_in_part_is_taken_off(with_loras, put, studio, edges, monkeypatch):
    plain = with_loras(edges)
    transformer = studio.load(edges).pipe.transformer
    load = transformer.load_lora_adapter

    def lose_one(matrices: dict[str, Any], **options: Any) -> None:
        load(dict(list(matrices.items())[2:]), **options)

    monkeypatch.setattr(transformer, "load_lora_adapter", lose_one, raising=False)
    with pytest.raises(InternalError, match="attached in part"):
        with_loras(edges, put("striped"))
    assert set(transformer.peft_config) == {CONTROL_ADAPTER}
    assert np.array_equal(with_loras(edges), plain)


# --- stopped -------------------------------------------------------------------------------------


def test_a_cancel_in_the_middle_leaves_nothing_behind(studio, micro, edges):
    before, followed = drawn(studio, micro), drawn(studio, edges)
    with pytest.raises(JobCancelledError):
        studio.draw(make_task(edges, **SMALL), stop_after=1)
    assert np.array_equal(drawn(studio, edges), followed)
    assert np.array_equal(drawn(studio, micro), before)


@pytest.mark.parametrize("at", ["loading control LoRA", "loading control LoRA, "])
def test_loading_that_is_stopped_leaves_the_base_as_it_was(studio, micro, edges, at):
    before = drawn(studio, micro)
    unload(studio, edges)

    def stop(message: str) -> None:
        if message == at or (at.endswith(" ") and message.startswith(at)):
            raise JobCancelledError("stop")

    with pytest.raises(JobCancelledError):
        studio.residency.pipeline(edges, "resident", stop)
    assert "control/edges" not in studio.residency.loaded
    assert np.array_equal(drawn(studio, micro), before)
    assert drawn(studio, edges).std() > 0


# --- bases in other formats ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "precision", ["q8_0", *(pytest.param(p, marks=pytest.mark.torture) for p in ("bf16", "int8"))]
)
def test_it_is_merged_onto_a_base_in_any_format(settings, micro, edges, micro_gguf, precision):
    changes = {"precision": precision}
    own = {"gguf": micro_gguf(precision.upper())} if precision.startswith("q") else {}
    base, over = micro.model_copy(update=own | changes), edges.model_copy(update=changes)
    fresh = Studio(settings, (base,))
    before = drawn(fresh, base)
    one = drawn(fresh, over, picture())
    assert not np.array_equal(drawn(fresh, over, picture().rotate(90)), one)
    assert np.array_equal(drawn(fresh, base), before)
    transformers = [fresh.load(row).pipe.transformer for row in (base, over)]
    first, second = (t.transformer_blocks[1].attn.to_q for t in transformers)
    assert second.base_layer.weight is first.weight
    x_embedder = transformers[0].x_embedder
    import torch

    units = torch.eye(NARROW, dtype=transformers[0].dtype)
    unpacked = (x_embedder(units) - x_embedder(torch.zeros_like(units))).T.float()
    widened = transformers[1].x_embedder.base_layer.weight
    assert torch.allclose(widened[:, :NARROW].float(), unpacked, atol=0.02)
    assert not widened[:, NARROW:].any()


def test_a_format_that_takes_no_loras_takes_none_of_these(fresh, edges):
    with pytest.raises(UnsupportedOptionError, match="in fp8 take no LoRAs, and edges is one"):
        fresh.load(edges.model_copy(update={"precision": "fp8"}))


# --- wrong files ---------------------------------------------------------------------------------


def wrong(config: dict[str, Any]) -> dict[str, tuple[Tensors, str]]:
    """Return files that are refused, with what is said of them."""
    good = bfl(config, CHANNELS)
    style = {name: one for name, one in good.items() if "img_in" not in name}
    bias, norm = "double_blocks.0.img_attn.proj.lora_B.bias", "single_blocks.1.norm.key_norm.scale"
    huge = {**config, "num_attention_heads": 5}
    ones = np.ones
    return {
        "style": (style, "nothing in it takes in a control image"),
        "narrow": (bfl(config, NARROW), "'img_in' is 32 to 128, that of micro 64 to 128"),
        "larger": (bfl(huge, CHANNELS), "layer 'double_blocks.0.img_attn.proj' is 160 to 160"),
        "deeper": (bfl({**config, "num_layers": 3}, CHANNELS), "no layer 'double_blocks.2."),
        "bias": ({**good, bias: ones(7, np.float32)}, "'double_blocks.0.img_attn.proj' do not fit"),
        "norm": ({**good, norm: ones(7, np.float32)}, "shape (7,), that of micro (32,)"),
        "more": ({**good, "img_in.weight": ones((8, 8), np.float32)}, "such as 'img_in.weight'"),
        "words": (good | pair("lora_te1_x", 8, 8, ends="lora_down"), "trained on a text encoder"),
        "nan": ({**good, norm: np.full(32, np.nan, np.float32)}, "NaN or infinite"),
        "none": ({"x": ones(4, np.float32)}, "1 of its tensors are no LoRA layers"),
    }


NAMES = ("style", "narrow", "larger", "deeper", "bias", "norm", "more", "words", "nan", "none")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_does_not_fit_is_refused(fresh, micro, config, row_for, tmp_path, name):
    tensors, says = wrong(config)[name]
    spec = row_for(write(tmp_path / f"{name}.safetensors", tensors))
    with pytest.raises(WeightsInvalidError) as refused:
        fresh.load(spec)
    assert says in refused.value.message
    assert f"{name}.safetensors cannot be merged onto micro to draw with {name}:" in str(
        refused.value
    )
    assert refused.value.hint
    # Its numbers are looked at once it is read; all else is known before anything is.
    assert any(line.startswith("loading") for line in fresh.said) == (name == "nan")
    assert fresh.residency.loaded == ()
    assert not list(fresh.residency.store)


@pytest.mark.parametrize("keep_bytes", [4, 400, -8])
def test_a_file_that_is_cut_off_is_refused(fresh, edges, row_for, tmp_path, keep_bytes):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(edges.file.read_bytes()[:keep_bytes])
    with pytest.raises(WeightsInvalidError, match=r"cut short|no safetensors header"):
        fresh.load(row_for(file))
    assert fresh.said == []


def test_of_several_files_none_is_guessed_at(settings, edges, micro):
    snapshot = require_snapshot(micro, Registry((micro,)), settings)
    (base,) = (part for part in list_parts(micro, snapshot) if part.name == "transformer")
    two = (edges.file, edges.file.with_name("more.safetensors"))
    with pytest.raises(WeightsInvalidError, match="more than one safetensors file") as refused:
        open_control_lora(edges, Snapshot(edges.file.parent, edges.file.parent, None, two), base)
    assert refused.value.message.endswith("edges.safetensors, more.safetensors.")
    assert "file = " in refused.value.hint
