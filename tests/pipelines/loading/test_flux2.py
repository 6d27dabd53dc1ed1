"""FLUX.2 keeps the contract of every kind: klein, klein's base model and dev, very small."""

import io
from functools import cache
from itertools import product

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import (
    InvalidRequestError,
    JobCancelledError,
    UnsupportedOptionError,
    WeightsInvalidError,
)
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.pipelines.families.adapter import open_images
from flux_mcp.pipelines.families.family import adapter_for, family_of
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import list_parts
from flux_mcp.pipelines.texts import encode_text, steered_from
from flux_mcp.requests.geometry import Size, reference_size
from tests.pipelines.harness import Studio
from tests.pipelines.harness import image as picture
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")

DEV = {
    "pipeline": "Flux2Pipeline",
    "id": "tiny-dev",
    "takes_guidance": True,
    "default_guidance": 4.0,
    "max_sequence_length": 512,
}
BASE = {"id": "tiny-base", "takes_guidance": True, "default_guidance": 3.0}
WEIGHTS = {"klein": {}, "base": BASE, "dev": DEV}
REFERENCES = [("reference", picture()), ("reference", picture(200, 100))]


USUAL = {("klein", "text2img"), ("klein", "kontext"), ("base", "text2img"), ("dev", "kontext")}
"""Each of the weights and each kind; the other pairs are asked by `make torture`."""


@pytest.fixture(
    params=[
        pytest.param(case, id="-".join(case), marks=[] if case in USUAL else [pytest.mark.torture])
        for case in product(WEIGHTS, ("text2img", "kontext"))
    ]
)
def spec(request, klein_dir):
    weights, kind = request.param
    return klein_row(kind, klein_dir / weights, **WEIGHTS[weights])


@pytest.fixture
def task(spec, task_for):
    inputs = REFERENCES if spec.kind == "kontext" else []
    return task_for(spec, inputs=inputs, width=64, height=96, steps=2)


@pytest.fixture(scope="module")
def easel(settings, torch_here):
    """An engine for all tests of this file: each of the pipelines is loaded once."""
    return Studio(settings)


@pytest.fixture
def drawn(easel):
    return easel.draw


def test_it_renders_the_size_of_the_plan_and_reports_each_step_with_a_preview(drawn, task):
    result = drawn(task, steps=3, seeds=(1, 2), preview_every=1)
    assert result.steps == [1, 2, 3, 3, 4, 5, 6]  # 3 again: the second pass begins
    assert [p.shape for p in result.images] == [(96, 64, 3)] * 2
    assert result.images[0].std() > 20
    assert (result.images[0] != result.images[1]).any()
    assert [step for _index, step, _webp, _size in result.previews] == [1, 2, 3, 4, 5, 6]
    for _index, _step, webp, size in result.previews:
        with Image.open(io.BytesIO(webp), formats=("WEBP",)) as preview:
            assert preview.size == size == (64, 96)


def test_it_stops_within_a_step_and_draws_the_same_pixels_afterwards(easel, task):
    before = easel.pixels(task)
    with pytest.raises(JobCancelledError):
        easel.draw(task, stop_after=1)
    assert easel.last.steps == [1]
    assert easel.pixels(task) == before
    assert easel.pixels(task, prompt="a green star on a yellow background") != before


def test_each_seed_draws_the_same_alone_as_one_of_several_and_in_one_pass(drawn, task):
    several = drawn(task, seeds=(5, 6, 7))
    assert drawn(task, seeds=(6,)).pixels == several.pixels[1:2]
    batched = drawn(task, seeds=(5, 6, 7), batched=True)
    assert batched.steps == [1, 2]
    for ours, alone in zip(batched.images, several.images, strict=True):
        assert np.abs(ours.astype(int) - alone).max() <= 2


@pytest.mark.parametrize(
    "weights",
    ["klein", *(pytest.param(name, marks=pytest.mark.torture) for name in ("base", "dev"))],
)
def test_image_to_image_begins_between_the_image_and_the_noise_of_text2img(
    easel, klein_dir, task_for, weights
):
    """At strength 1 with the very pixels of text2img; with the image itself at next to none."""
    from_words = klein_row("text2img", klein_dir / weights, **WEIGHTS[weights])
    spec = from_words.model_copy(update={"kind": "img2img", "max_reference_images": 1})
    task = task_for(spec, width=64, height=96, steps=4, seeds=(1, 2))
    words = task_for(from_words, width=64, height=96, steps=4, seeds=(1, 2))
    assert easel.draw(task, strength=1.0).pixels == easel.draw(words).pixels
    half = easel.draw(task, strength=0.5, preview_every=1)
    assert half.steps == [1, 2, 2, 3, 4]
    assert len(half.previews) == 4
    assert easel.draw(task.changed(seeds=(2,)), strength=0.5).pixels == half.pixels[1:]
    batched = easel.draw(task, strength=0.5, batched=True)
    for ours, one in zip(batched.images, half.images, strict=True):
        assert np.abs(ours.astype(int) - one).max() <= 2
    with pytest.raises(JobCancelledError):
        easel.draw(task, strength=0.5, stop_after=1)
    assert easel.draw(task, strength=0.5).pixels == half.pixels

    import torch

    pipe = easel.load(spec).pipe
    with torch.no_grad():
        source = pipe.image_processor.preprocess(picture(64, 96), height=96, width=64)
        latents = pipe._encode_vae_image(source, generator=None)
    (start,) = _start(easel, task.changed(strength=0.001, steps=100, seeds=(1,)), spec)
    share = float(pipe.scheduler.sigmas[0])
    assert 0 < share < 0.2
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(1))
    assert (start - (share * noise + (1 - share) * latents)).abs().max() < 1e-4


