import json
import re
from typing import Any

import pytest

from flux_mcp.errors import (
    InvalidRequestError,
    InvalidSizeError,
    PromptTooLongError,
    RequestError,
    nearest_name,
)
from flux_mcp.requests.lookups import CancelJobRequest, GetJobRequest, SearchRequest
from flux_mcp.requests.schemas import (
    EditRequest,
    FillRequest,
    GenerateRequest,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.requests.validation import parse_request

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}


def test_valid_arguments_become_a_request():
    assert parse_request(GenerateRequest, {"prompt": "a cat"}).prompt == "a cat"


@pytest.mark.parametrize(
    ("model", "arguments", "error", "says"),
    [
        (
            GenerateRequest,
            {},
            InvalidRequestError,
            "There is neither prompt nor pack. Give prompt or pack. What to show, in full",
        ),
        (
            GenerateRequest,
            {"prompt": "a", "pack": "b"},
            InvalidRequestError,
            "Give either prompt or pack, not both. Words of your own go into pack.extra.",
        ),
        (GenerateRequest, {"pack": True}, InvalidRequestError, "not be true or false"),
        (GenerateRequest, {"pack": 3}, InvalidRequestError, "pack: Input should be an object"),
        (GenerateRequest, {"pack": {"name": "", "extra": "b"}}, InvalidRequestError, "pack.name: "),
        (
            GenerateRequest,
            {"pack": {"name": "a", "subjct": "b"}},
            InvalidRequestError,
            "no argument 'pack.subjct'. Did you mean 'subject'?",
        ),
        (
            GenerateRequest,
            {"pack": {"name": "a", "subject": "b" * 2001}},
            InvalidRequestError,
            "pack.subject: String should have at most 2000 characters",
        ),
        (
            GenerateRequest,
            {"pack": {"name": "a", "extra": "b\0"}},
            InvalidRequestError,
            "pack.extra: contains control characters",
        ),
        (
            GenerateRequest,
            {"pack": {"name": "a", "variables": {"b": "c" * 2001}}},
            InvalidRequestError,
            "pack.variables.b: String should have at most 2000 characters",
        ),
        (
            GenerateRequest,
            {"pack": {"name": "a", "variables": {"b" * 101: "c"}}},
            InvalidRequestError,
            "the name of a variable is too long",
        ),
        (GenerateRequest, {"prompt": ""}, InvalidRequestError, "prompt"),
        (GenerateRequest, {"prompt": "a" * 2001}, PromptTooLongError, "longer than 2000"),
        (
            GenerateRequest,
            {"prompt": "a", "negative_prompt": "a" * 2001},
            PromptTooLongError,
            "negative_prompt",
        ),
        (GenerateRequest, {"prompt": "a", "promt": "b"}, InvalidRequestError, "mean 'prompt'?"),
        (GenerateRequest, {"prompt": "a", "zzz": "b"}, InvalidRequestError, "Arguments: "),
        (GenerateRequest, {"prompt": "a", "width": 64}, InvalidRequestError, "given together"),
        (GenerateRequest, {"prompt": "a", "width": -1, "height": 64}, InvalidSizeError, "width"),
        (GenerateRequest, {"prompt": "a", "aspect_ratio": "7:5"}, InvalidSizeError, "'16:9'"),
        (
            GenerateRequest,
            {"prompt": "a", "count": True},
            InvalidRequestError,
            "not be true or false",
        ),
        (GenerateRequest, {"prompt": "\ud800"}, InvalidRequestError, "valid string"),
        (
            GenerateRequest,
            {"prompt": "a", "negative_prompt": "\ud800"},
            InvalidRequestError,
            "half a character",
        ),
        (GenerateRequest, {"prompt": "a\0"}, InvalidRequestError, "control characters"),
        (
            GenerateRequest,
            {"prompt": "a", "session": "a" * 101},
            InvalidRequestError,
            "at most 100 characters",
        ),
        (GenerateRequest, {"prompt": "a", "count": 9}, InvalidRequestError, "count"),
        (
            GenerateRequest,
            {"prompt": "a", "guidance": float("nan")},
            InvalidRequestError,
            "guidance",
        ),
        (GenerateRequest, {"prompt": "a", "quality": "best"}, InvalidRequestError, "'standard'"),
        (
            GenerateRequest,
            {"pack": {"extra": "b"}},
            InvalidRequestError,
            "pack.name: Field required. Give a",
        ),
        (
            GenerateRequest,
            {"prompt": "a", "loras": [{"name": "striped", "weight": 5}]},
            InvalidRequestError,
            "loras.0.weight: Input should be less than or equal to 4. 0 is without it, 1 as",
        ),
        (FillRequest, {"prompt": "a", "image": "i", "mask": "[1"}, InvalidRequestError, "mask"),
        (
            VariationRequest,
            {"images": [{"image": "a", "weight": 0}]},
            InvalidRequestError,
            "weight",
        ),
        (SearchRequest, {"limit": 1000}, InvalidRequestError, "limit"),
        (CancelJobRequest, {}, InvalidRequestError, "exactly one of job_id and session"),
    ],
)
def test_a_complaint_is_one_sentence_with_a_code_and_what_to_do(model, arguments, error, says):
    with pytest.raises(error) as refused:
        parse_request(model, arguments)
    assert type(refused.value) is error
    assert says in str(refused.value)
    assert "pydantic" not in str(refused.value).lower()


