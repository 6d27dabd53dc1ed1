import pytest

from flux_mcp.errors import InvalidRequestError, InvalidSizeError, PromptTooLongError, RequestError
from flux_mcp.requests.invalid import parse_request
from flux_mcp.requests.schemas import (
    CancelJobRequest,
    FillRequest,
    GenerateRequest,
    SearchRequest,
    VariationRequest,
)


def test_valid_arguments_become_a_request():
    assert parse_request(GenerateRequest, {"prompt": "a cat"}).prompt == "a cat"


@pytest.mark.parametrize(
    ("model", "arguments", "error", "says"),
    [
        (GenerateRequest, {}, InvalidRequestError, "prompt: Field required. Give a value for it."),
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


def test_deeply_nested_json_text_is_refused_not_fatal():
    with pytest.raises(RequestError):
        parse_request(VariationRequest, {"images": "[" * 100_000})
