import ast
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from flux_mcp.errors import (
    InvalidImageError,
    InvalidRequestError,
    InvalidSizeError,
    UnsupportedOptionError,
)
from flux_mcp.models.registry import load_registry
from flux_mcp.models.switches import Switches
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.plan import (
    PlanParts,
    as_asked,
    load_of_plan,
    make_plan,
    plan_notices,
    wanted_of,
)
from flux_mcp.requests.render_plan import PlanInput, PlanLora, RenderPlan, drawn_steps
from flux_mcp.requests.schemas import (
    EditRequest,
    FillRequest,
    GenerateRequest,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.settings.installation import PACKAGE_DIR

DATA = Path(__file__).parents[1] / "data"
REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev")
SCHNELL = REGISTRY.find("text2img", "flux1-schnell")
FILL = REGISTRY.find("fill", "flux1-fill-dev")
DEV_AGAIN = REGISTRY.find("img2img", "flux1-dev")
IMG2IMG = VariationRequest(images=["a"], prompt="a", strength=0.5, count=2)
KLEIN = REGISTRY.find("kontext", "flux2-klein-4b")
KONTEXT = REGISTRY.find("kontext", "flux1-kontext-dev")


def plan(request, spec, inputs=()):
    return make_plan(request, spec, PlanParts(revision="abc", seed=42, inputs=tuple(inputs)))


def image(role="reference", width=640, height=480, image_id=None):
    return PlanInput(role=role, sha256="0" * 64, width=width, height=height, image_id=image_id)


BOX = {"x": 0, "y": 0, "width": 8, "height": 8}


def fill_request(**arguments):
    return FillRequest.model_validate(
        {"prompt": "a cat", "image": "img_a", "mask": {"box": BOX}, **arguments}
    )


def test_every_gap_of_a_request_is_filled_from_the_row():
    made = plan(GenerateRequest(prompt="a cat"), DEV)
    assert (made.steps, made.guidance, made.width, made.height) == (28, 3.5, 1024, 1024)
    assert (made.seeds, made.revision, made.true_cfg_scale) == ((42,), "abc", 1.0)
    assert RenderPlan.model_validate_json(made.model_dump_json()) == made


def test_what_the_request_says_goes_before_the_row():
    request = GenerateRequest(
        prompt="a cat", steps=5, guidance=2, seed=9, count=3, width=512, height=256, quality="high"
    )
    made = plan(request, DEV)
    assert (made.steps, made.guidance, made.width, made.height) == (5, 2.0, 512, 256)
    assert made.seeds == (9, 10, 11)
    assert (made.passes, made.total_steps) == (3, 15)


def test_no_guidance_is_what_a_distilled_model_does():
    """0 asks for it, and the plan has the row's own number, which its pipeline reads."""
    klein = REGISTRY.find("text2img", "flux2-klein-4b")
    assert plan(GenerateRequest(prompt="a", guidance=0), klein).guidance == klein.default_guidance
    assert plan(GenerateRequest(prompt="a", guidance=0), DEV).guidance == 0


def test_all_that_a_model_cannot_do_is_told_at_once():
    request = GenerateRequest(prompt="a", guidance=2, steps=500, width=1001, height=1000)
    with pytest.raises(InvalidRequestError, match=r"There are 3 mistakes\.") as refused:
        plan(request, SCHNELL)
    for part in ("(1) flux1-schnell ignores guidance", "(2) steps: ", "(3) ", "Ask for 1008x992."):
        assert part in str(refused.value)


def test_a_batch_is_one_pass_and_one_image_is_never_a_batch():
    made = plan(GenerateRequest(prompt="a", count=3, batched=True), DEV)
    assert (made.batched, made.passes, made.total_steps) == (True, 1, 28)
    assert plan(GenerateRequest(prompt="a", batched=True), DEV).batched is False


def test_a_negative_prompt_turns_true_guidance_on():
    assert plan(GenerateRequest(prompt="a", negative_prompt="b"), DEV).true_cfg_scale > 1


@pytest.mark.parametrize(
    ("request_", "spec", "inputs", "error"),
    [
        (fill_request(negative_prompt="x"), FILL, [image("image")], UnsupportedOptionError),
        (GenerateRequest(prompt="a", guidance=1), SCHNELL, [], UnsupportedOptionError),
        (GenerateRequest(prompt="a", steps=17), SCHNELL, [], InvalidRequestError),
        (GenerateRequest(prompt="a", width=100, height=100), DEV, [], InvalidSizeError),
        (
            EditRequest(prompt="a", images=["a"] * 5),
            KONTEXT,
            [image()] * 5,
            UnsupportedOptionError,
        ),
        (
            StructuralRequest(prompt="a", structure="depth", control_image="a"),
            REGISTRY.find("control", "flux1-canny-dev"),
            [image("control")],
            UnsupportedOptionError,
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_a_hint(request_, spec, inputs, error):
    with pytest.raises(error) as refused:
        plan(request_, spec, inputs)
    assert refused.value.hint


def test_an_edit_is_drawn_at_the_images_size_but_a_variation_is_not():
    edit = EditRequest(prompt="a", images=["img_a"])
    made = plan(edit, KONTEXT, [image(width=1024, height=768)])
    assert (made.width, made.height) == (1024, 768)
    vary = VariationRequest.model_validate({"images": ["img_a"], "likeness": 0.5})
    made = plan(vary, REGISTRY.find("redux", "flux1-redux-dev"), [image()])
    assert (made.width, made.height, made.strength, made.prompt) == (1024, 1024, 0.5, "")


def test_image_to_image_takes_the_size_of_the_image_and_draws_the_last_steps():
    spec = REGISTRY.find("img2img", "flux1-dev")
    asked = VariationRequest(images=["img_a"], strength=0.4, count=2)
    assert asked.drawn_kind == "img2img"
    assert wanted_of(asked).share == 0.4
    made = plan(asked, spec, [image("image")])
    assert (made.kind, made.width, made.height, made.strength) == ("img2img", 640, 480, 0.4)
    assert (made.steps, made.steps_drawn, made.total_steps) == (28, 12, 24)
    assert RenderPlan.model_validate_json(made.model_dump_json()) == made
    first, *_ = plan_notices(made, spec, None)
    assert "no prompt" in first
    odd = plan(asked, spec, [image("image", 1000, 703)])
    assert "The image of 1000x703 is cut to" in plan_notices(odd, spec, None)[0]


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        ("crop", "Drawn: 992x496 at (4, 2) of the image of 1001x501, pixel for pixel. The edges"),
        ("scale", "The image of 1001x501 is drawn at 992x496 (scale 0.991) and scaled back"),
    ],
)
def test_the_setting_says_how_an_odd_image_is_edited(fit, says):
    asked, odd = EditRequest(prompt="a", images=["a"]), image(width=1001, height=501)
    parts = PlanParts(revision=None, seed=1, inputs=(odd,), edit_fit=fit)
    made = make_plan(asked, KLEIN, parts)
    assert made.image_size == Size(1001, 501)
    assert plan_notices(made, KLEIN, None)[0].startswith(says)


@pytest.mark.parametrize(
    ("steps", "strength", "drawn"),
    [(28, 1.0, 28), (28, 0.6, 17), (4, 0.01, 1), (4, 0.25, 1), (4, 0.26, 2), (1, 0.5, 1)],
)
def test_image_to_image_draws_at_least_one_step(steps, strength, drawn):
    assert drawn_steps(steps, strength) == drawn


def test_parents_are_the_gallery_images_without_repeats():
    inputs = [
        image(image_id="img_b"),
        image(image_id="img_a"),
        image(image_id="img_b"),
        image(),
    ]
    redux = REGISTRY.find("redux", "flux1-redux-dev")
    request = VariationRequest.model_validate({"images": ["b", "a", "b", "c"]})
    assert plan(request, redux, inputs).parents == ("img_b", "img_a")


def test_a_large_image_is_filled_in_a_region_and_keeps_its_size():
    photograph = [image("image", 4000, 3000), image("mask", 4000, 3000)]
    parts = PlanParts(
        revision=None, seed=1, inputs=photograph, masked=Rectangle(2000, 1000, 300, 200)
    )
    made = make_plan(fill_request(), FILL, parts)
    assert made.region is not None
    assert made.region.holds(parts.masked)
    assert (made.width, made.height) == (made.region.width, made.region.height) == (1024, 1024)
    assert made.image_size == Size(4000, 3000)
    assert RenderPlan.model_validate_json(made.model_dump_json()) == made


def test_an_edit_has_the_size_of_its_image_unless_another_is_asked_for():
    photograph = [image(width=4000, height=3000)]
    edit = EditRequest(prompt="a", images=["a"])
    whole = plan(edit, KONTEXT, photograph)
    assert (whole.width, whole.height, whole.image_size) == (1168, 880, Size(4000, 3000))
    own = plan(edit.model_copy(update={"width": 512, "height": 256}), KONTEXT, photograph)
    assert (own.region, own.image_size) == (None, Size(512, 256))
    wide = plan(edit.model_copy(update={"aspect_ratio": "16:9"}), KONTEXT, photograph)
    assert (wide.region, wide.image_size) == (None, Size(1360, 768))
    small = plan(edit, KLEIN, [image()])
    assert (small.region, small.image_size) == (None, Size(640, 480))
    # FLUX.1 Kontext edits badly what is much smaller than it was trained on.
    enlarged = plan(edit, KONTEXT, [image(width=512, height=512)])
    assert (enlarged.width, enlarged.height, enlarged.image_size) == (1024, 1024, Size(512, 512))


def test_an_edit_without_a_mask_is_stored_as_it_was_before_there_were_masks():
    """Its key is compared with what an older version stored."""
    asked = as_asked(EditRequest(prompt="a", images=["a"]))
    assert not asked.keys() & {"mask", "feather_px"}


def test_a_request_without_drafts_is_stored_as_it_was_before_there_were_any():
    asked = as_asked(GenerateRequest(prompt="a"))
    assert not [name for name in asked if name.startswith("refine")]


def test_images_that_are_joined_count_as_the_one_that_is_read():
    asked = EditRequest(prompt="a", images=["a", "b", "c"])
    made = plan(asked, KONTEXT, [image(width=1024, height=768), image(), image(width=3000)])
    assert load_of_plan(made, KONTEXT).references == 1
    (notice,) = plan_notices(made, KONTEXT, None)
    assert "the 3 are joined side by side" in notice
    assert load_of_plan(plan(asked, KLEIN, [image()] * 3), KLEIN).references == 3


def test_a_plan_counts_no_mask_as_a_reference():
    edit = EditRequest.model_validate({"prompt": "a", "images": ["a"], "mask": {"box": BOX}})
    parts = PlanParts(
        revision=None,
        seed=1,
        inputs=(image(), image("mask")),
        masked=Rectangle(0, 0, 8, 8),
    )
    assert load_of_plan(make_plan(edit, KONTEXT, parts), KONTEXT).references == 1


@pytest.mark.parametrize(
    ("size", "asked", "refused"),
    [
        ((640, 480), {"aspect_ratio": "16:9"}, "16:9"),
        ((640, 480), {"width": 480, "height": 640}, "480x640"),
        ((640, 480), {"width": 320, "height": 240}, "320x240"),
        ((640, 480), {"aspect_ratio": "4:3"}, None),
        ((640, 480), {"width": 640, "height": 480}, None),
        # What text2img draws for 16:9.
        ((1360, 768), {"aspect_ratio": "16:9"}, None),
    ],
)
@pytest.mark.parametrize("kind", ["fill", "kontext"])
def test_a_masked_image_keeps_its_size_and_another_is_refused(kind, size, asked, refused):
    role, spec = {"fill": ("image", FILL), "kontext": ("reference", KONTEXT)}[kind]
    masked = {"mask": {"box": BOX}}
    request = (
        fill_request(**asked)
        if kind == "fill"
        else EditRequest.model_validate({"prompt": "a", "images": ["a"], **masked, **asked})
    )
    inputs = (image(role, *size), image("mask", *size))
    parts = PlanParts(revision=None, seed=1, inputs=inputs, masked=Rectangle(0, 0, 8, 8))
    if refused is None:
        assert make_plan(request, spec, parts).image_size == Size(*size)
        return
    with pytest.raises(InvalidSizeError, match=f"{size[0]}x{size[1]}.*{refused}") as error:
        make_plan(request, spec, parts)
    assert "outpaint" in error.value.hint


MASKED = Rectangle(2000, 1000, 300, 200)


@pytest.mark.parametrize(
    ("request_", "row", "inputs", "masked", "says"),
    [
        pytest.param(
            fill_request(), ("fill", "flux1-fill-dev"),
            [image("image", 4000, 3000), image("mask", 4000, 3000)], MASKED,
            ["Drawn: 1024x1024 at (1638, 588) of the image of 4000x3000, pixel for pixel."],
            id="fill, a region",
        ),
        pytest.param(
            fill_request(), ("fill", "flux1-fill-dev"),
            [image("image", 4000, 3000), image("mask", 4000, 3000)], Rectangle(0, 0, 4000, 3000),
            ["4000x3000 is drawn at 1168x880 (scale 0.293) and scaled back to 4000x3000. Detail"],
            id="fill, all of it",
        ),
        pytest.param(
            fill_request(), ("fill", "flux1-fill-dev"), [image("image"), image("mask")],
            Rectangle(0, 0, 8, 8), [], id="fill, small",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a"]), ("kontext", "flux1-kontext-dev"),
            [image(width=512, height=512)], None,
            ["The image of 512x512 is drawn at 1024x1024 (scale 2) and scaled back to 512x512."],
            id="edit, a small image",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a"]), ("kontext", "flux2-klein-4b"),
            [image(width=1001, height=501)], None,
            ["The image of 1001x501 is extended to 1008x512 by its mirrored edges, drawn pixel"],
            id="edit",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a"]), ("kontext", "flux1-kontext-dev"),
            [image(width=4000, height=3000)], None,
            ["4000x3000 is extended to 4000x3014 by its mirrored edges, drawn at 1168x880"],
            id="edit, a photograph",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a"]), ("kontext", "flux2-klein-4b"), [image()],
            None, [], id="edit, no change",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a"], width=512, height=512),
            ("kontext", "flux1-kontext-dev"), [image()], None,
            ["Image 1 of 640x480 is read at 576x448."], id="edit, another shape",
        ),
        pytest.param(
            EditRequest(prompt="a", images=["a", "b"]), ("kontext", "flux2-klein-4b"),
            [image(), image(width=3000, height=2000)], None,
            ["Image 2 of 3000x2000 is read at 1248x832."], id="edit, a reference",
        ),
        pytest.param(
            StructuralRequest(prompt="a", image="a"), ("control", "flux1-canny-dev"),
            [image("image", 1001, 501)], None,
            ["The image of 1001x501 is cut to its middle 1001x493 and scaled to 1008x496."],
            id="structure",
        ),
        pytest.param(
            StructuralRequest(prompt="a", control_image="a", aspect_ratio="1:1"),
            ("control", "flux1-canny-dev"), [image("control", 2000, 1000)], None,
            ["The image of 2000x1000 is cut to its middle 1000x1000 and scaled to 1024x1024."],
            id="structure, another shape",
        ),
        pytest.param(
            VariationRequest.model_validate({"images": ["a", "b"]}), ("redux", "flux1-redux-dev"),
            [image(), image(width=384, height=384)], None,
            ["Image 1 of 640x480 is read at 384x384, whatever its shape."], id="variation",
        ),
        pytest.param(
            GenerateRequest(prompt="a", aspect_ratio="16:9"), ("text2img", "flux1-dev"), [], None,
            [], id="generate",
        ),
    ],
)  # fmt: skip
def test_every_cut_and_scaling_of_an_image_is_told_with_its_numbers(
    request_, row, inputs, masked, says
):
    spec = REGISTRY.find(*row)
    parts = PlanParts(revision=None, seed=1, inputs=tuple(inputs), masked=masked)
    notices = plan_notices(make_plan(request_, spec, parts), spec, "")
    assert len(notices) == len(says), notices
    assert all(part in notice for part, notice in zip(says, notices, strict=True)), notices


@pytest.mark.parametrize("size", [(2000, 100), (40, 40)])
def test_a_reference_the_model_cannot_read_is_refused_before_it_is_queued(size):
    request = EditRequest(prompt="a", images=["a", "b"])
    klein = REGISTRY.find("kontext", "flux2-klein-4b")
    with pytest.raises(InvalidImageError, match=f"{size[0]}x{size[1]}"):
        plan(request, klein, [image(), image("reference", *size)])


def test_the_demonstration_model_says_what_it_is_and_what_to_install():
    micro = REGISTRY.find("text2img", "micro")
    request = GenerateRequest(prompt="a cat")
    (notice,) = plan_notices(plan(request, micro), micro, "Run: install.")
    assert "micro is a demo" in notice
    assert "Run: install." in notice


@pytest.mark.parametrize("kind", ["text2img", "fill"])
def test_a_batch_says_that_its_pixels_differ(kind):
    request, spec, inputs = {
        "text2img": (GenerateRequest(prompt="a", count=2, batched=True), DEV, []),
        "fill": (fill_request(count=2, batched=True), FILL, [image("image")]),
    }[kind]
    notices = plan_notices(plan(request, spec, inputs), spec, "")
    assert any("one pass" in notice for notice in notices)


# --- prompts -----------------------------------------------------------------------------------


def planned(texts, **arguments):
    request = GenerateRequest(pack="shapes", count=len(texts), **arguments)
    return make_plan(request, DEV, PlanParts(revision="abc", seed=42, texts=tuple(texts)))


def test_each_image_of_a_pack_has_its_own_prompt():
    made = planned(["a cat", "a dog", "a cat"])
    assert made.texts == made.prompts == ("a cat", "a dog", "a cat")
    assert made.prompt == "a cat"
    assert RenderPlan.model_validate_json(made.model_dump_json()) == made


def test_one_prompt_for_all_images_is_stored_once():
    made = planned(["a cat", "a cat"])
    assert (made.prompt, made.prompts, made.texts) == ("a cat", (), ("a cat", "a cat"))
    assert made == plan(GenerateRequest(prompt="a cat", count=2), DEV)


def test_a_plan_of_an_older_version_has_one_prompt_for_all():
    old = planned(["a cat", "a cat"]).model_dump(exclude={"prompts"})
    assert RenderPlan.model_validate(old).texts == ("a cat", "a cat")


@pytest.mark.parametrize("prompts", [("a cat",), ("a dog", "a cat", "a bird")])
def test_prompts_that_do_not_fit_the_seeds_are_no_plan(prompts):
    made = planned(["a cat", "a dog", "a bird"])
    with pytest.raises(ValidationError, match="one for each seed"):
        RenderPlan.model_validate({**made.model_dump(), "prompts": prompts})


# --- parts that must fit each other --------------------------------------------------------------

EDGES = REGISTRY.find("control", "flux1-canny-dev")
SHA = "ab" * 32
CACHE = Switches(step_cache="taylorseer")


@pytest.mark.parametrize(
    ("request_", "spec", "changes", "says"),
    [
        (GenerateRequest(prompt="a"), DEV, {"negative_prompt": "b"}, "come together"),
        (GenerateRequest(prompt="a"), DEV, {"true_cfg_scale": 4.0}, "come together"),
        (GenerateRequest(prompt="a"), DEV, {"inputs": [image()]}, "no input of the role reference"),
        (EditRequest(prompt="a", images=["a"]), KONTEXT, {"inputs": [image("control")]}, "control"),
        (fill_request(), FILL, {"structure": "canny"}, "fill follows no structure"),
        (GenerateRequest(prompt="a"), DEV, {"strength": 0.5}, "text2img has no strength"),
        (IMG2IMG, DEV_AGAIN, {"strength": 1.5}, "no more than the whole image"),
        (
            IMG2IMG,
            DEV_AGAIN,
            {"inputs": [image("image")] * 2, "seeds": (1, 2, 3)},
            "one image for all seeds, or one for each",
        ),
        (IMG2IMG, DEV_AGAIN, {"inputs": ()}, "one image for all seeds, or one for each"),
        (GenerateRequest(prompt="a"), DEV, {"seeds": ()}, "seeds"),
        (GenerateRequest(prompt="a"), DEV, {"steps": 0}, "steps"),
        (GenerateRequest(prompt="a"), DEV, {"width": 0}, "width"),
        (
            GenerateRequest(prompt="a"),
            DEV,
            {"loras": [PlanLora(name="ink", sha256=SHA, weight=weight) for weight in (0, 1)]},
            "named twice",
        ),
        (
            GenerateRequest(prompt="a"),
            DEV,
            {"switches": Switches(step_cache="taylorseer", compiled=True)},
            "do not go together",
        ),
        (
            EditRequest(prompt="a", images=["a"]),
            KONTEXT,
            {"switches": CACHE, "negative_prompt": "b", "true_cfg_scale": 4.0},
            "no step cache with a negative prompt for kontext",
        ),
        (fill_request(), FILL, {"region": Rectangle(600, 0, 64, 64)}, "outside the image"),
        (fill_request(), FILL, {"region": Rectangle(0, 0, 0, 64)}, "outside the image"),
        (GenerateRequest(prompt="a"), DEV, {"region": Rectangle(0, 0, 8, 8)}, "draws no region"),
        (
            fill_request(),
            FILL,
            {"inputs": [image("image"), image("mask", 480, 640)]},
            "mask has another size",
        ),
        (
            EditRequest(prompt="a", images=["a"]),
            KONTEXT,
            {"inputs": [image(), image("mask")], "region": None},
            "needs a region",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_no_plan(request_, spec, changes, says):
    roles = {"kontext": ["reference"], "fill": ["image", "mask"], "img2img": ["image"]}
    made = plan(request_, spec, [image(role) for role in roles.get(spec.kind, ())])
    with pytest.raises(ValidationError, match=says):
        RenderPlan(**{**dict(made), **changes})


def test_a_plan_is_complete_when_it_is_made():
    lora = PlanLora(name="ink", sha256=SHA, weight=0.5)
    parts = PlanParts(revision=None, seed=1, loras=(lora,), switches=CACHE)
    made = make_plan(GenerateRequest(prompt="a"), DEV, parts)
    assert (made.loras, made.switches) == ((lora,), CACHE)


def test_no_code_of_the_package_changes_a_plan():
    """`model_copy` skips validation: what is changed on a plan that way is never checked."""
    changed = []
    for path in PACKAGE_DIR.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("model_copy", "model_construct"):
                owner = ast.unparse(node.value)
                if "plan" in owner.lower():
                    changed.append(f"{path.name}:{node.lineno}: {owner}.{node.attr}")
    assert changed == []


def test_plans_of_every_kind_that_were_stored_before_still_load():
    stored = json.loads((DATA / "stored_plans.json").read_text(encoding="utf-8"))
    assert {row["kind"] for row in stored} == {row.kind for row in REGISTRY}
    for row in stored:
        assert RenderPlan.model_validate(row).model_dump(mode="json").items() >= row.items()