@pytest.mark.parametrize("images", ['["img_a", "img_b"]', ["img_a", {"image": "img_b"}]])
def test_structured_arguments_may_come_as_json_text(images):
    request = parse_request(VariationRequest, {"images": images})
    assert [item.image for item in request.images] == ["img_a", "img_b"]


@pytest.mark.parametrize(
    "pack",
    [
        {"name": "shapes", "variables": {"colour": "*"}},
        '{"name": "shapes", "variables": {"colour": "*"}}',
        {"name": "shapes", "variables": '{"colour": "*"}'},
    ],
    ids=["object", "text", "text inside"],
)
def test_a_pack_may_come_as_json_text(pack):
    asked = parse_request(GenerateRequest, {"pack": pack}).pack
    assert (asked.name, asked.variables) == ("shapes", {"colour": "*"})


def test_a_pack_may_come_as_its_name_alone():
    assert parse_request(GenerateRequest, {"pack": "shapes"}).pack.name == "shapes"


# --- shapes and names that callers guess -------------------------------------------------------

PNG = "iVBORw0KGgo" + "A" * 65


@pytest.mark.parametrize(
    ("model", "given", "understood"),
    [
        (EditRequest, {"image": "img_a"}, {"images": ["img_a"]}),
        (EditRequest, {"image": "img_a", "images": []}, {"images": ["img_a"]}),
        (EditRequest, {"image": "", "images": ["img_a"]}, {"images": ["img_a"]}),
        (EditRequest, {"images": "img_a"}, {"images": ["img_a"]}),
        (EditRequest, {"images": [{"image": "img_a"}]}, {"images": ["img_a"]}),
        (EditRequest, {"images": [PNG]}, {"images": [f"data:image/png;base64,{PNG}"]}),
        (
            EditRequest,
            {"images": f" {PNG[:40]}\r\n{PNG[40:]}\n"},
            {"images": [f"data:image/png;base64,{PNG}"]},
        ),
        (EditRequest, {"images": "img_a-B_1.png"}, {"images": ["img_a-B_1"]}),
        (EditRequest, {"images": "flux://images/img_a.PNG"}, {"images": ["flux://images/img_a"]}),
        (EditRequest, {"images": "/srv/img_a.png"}, {"images": ["/srv/img_a.png"]}),
        (
            GenerateRequest,
            {"prompt": None, "pack": {"name": "shapes", "variables": "light=dawn"}},
            {"pack": {"name": "shapes", "variables": {"light": "dawn"}}},
        ),
        (
            GenerateRequest,
            {"aspect_ratio": "16:9", "width": 1360, "height": 768},
            {"width": 1360, "height": 768},
        ),
        (VariationRequest, {"image": "img_a"}, {"images": [{"image": "img_a"}]}),
        (VariationRequest, {"images": "img_a"}, {"images": [{"image": "img_a"}]}),
        (
            VariationRequest,
            {"images": {"image": "img_a", "weight": "0.5"}},
            {"images": [{"image": "img_a", "weight": 0.5}]},
        ),
        (StructuralRequest, {"images": ["img_a"]}, {"image": "img_a"}),
        (FillRequest, {"images": ["img_a"], "mask": "img_b"}, {"mask": {"image": "img_b"}}),
        (FillRequest, {"image": "img_a", "mask": BOX}, {"mask": {"box": BOX}}),
        (FillRequest, {"image": "img_a", "mask": json.dumps(BOX)}, {"mask": {"box": BOX}}),
        (
            FillRequest,
            {"image": "img_a", "mask": {"box": {"x0": 1, "y0": 2, "x1": 4, "y1": 6}}},
            {"mask": {"box": BOX}},
        ),
        (
            FillRequest,
            {"image": "img_a", "mask": {"left": 1, "top": 2, "width": 3, "height": 4}},
            {"mask": {"box": BOX}},
        ),
        *(
            (FillRequest, {"image": "img_a", "mask": given}, {"mask": understood})
            for given, understood in (
                ([1, 2, 4, 6], {"box": BOX}),
                ({"box": "[1, 2, 4, 6]"}, {"box": BOX}),
                ({"box": BOX, "image": "img_b"}, {"box": BOX, "image": "img_b"}),
                ([0.5, 0, 1, 1], {"box": {"x": 0.5, "y": 0, "width": 0.5, "height": 1}}),
                (
                    {"ellipse": {"cx": 3, "cy": 3, "rx": 2, "ry": 1}},
                    {"ellipse": {"x": 1, "y": 2, "width": 4, "height": 2}},
                ),
                ([[0, 0], [5, 5], [0, 5]], {"polygon": [[0, 0], [5, 5], [0, 5]]}),
                ({"polygon": [0, 0, 5, 5, 0, 5]}, {"polygon": [[0, 0], [5, 5], [0, 5]]}),
                (
                    {"polygon": [{"x": 0, "y": 0}, {"x": 1, "y": 0}, {"x": 0, "y": 1}]},
                    {"polygon": [[0, 0], [1, 0], [0, 1]]},
                ),
                ("alpha", {"alpha": True}),
                ({"outpaint": "16:9"}, {"outpaint": {"aspect_ratio": "16:9"}}),
                (
                    {"outpaint": "1:1 top"},
                    {"outpaint": {"aspect_ratio": "1:1", "anchor": "top"}},
                ),
                ({"outpaint": "left=8, top=16px"}, {"outpaint": {"left": 8, "top": 16}}),
                ({"words": "the red car", "pick": 2}, {"words": "the red car", "pick": 2}),
                (
                    [[1, 2, 4, 6], "img_b", {"words": "a cat"}],
                    {"box": BOX, "more": [{"image": "img_b"}, {"words": "a cat"}]},
                ),
            )
        ),
        (GenerateRequest, {"loras": "ink"}, {"loras": [{"name": "ink"}]}),
        (GenerateRequest, {"steps": "8", "guidance": "3.5"}, {"steps": 8, "guidance": 3.5}),
        (
            GenerateRequest,
            {"quality": "HIGH", "aspect_ratio": "16:9 "},
            {"quality": "high", "aspect_ratio": "16:9"},
        ),
    ],
)
def test_a_shape_that_can_mean_one_thing_only_is_taken(model, given, understood):
    request = parse_request(model, {"prompt": "a", **given})
    shown = request.model_dump(mode="json", exclude_unset=True)
    assert {name: shown[name] for name in understood} == understood


