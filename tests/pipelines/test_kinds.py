"""Each adapter against the stock diffusers call, and what is not left to diffusers."""

import io

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError, WeightsInvalidError
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.engine import _to_pixels
from flux_mcp.pipelines.families.adapter import open_images, region_to_draw
from flux_mcp.pipelines.families.flux1 import FAMILY
from flux_mcp.requests.geometry import DrawnRegion, Rectangle, Size, fitted_region
from flux_mcp.requests.plan import GENERATED_FROM, input_notices
from tests.pipelines.harness import SIDE, finished

SEED = 7
STEPS = 2


@pytest.fixture
def resident_of(studio, registry):
    return lambda kind: studio.load(registry.find(kind, "micro"))


@pytest.fixture
def drawn(studio):
    """Draw a task in this process and return its images as a server finishes them."""
    return lambda task: finished(task, studio.draw(task, steps=STEPS).images)


@pytest.fixture(scope="module")
def stock_base(settings, torch_here):
    import diffusers
    import torch

    return diffusers.FluxPipeline.from_pretrained(
        settings.weights_dir / "micro" / "text2img", dtype=torch.float32, local_files_only=True
    )


@pytest.fixture
def stock(settings, registry, task_for, stock_base):
    """Call the kind's pipeline as diffusers itself loads it, without any code of ours."""
    import diffusers
    import torch

    def call(kind, **arguments):
        spec = registry.find(kind, "micro")
        folder = settings.weights_dir / spec.folder
        base = pipe = stock_base
        if kind == "img2img":
            pipe = diffusers.FluxImg2ImgPipeline(
                **{name: part for name, part in base.components.items() if part is not None}
            )
        elif kind != "text2img":
            transformer = diffusers.FluxTransformer2DModel.from_pretrained(
                folder, subfolder="transformer", dtype=torch.float32, local_files_only=True
            )
            names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
            shared = {name: getattr(base, name) for name in (*names, "scheduler")}
            pipe = getattr(diffusers, spec.pipeline)(**shared, transformer=transformer)
        pipe.set_progress_bar_config(disable=True)
        image = pipe(
            prompt=task_for(spec).plan.prompt,
            width=SIDE,
            height=SIDE,
            num_inference_steps=arguments.pop("steps", STEPS),
            guidance_scale=spec.default_guidance,
            max_sequence_length=spec.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(SEED),
            **arguments,
        ).images[0]
        return np.asarray(image)

    return call


def inputs_of(task):
    return [Image.open(io.BytesIO(task.inputs[item.sha256])).copy() for item in task.plan.inputs]


def test_text2img_draws_what_the_stock_call_draws(drawn, stock, task_for, registry):
    task = task_for(registry.find("text2img", "micro"))
    assert (drawn(task)[0] == stock("text2img")).all()


def test_true_cfg_draws_what_the_stock_call_draws(drawn, stock, task_for, registry):
    task = task_for(
        registry.find("text2img", "micro"), negative_prompt="a star", true_cfg_scale=4.0
    )
    expected = stock("text2img", negative_prompt="a star", true_cfg_scale=4.0)
    assert (drawn(task)[0] == expected).all()


@pytest.mark.parametrize(("strength", "drawn_steps"), [(0.3, 2), (0.7, 4), (1.0, 5)])
def test_img2img_draws_what_the_stock_call_draws(
    studio, stock, task_for, registry, strength, drawn_steps
):
    """In as many of the steps as are reported."""
    away = {"negative_prompt": "a star", "true_cfg_scale": 4.0}
    task = task_for(registry.find("img2img", "micro"), strength=strength, steps=5, **away)
    (image,) = inputs_of(task)
    recorded = studio.draw(task)
    expected = stock("img2img", image=image, strength=strength, steps=5, **away)
    assert (recorded.images[0] == expected).all()
    assert recorded.steps == list(range(1, drawn_steps + 1))
    assert task.plan.total_steps == drawn_steps