def _start(easel, task, spec):
    """The latents a pass begins with."""
    resident = easel.load(spec)
    images = open_images(task.plan, task.inputs)
    adapter = adapter_for(spec)(task.plan, images, resident, easel.texts(task.plan, resident))
    return [adapter.arguments(range(1))["latents"]]


def test_a_preview_shows_the_latents_that_will_be_decoded(easel, spec, task):
    """Unpacked and freed of the batch statistics exactly as the pipeline does it."""
    import torch

    resident, plan = easel.load(spec), task.plan
    pipe = resident.pipe
    names = spec.family_spec.embeddings
    encoded = encode_text(easel.encoder(resident), names, plan.prompt, plan.max_sequence_length)
    if (away := steered_from(plan, resident)) is not None:
        encoder = easel.encoder(resident)
        negative = encode_text(encoder, names, away, plan.max_sequence_length)
        encoded |= {f"negative_{name}": tensor for name, tensor in negative.items()}
    packed = []

    def keep(_pipe, _step, _timestep, tensors):
        packed.append(tensors["latents"])
        return {}

    expected = pipe(
        **encoded,
        width=plan.width,
        height=plan.height,
        num_inference_steps=2,
        guidance_scale=plan.guidance,
        max_sequence_length=plan.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="np",
        callback_on_step_end=keep,
    ).images
    shown = family_of(spec).unpack_latents(pipe, packed[-1], plan.width, plan.height)
    assert shown.shape == (32, 12, 8)
    with torch.no_grad():
        decoded = pipe.vae.decode(torch.from_numpy(shown)[None]).sample[0]
    ours = (decoded.permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    assert np.allclose(ours, expected[0], atol=1e-4)
    colours = easel.residency.colours(easel.load(spec))
    assert colours.weights.shape == (33, 3)


@pytest.fixture(scope="module")
def stock():
    """Return a row's pipeline as diffusers itself loads it."""
    import diffusers
    import torch

    @cache
    def load(name, folder):
        pipe = getattr(diffusers, name).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        pipe.set_progress_bar_config(disable=True)
        for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
            # As they lie in a mapped file, numbers are not aligned, and a processor rounds
            # otherwise: one grey level. Ours are copies.
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.data = tensor.data.clone()
        return pipe

    return lambda spec: load(spec.pipeline, spec.folder)


def test_it_draws_what_the_stock_call_draws(drawn, stock, spec, task):
    import torch

    pipe, plan = stock(spec), task.plan
    inputs = [Image.open(io.BytesIO(task.inputs[item.sha256])) for item in plan.inputs]
    # 200x100 is no multiple of 16: the stock pipeline would cut it, ours scales it.
    images = [inputs[0], inputs[1].resize((192, 96), Image.Resampling.LANCZOS)] if inputs else None
    expected = pipe(
        prompt=plan.prompt,
        image=images,
        width=plan.width,
        height=plan.height,
        num_inference_steps=plan.steps,
        guidance_scale=plan.guidance,
        max_sequence_length=plan.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(plan.seeds[0]),
    ).images[0]
    ours = drawn(task).images[0].astype(int)
    assert np.abs(ours - np.asarray(expected)).max() == 0


def edit(klein_dir, task_for, inputs):
    spec = klein_row("kontext", klein_dir / "klein")
    return task_for(spec, inputs=[("reference", image) for image in inputs], steps=2)


def test_every_reference_changes_the_image_and_so_does_their_order(easel, klein_dir, task_for):
    one, other = picture(), Image.new("RGB", (128, 96), "red")
    drawn = {
        easel.pixels(edit(klein_dir, task_for, inputs))
        for inputs in ([one], [one, other], [other, one])
    }
    assert len(drawn) == 3


@pytest.mark.parametrize("size", [(40, 40), (1000, 100), (64, 1040)])
def test_what_is_too_small_or_too_narrow_when_planning_is_so_for_diffusers(
    easel, klein_dir, task_for, size
):
    family = klein_row("kontext", klein_dir / "klein").family_spec
    read = reference_size(Size(*size), family.reference_max_pixels or 64 * 64)
    short, long = sorted((read.width, read.height))
    assert short < family.reference_min_side_px or long > family.reference_max_ratio * short
    with pytest.raises(ValueError, match=r"too small|too extreme"):
        easel.draw(edit(klein_dir, task_for, [Image.new("RGB", size)]))


@pytest.mark.parametrize("size", [(64, 64), (512, 64), (2000, 1500)])
def test_a_reference_of_any_other_size_is_taken(easel, klein_dir, task_for, size):
    task = edit(klein_dir, task_for, [Image.new("RGB", size, "blue")])
    result = easel.draw(task, steps=1)
    assert result.images[0].shape == (64, 64, 3)


def test_an_edit_without_a_reference_is_refused(easel, klein_dir, task_for):
    with pytest.raises(InvalidRequestError, match="needs a reference"):
        easel.draw(edit(klein_dir, task_for, []))


def test_a_kind_that_the_family_has_not_is_refused(klein_dir):
    row = klein_row("text2img", klein_dir / "klein").model_copy(update={"kind": "fill"})
    with pytest.raises(UnsupportedOptionError, match="text2img, kontext"):
        adapter_for(row)


@pytest.mark.parametrize(
    ("weights", "guidance", "compares"),
    [("klein", 4.0, False), ("base", 4.0, True), ("base", 1.0, False), ("dev", 4.0, False)],
)
def test_only_the_base_model_with_guidance_compares_with_the_empty_prompt(
    easel, klein_dir, task_for, weights, guidance, compares
):
    row = klein_row("text2img", klein_dir / weights, **WEIGHTS[weights])
    plan = task_for(row, guidance=guidance).plan
    assert (steered_from(plan, easel.load(row)) == "") is compares


def test_whether_a_pipeline_is_distilled_comes_from_its_own_file(easel, klein_dir):
    assert easel.load(klein_row("text2img", klein_dir / "klein")).pipe.config.is_distilled is True
    base = easel.load(klein_row("text2img", klein_dir / "base", **BASE)).pipe
    assert base.config.is_distilled is False


def test_a_transformer_of_another_width_of_input_is_refused(klein_dir):
    folder = klein_dir / "klein"
    row = klein_row("text2img", folder, in_channels=64)
    with pytest.raises(WeightsInvalidError, match="takes 128 channels, not 64"):
        list_parts(row, Snapshot(folder, folder, revision=None))


def bfl_names(state):
    """Name and pack a transformer's tensors as Black Forest Labs' own files do."""
    import torch

    def swapped(weight):
        scale, shift = weight.chunk(2)
        return torch.cat([shift, scale])

    tensors = {}
    renamed = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "proj_out": "final_layer.linear",
    }
    block = {
        "attn.norm_q": "img_attn.norm.query_norm.scale",
        "attn.norm_k": "img_attn.norm.key_norm.scale",
        "attn.norm_added_q": "txt_attn.norm.query_norm.scale",
        "attn.norm_added_k": "txt_attn.norm.key_norm.scale",
        "attn.to_out.0": "img_attn.proj.weight",
        "attn.to_add_out": "txt_attn.proj.weight",
        "ff.linear_in": "img_mlp.0.weight",
        "ff.linear_out": "img_mlp.2.weight",
        "ff_context.linear_in": "txt_mlp.0.weight",
        "ff_context.linear_out": "txt_mlp.2.weight",
    }
    single = {
        "attn.to_qkv_mlp_proj": "linear1.weight",
        "attn.to_out": "linear2.weight",
        "attn.norm_q": "norm.query_norm.scale",
        "attn.norm_k": "norm.key_norm.scale",
    }
    for name, tensor in state.items():
        stem = name.removesuffix(".weight")
        head, _, rest = stem.partition(".")
        number, _, inside = rest.partition(".")
        if stem == "norm_out.linear":
            tensors["final_layer.adaLN_modulation.1.weight"] = swapped(tensor)
        elif head == "single_transformer_blocks":
            tensors[f"single_blocks.{number}.{single[inside]}"] = tensor
        elif head == "transformer_blocks" and inside in block:
            tensors[f"double_blocks.{number}.{block[inside]}"] = tensor
        elif head != "transformer_blocks":
            tensors[f"{renamed[stem]}.weight"] = tensor
    for number in {n.split(".")[1] for n in state if n.startswith("transformer_blocks")}:
        there = f"transformer_blocks.{number}.attn."
        for side, names in {
            "img": ("to_q", "to_k", "to_v"),
            "txt": ("add_q_proj", "add_k_proj", "add_v_proj"),
        }.items():
            tensors[f"double_blocks.{number}.{side}_attn.qkv.weight"] = torch.cat(
                [state[f"{there}{n}.weight"] for n in names]
            )
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_file_of_black_forest_labs_is_the_folder(klein_dir, tmp_path, precision):
    from safetensors.torch import save_file

    folder = klein_dir / "klein"
    snapshot = Snapshot(folder, folder, revision=None)
    row = klein_row("text2img", folder)

    def transformer(spec):
        part = next(p for p in list_parts(spec, snapshot) if p.name == "transformer")
        return load_part(part, precision)

    file = tmp_path / "flux-2-tiny.safetensors"
    save_file(bfl_names(load_part_state(row, snapshot)), file)
    ours = transformer(row.model_copy(update={"file": file})).state_dict()
    theirs = transformer(row).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[n].float().equal(theirs[n].float()) for n in theirs)


def load_part_state(row, snapshot):
    part = next(p for p in list_parts(row, snapshot) if p.name == "transformer")
    return load_part(part, "fp32").state_dict()