def whole_values(hint: str) -> list[dict[str, Any]]:
    """Return the arguments that a hint has whole, as `"steps": 28`, each as it is to be sent."""
    found, end = [], 0
    while match := re.compile(r'"([a-z_]+)": ').search(hint, end):
        value, end = json.JSONDecoder().raw_decode(hint, match.end())
        found.append({match[1]: value})
    return found


FILL = {"prompt": "a", "image": "img_a"}


@pytest.mark.parametrize(
    "mask",
    [
        {"box": [10, 20, 5, 60]},
        {"box": [10, 20, 40]},
        [10, 20, 40, 5],
        {"box": {"left": 9, "top": 2, "right": 3, "bottom": 4}},
        {"box": {"x": 0.1, "y": 0.2, "width": 0.5, "height": 50}},
        {"box": {"x": 0.6, "y": 0.2, "width": 0.5, "height": 0.5}},
        {"box": {**BOX, "widht": 3}},
        {"box": BOX, "feather_px": 3},
        {"box": BOX, "pick": "largest"},
        {"polygon": [[0, 0], [5, 5]]},
        {"polygon": [[0, 0], [5, True], [0, 5]]},
        {"polygon": [[0, 0], [0.5, 5], [0, 5]]},
        {"polygon": [[0, 0]] * 100_000},
        {"outpaint": "wide"},
        {"outpaint": {"left": 8, "aspect_ratio": "16:9"}},
        {"outpaint": {"left": 8, "anchor": "left"}},
        {"outpaint": {"left": 1.5}},
        [{"outpaint": "16:9"}, {"outpaint": "1:1"}],
        [{"box": BOX}, 5],
        [{"box": BOX}] * 18,
        {},
        5,
        None,
    ],
)
def test_after_a_wrong_mask_the_hint_has_a_whole_right_one(mask):
    with pytest.raises(RequestError) as refused:
        parse_request(FillRequest, {**FILL, "mask": mask})
    masks = [one for one in whole_values(refused.value.hint) if "mask" in one]
    assert masks, refused.value.hint
    for one in masks:
        parse_request(FillRequest, {**FILL, **one})


