import pytest

from flux_mcp.errors import InvalidRequestError, InvalidSizeError, PromptTooLongError, RequestError
from flux_mcp.requests.schemas import (
    CancelJobRequest,
    FillRequest,
    GenerateRequest,
    SearchRequest,
    VariationRequest,
)
from flux_mcp.requests.validation import parse_request


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
        (GenerateRequest, {"pack": ""}, InvalidRequestError, "pack.name: "),
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
        (GenerateRequest, {"prompt": "a", "width": 0, "height": 64}, InvalidSizeError, "width"),
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
        (GenerateRequest, {"pack": {}}, InvalidRequestError, "pack.name: Field required. Give a"),
        (
            GenerateRequest,
            {"prompt": "a", "loras": [{"name": "striped", "weight": 5}]},
            InvalidRequestError,
            "loras.0.weight: Input should be less than or equal to 4. 0 is without it, 1 as",
        ),
        (
            FillRequest,
            {"prompt": "a", "image": "i", "mask": {}},
            InvalidRequestError,
            "exactly one",
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


def test_a_variation_needs_neither_prompt_nor_pack():
    request = parse_request(VariationRequest, {"images": ["img_a"]})
    assert (request.prompt, request.pack) == (None, None)


def test_deeply_nested_json_text_is_refused_not_fatal():
    with pytest.raises(RequestError):
        parse_request(VariationRequest, {"images": "[" * 100_000})