def test_img2img_draws_each_seed_from_an_image_of_its_own(studio, task_for, registry):
    """As when it is drawn alone, also in one pass; and shares all weights with text2img."""
    images = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    spec = registry.find("img2img", "micro")
    task = task_for(spec, inputs=[("image", one) for one in images], seeds=(3, 9))
    both = studio.draw(task)
    alone = task_for(spec, inputs=[("image", images[1])], seeds=(9,))
    assert studio.pixels(alone) == both.pixels[1]
    batched = studio.draw(task, batched=True)
    for ours, one in zip(batched.images, both.images, strict=True):
        assert np.abs(ours.astype(int) - one).max() <= 2
    drawing, other = (studio.load(registry.find(kind, "micro")) for kind in ("text2img", "img2img"))
    assert drawing.pipe.transformer is other.pipe.transformer
    assert drawing.weights_sha256 == other.weights_sha256


def test_the_less_is_drawn_again_the_more_of_an_image_stays(studio, task_for, registry):
    task = task_for(registry.find("img2img", "micro"), steps=8)
    (image,) = inputs_of(task)
    away = [
        np.abs(studio.draw(task, strength=share).images[0].astype(int) - np.asarray(image)).mean()
        for share in (0.2, 0.5, 1.0)
    ]
    assert away[0] < away[1] < away[2], away


def test_kontext_draws_what_the_stock_call_draws(drawn, stock, task_for, registry):
    task = task_for(registry.find("kontext", "micro"))
    (reference,) = inputs_of(task)
    expected = stock("kontext", image=reference, max_area=SIDE * SIDE, _auto_resize=False)
    assert (drawn(task)[0] == expected).all()


def test_kontext_reads_several_references_side_by_side(studio, stock, task_for, registry):
    spec = registry.find("kontext", "micro")
    (first,) = inputs_of(task_for(spec))
    tall, wide = first.resize((32, 96)).rotate(180), first.resize((100, 50)).rotate(180)
    task = task_for(spec, inputs=[("reference", one) for one in (first, tall, wide)])
    # All 64 px high: 64, 21 and 128 px wide; then in as many pixels as are drawn, in steps of 16.
    joined = Image.new("RGB", (213, 64))
    for left, image, width in ((0, first, 64), (64, tall, 21), (85, wide, 128)):
        joined.paste(image.resize((width, 64), Image.Resampling.LANCZOS), (left, 0))
    read = joined.resize((112, 32), Image.Resampling.LANCZOS)
    expected = stock("kontext", image=read, max_area=SIDE * SIDE, _auto_resize=False)
    assert (studio.draw(task, steps=STEPS).images[0] == expected).all()
    (told,) = [one for one in input_notices(task.plan, spec) if "joined" in one]
    assert "the 3 are joined side by side" in told
    assert "at 112x32" in told


def test_fill_draws_inside_the_mask_what_the_stock_call_draws(drawn, stock, task_for, registry):
    task = task_for(registry.find("fill", "micro"))
    image, hole = inputs_of(task)
    expected = stock("fill", image=image, mask_image=hole)
    inside = np.asarray(hole) == 255
    result = drawn(task)[0]
    assert (result[inside] == expected[inside]).all()
    assert (result[~inside] == np.asarray(image)[~inside]).all()


def test_control_draws_what_the_stock_call_draws(drawn, stock, task_for, registry):
    image = inputs_of(task_for(registry.find("kontext", "micro")))[0]
    task = task_for(registry.find("control", "micro"), inputs=[("control", image)])
    assert (drawn(task)[0] == stock("control", control_image=image)).all()


def test_redux_gives_the_stock_prior_for_one_image(studio, resident_of, task_for, registry):
    """Bit for bit, with one image of weight 1 and strength 1."""
    import diffusers

    # The stock prior always encodes 512 text tokens.
    task = task_for(registry.find("redux", "micro"), max_sequence_length=512)
    resident = resident_of("redux")
    images = open_images(task.plan, task.inputs)
    texts = studio.texts(task.plan, resident)
    texts.encode(lambda: None)
    adapter = FAMILY.adapters["redux"](task.plan, images, resident, texts)
    encoder, prior = studio.encoder(resident), resident.prior
    with_text = diffusers.FluxPriorReduxPipeline(
        image_encoder=prior.image_encoder,
        feature_extractor=prior.feature_extractor,
        image_embedder=prior.image_embedder,
        text_encoder=encoder.text_encoder,
        tokenizer=encoder.tokenizer,
        text_encoder_2=encoder.text_encoder_2,
        tokenizer_2=encoder.tokenizer_2,
    )
    expected = with_text(inputs_of(task)[0], prompt=task.plan.prompt)
    ours = adapter.embeddings(task.plan.prompt)
    assert ours["prompt_embeds"].equal(expected.prompt_embeds)
    assert ours["pooled_prompt_embeds"].equal(expected.pooled_prompt_embeds)
    assert not ours["prompt_embeds"].requires_grad