def test_corners_that_are_rather_sides_are_answered_with_the_box_they_would_be():
    with pytest.raises(RequestError) as refused:
        parse_request(FillRequest, {**FILL, "mask": {"box": [10, 20, 5, 60]}})
    (sides,) = whole_values(refused.value.hint)
    assert sides["mask"]["box"] == {"x": 10, "y": 20, "width": 5, "height": 60}


@pytest.mark.parametrize(
    ("model", "given", "whole"),
    [
        (GenerateRequest, {"size": "1024x768"}, [{"width": 1024}, {"height": 768}]),
        (GenerateRequest, {"num_inference_steps": 28}, [{"steps": 28}]),
        (GenerateRequest, {"guidance_scale": 3.5}, [{"guidance": 3.5}]),
        (GenerateRequest, {"n": 2}, [{"count": 2}]),
        (GenerateRequest, {"width_px": 512}, [{"width": 512}]),
        (GenerateRequest, {"aspect": "16:9"}, [{"aspect_ratio": "16:9"}]),
        (GenerateRequest, {"sede": 5}, [{"seed": 5}]),
        (GenerateRequest, {"lora": "ink"}, [{"loras": [{"name": "ink", "weight": 1}]}]),
        (EditRequest, {"input_image": "img_a"}, [{"images": ["img_a"]}]),
        (FillRequest, {"image": "img_a", "mask_image": "img_b"}, [{"mask": {"image": "img_b"}}]),
        (FillRequest, {"image": "img_a", "box": BOX}, [{"mask": {"box": BOX}}]),
        (FillRequest, {"image": "img_a", "bbox": [0, 0, 9, 9]}, [{"mask": {"box": [0, 0, 9, 9]}}]),
        (SearchRequest, {"max_results": 5}, [{"limit": 5}]),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_ours_and_its_value(model, given, whole):
    words = {} if model is SearchRequest else {"prompt": "a"}
    with pytest.raises(InvalidRequestError, match="There is no argument") as refused:
        parse_request(model, {**words, **given})
    assert whole_values(refused.value.hint) == whole


@pytest.mark.parametrize(
    ("model", "name", "says"),
    [
        (VariationRequest, "weights", '"weight": 0.7'),
        (GenerateRequest, "weights", '"weight": 0.7'),
        (EditRequest, "strength", "Say in the prompt"),
        (GenerateRequest, "mask", "flux_fill"),
        (EditRequest, "outpaint", "a part of the argument mask"),
        (GenerateRequest, "image", "flux_edit"),
        (GenerateRequest, "control_image", "flux_structural"),
        (GenerateRequest, "output_format", "stored as PNG"),
        (GenerateRequest, "scheduler", "each model has its own"),
        (GenerateRequest, "right", "Arguments: "),
        (GenerateRequest, "discount", "Arguments: "),
    ],
)
def test_what_there_is_nothing_for_is_said_and_no_nonsense_proposed(model, name, says):
    images = {} if model is GenerateRequest else {"images": ["img_a"]}
    with pytest.raises(InvalidRequestError) as refused:
        parse_request(model, {"prompt": "a", **images, name: 1})
    assert says in refused.value.hint
    assert "Did you mean" not in refused.value.hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("promt", "prompt"),
        ("sede", "seed"),
        ("heigth", "height"),
        ("negative", "negative_prompt"),
        ("seed_value", "seed"),
        ("wait-s", "wait_s"),
        ("weights", None),
        ("light", None),
        ("x", None),
    ],
)
def test_a_slip_is_told_from_another_word(name, meant):
    assert nearest_name(name, GenerateRequest.model_fields) == meant


def test_a_variation_needs_neither_prompt_nor_pack():
    request = parse_request(VariationRequest, {"images": ["img_a"]})
    assert (request.prompt, request.pack) == (None, None)


def test_deeply_nested_json_text_is_refused_not_fatal():
    with pytest.raises(RequestError):
        parse_request(VariationRequest, {"images": "[" * 100_000})


# --- arguments as the strict modes of clients make models fill them ----------------------------

NO_BOX = {"x": 0, "y": 0, "width": 0, "height": 0}
NO_PACK = {"name": "", "subject": "", "variables": [], "extra": ""}


@pytest.mark.parametrize(
    ("model", "empty"),
    [
        (GenerateRequest, dict.fromkeys(GenerateRequest.model_fields.keys() - {"prompt"})),
        (GenerateRequest, dict.fromkeys(GenerateRequest.model_fields.keys() - {"prompt"}, "")),
        (
            GenerateRequest,
            {
                "seed": -1,
                "width": 0,
                "height": 0,
                "steps": 0,
                "guidance": -1,
                "aspect_ratio": "auto",
            }
            | {"model": "", "quality": None},
        ),
        (GenerateRequest, {"seed": "-1", "width": "0", "height": 0.0}),
        (GenerateRequest, {"pack": NO_PACK, "loras": [{"name": "", "weight": 1}]}),
        (GenerateRequest, {"pack": json.dumps(NO_PACK), "loras": "[]"}),
        (GenerateRequest, {"pack": {}, "loras": [{"name": None, "weight": 0}, {}]}),
        (EditRequest, {"mask": {"image": "", "box": NO_BOX}, "feather_px": -1}),
        (EditRequest, {"mask": {"image": "", "box": [], "polygon": [], "outpaint": ""}}),
        (EditRequest, {"mask": {"box": [0, 0, 0, 0], "words": "", "alpha": False}}),
        (EditRequest, {"mask": [{}, ""]}),
        (FillRequest, {"aspect_ratio": "auto", "width": 0, "height": 0, "feather_px": -1}),
        (StructuralRequest, {"control_image": "", "structure": ""}),
        (SearchRequest, dict.fromkeys(SearchRequest.model_fields, "")),
        (SearchRequest, {"seed": -1, "kind": "Any"}),
        (SearchRequest, {"seed": "-1", "kind": []}),
        (GetJobRequest, {"job_id": "", "wait_s": None}),
        (CancelJobRequest, {"session": ""}),
    ],
)
def test_an_argument_that_is_empty_is_left_out(model, empty):
    needed = {
        GenerateRequest: {"prompt": "a"},
        EditRequest: {"prompt": "a", "images": ["img_a"]},
        FillRequest: {"prompt": "a", "image": "img_a", "mask": {"box": BOX}},
        StructuralRequest: {"prompt": "a", "image": "img_a"},
        CancelJobRequest: {"job_id": "job_a"},
    }.get(model, {})
    asked = parse_request(model, {**empty, **needed})
    assert asked == parse_request(model, needed)
    assert asked.model_fields_set == needed.keys()