def test_redux_mixes_images_by_their_share_and_scales_by_strength(
    studio, resident_of, task_for, registry
):
    spec = registry.find("redux", "micro")
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]

    def tokens(inputs, weights, strength=1.0):
        task = task_for(spec, inputs=[("reference", image) for image in inputs])
        weighted = tuple(
            item.model_copy(update={"weight": weight})
            for item, weight in zip(task.plan.inputs, weights, strict=True)
        )
        plan = task.changed(inputs=weighted, strength=strength).plan
        resident = resident_of("redux")
        images = open_images(plan, task.inputs)
        texts = studio.texts(plan, resident)
        texts.encode(lambda: None)
        adapter = FAMILY.adapters["redux"](plan, images, resident, texts)
        return adapter.embeddings(plan.prompt)["prompt_embeds"][:, plan.max_sequence_length :]

    red, blue = tokens(images[:1], [1.0]), tokens(images[1:], [1.0])
    mixed = tokens(images, [1.5, 0.5])
    assert mixed.shape == red.shape  # mixed, not put one behind the other
    assert mixed.allclose(0.75 * red + 0.25 * blue, atol=1e-6)
    assert tokens(images, [1.0, 0.0]).equal(red)
    assert tokens(images[:1], [0.3]).equal(red)
    assert tokens(images[:1], [1.0], strength=0.5).equal(0.5 * red)


def test_fill_blends_along_a_soft_mask_and_keeps_what_it_leaves_out(drawn, task_for, registry):
    image = Image.new("RGB", (128, 128), (10, 200, 90))
    ramp = np.zeros((128, 128), np.uint8)
    ramp[:, 40:] = np.minimum(255, (np.arange(88) * 5))[None, :]
    task = task_for(
        registry.find("fill", "micro"),
        inputs=[("image", image), ("mask", Image.fromarray(ramp))],
        width=128,
        height=128,
    )
    result = drawn(task)[0].astype(int)
    difference = np.abs(result - np.asarray(image).astype(int)).sum(axis=2)
    assert (difference[ramp == 0] == 0).all()
    assert difference[:, 110:].mean() > 4 * difference[:, 41:50].mean()


def test_fill_fits_image_and_mask_alike_to_another_shape(drawn, task_for, registry):
    image = inputs_of(task_for(registry.find("kontext", "micro")))[0].resize((200, 100))
    hole = Image.new("L", (200, 100), 0)
    hole.paste(255, (90, 40, 110, 60))
    task = task_for(
        registry.find("fill", "micro"),
        inputs=[("image", image), ("mask", hole)],
        width=96,
        height=96,
    )
    # Cut to the middle 100x100, then scaled: the hole is in the middle, a fifth of the side.
    result = drawn(task)[0]
    kept = np.asarray(image.crop((50, 0, 150, 100)).resize((96, 96), Image.Resampling.LANCZOS))
    outside = np.ones((96, 96), bool)
    outside[36:60, 36:60] = False
    assert np.abs(result[outside].astype(int) - kept[outside]).max() <= 2
    assert (result[40:56, 40:56] != kept[40:56, 40:56]).any()


def test_a_region_is_drawn_as_an_image_of_its_own_would_be(studio, task_for, registry):
    """The worker's half: what is cut out and scaled goes into the model, and nothing else."""
    whole = inputs_of(task_for(registry.find("kontext", "micro")))[0].resize((300, 200))
    hole = Image.new("L", (300, 200), 0)
    hole.paste(255, (130, 90, 160, 120))
    region = Rectangle(82, 42, 128, 128)
    for kind, role in (("fill", "image"), ("kontext", "reference")):
        spec = registry.find(kind, "micro")
        inputs = [(role, whole), ("mask", hole)]
        task = task_for(spec, inputs=inputs, region=region, width=64, height=64)
        part = whole.crop(region.edges).resize((64, 64), Image.Resampling.LANCZOS)
        # Whatever is touched by the hole, whose edges lie on whole drawn pixels here.
        scaled = hole.crop(region.edges).resize((64, 64), Image.Resampling.NEAREST)
        alone = [(role, part)] + ([("mask", scaled)] if kind == "fill" else [])
        assert studio.pixels(task, steps=STEPS) == studio.pixels(
            task_for(spec, inputs=alone), steps=STEPS
        )


def test_an_edit_of_an_odd_image_is_drawn_with_its_edges_mirrored(studio, task_for, registry):
    spec = registry.find("kontext", "micro")
    odd = inputs_of(task_for(spec))[0].resize((93, 77))
    drawn = fitted_region(Size(93, 77), spec, "pad")
    assert drawn == DrawnRegion(Rectangle(-2, -2, 96, 80), Size(96, 80))
    size = {"width": drawn.size.width, "height": drawn.size.height}
    task = task_for(spec, inputs=[("reference", odd)], region=drawn.region, **size)
    # Of columns, the first two stand before themselves and the last one behind itself.
    whole = np.pad(np.asarray(odd), ((2, 1), (2, 1), (0, 0)), mode="symmetric")
    alone = task_for(spec, inputs=[("reference", Image.fromarray(whole))], **size)
    result = studio.draw(task, steps=STEPS).images[0]
    assert (result == studio.draw(alone, steps=STEPS).images[0]).all()
    (answer,) = finished(task, [result])
    assert (answer == result[2:79, 2:95]).all()


def test_the_thinnest_mask_still_asks_for_something():
    mask = Image.new("L", (2000, 2000), 0)
    mask.paste(255, (1000, 0, 1001, 2000))
    mask.putpixel((5, 5), 255)
    mask.paste(GENERATED_FROM - 1, (1500, 0, 1600, 2000))
    drawn = np.asarray(region_to_draw(mask, Rectangle(0, 0, 2000, 2000), Size(256, 256)))
    assert (drawn[:, 128] == 255).all()
    assert drawn[0, 0] == 255
    assert (drawn == 255).sum() == 256 + 1, "what only fades is not generated again"


def test_kontext_takes_a_reference_of_another_size_and_keeps_the_plans(drawn, task_for, registry):
    image = inputs_of(task_for(registry.find("kontext", "micro")))[0].resize((300, 100))
    task = task_for(registry.find("kontext", "micro"), inputs=[("reference", image)])
    assert drawn(task)[0].shape == (SIDE, SIDE, 3)


def test_canny_takes_the_structure_of_an_ordinary_image(drawn, task_for, registry):
    from flux_mcp.pipelines.families.flux1 import canny

    spec = registry.find("control", "micro")
    from_image = task_for(spec)
    edges = canny(inputs_of(from_image)[0])
    prepared = task_for(spec, inputs=[("control", edges)])
    assert set(np.unique(np.asarray(edges))) == {0, 255}
    assert (drawn(from_image)[0] == drawn(prepared)[0]).all()


def test_depth_is_not_made_from_an_ordinary_image(drawn, task_for, registry):
    task = task_for(registry.find("control", "micro"), structure="depth")
    with pytest.raises(UnsupportedOptionError, match="depth"):
        drawn(task)


@pytest.mark.parametrize("kind", ["kontext", "fill", "control", "redux"])
def test_a_plan_without_its_image_is_refused(drawn, task_for, registry, kind):
    task = task_for(registry.find(kind, "micro"), inputs=[])
    with pytest.raises(InvalidRequestError):
        drawn(task)


def test_numbers_that_are_no_colours_are_refused():
    colours = np.zeros((1, 4, 4, 3), np.float32)
    colours[0, 1, 2, 0] = np.nan
    with pytest.raises(WeightsInvalidError, match="NaN"):
        _to_pixels(colours)


@pytest.mark.torture
def test_drawing_over_and_over_leaves_no_tensors_behind(drawn, task_for, registry):
    import gc

    import torch

    tasks = [task_for(registry.find(kind, "micro")) for kind in KINDS]

    def alive_after_drawing():
        for task in tasks:
            drawn(task)
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    alive_after_drawing()
    alive = alive_after_drawing()
    assert alive_after_drawing() == alive