@pytest.mark.parametrize("given", [{"image": "", "box": BOX}, {"image": "img_b", "box": NO_BOX}])
def test_of_two_ways_the_empty_one_is_left_out(given):
    mask = parse_request(FillRequest, {"prompt": "a", "image": "i", "mask": given}).mask
    assert (mask.image is None) == (given["box"] is BOX)
    assert (mask.box is None) == (given["box"] is NO_BOX)


@pytest.mark.parametrize(
    ("model", "means_something"),
    [
        (GenerateRequest, {"count": 0}),
        (GenerateRequest, {"seed": -2}),
        (GenerateRequest, {"width": 0, "height": 64}),
        (GenerateRequest, {"width": False, "height": False}),
        (GenerateRequest, {"pack": {"name": "", "subject": "star"}}),
        (GenerateRequest, {"loras": [{"name": "", "weight": 0.5}]}),
        (GenerateRequest, {"loras": [{"weight": 1}]}),
        (GenerateRequest, {"loras": ["ink", ""]}),
        (GenerateRequest, {"nothing": ""}),
        (FillRequest, {"image": "img_a", "mask": {"box": {**NO_BOX, "width": 5}}}),
        (FillRequest, {"image": "img_a", "mask": {"box": {**NO_BOX, "x": 5}}}),
        (FillRequest, {"image": "img_a", "mask": {"words": "", "threshold": 0.5}}),
        (VariationRequest, {"images": ["img_a"], "strength": 0}),
        (VariationRequest, {"images": ["img_a", ""]}),
        (VariationRequest, {"images": ["img_a"], "image": "img_b"}),
        (EditRequest, {"images": ["img_a"], "feather_px": 3}),
        (SearchRequest, {"limit": 0}),
    ],
)
def test_what_could_mean_something_is_refused(model, means_something):
    words = {} if model is SearchRequest else {"prompt": "a"}
    with pytest.raises(RequestError):
        parse_request(model, {**words, **means_something})


def test_zero_is_a_value_where_it_means_something():
    asked = parse_request(GenerateRequest, {"prompt": "a", "seed": 0, "guidance": 0, "wait_s": 0})
    assert (asked.seed, asked.guidance, asked.wait_s) == (0, 0, 0)
    assert parse_request(GenerateRequest, {"pack": "shapes", "loras": []}).loras == []


def test_all_mistakes_are_told_at_once_each_with_its_hint():
    size = {"width": -1, "height": 64, "aspect_ratio": "16:9"}
    wrong = {"seed": -2, **size, "sterps": 4, "count": 99}
    with pytest.raises(RequestError) as refused:
        parse_request(GenerateRequest, wrong)
    text = str(refused.value)
    assert text.startswith("[invalid_request] There are 6 mistakes. (1) width: ")
    for number, part in {
        2: "seed: Input should be greater than or equal to 0. Same seed",
        3: "count: Input should be less than or equal to 8. How many images",
        4: "There is no argument 'sterps'. Did you mean 'steps'? Give \"steps\": 4.",
        5: "There is neither prompt nor pack. Give prompt or pack.",
        6: "Give either aspect_ratio or width and height, not both.",
    }.items():
        assert f"({number}) {part}" in text


def test_many_mistakes_are_counted_and_one_code_is_kept():
    sizes = {"prompt": "a", "width": -1, "height": "tall"}
    with pytest.raises(InvalidSizeError, match="There are 2 mistakes"):
        parse_request(GenerateRequest, sizes)
    with pytest.raises(InvalidRequestError, match=r"There are 9 mistakes.* And 3 more\.$"):
        parse_request(GenerateRequest, {"prompt": "a", **{f"zzz{n}": n for n in range(9)}})


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (GenerateRequest, {"size": "64x64", "prompt": "a"}),
        (GenerateRequest, {"text": "a circle"}),
        (GenerateRequest, {"arguments": {"prompt": "a"}}),
        (EditRequest, {"input_image": "img_a", "prompt": "a"}),
    ],
)
def test_what_a_wrong_name_was_meant_to_be_is_not_missing_as_well(model, given):
    with pytest.raises(InvalidRequestError, match=r"^\[invalid_request\] There is no argument"):
        parse_request(model, given)
