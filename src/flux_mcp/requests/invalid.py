"""Pydantic's complaints, said as our errors: one sentence, a stable code, what to do instead."""

from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flux_mcp.errors import (
    InvalidRequestError,
    InvalidSizeError,
    PromptTooLongError,
    RequestError,
)
from flux_mcp.requests.fields import MAX_PROMPT_CHARACTERS, MistakeError

M = TypeVar("M", bound=BaseModel)
Where = tuple[int | str, ...]

_CODES: dict[tuple[str, str], type[RequestError]] = {
    ("prompt", "string_too_long"): PromptTooLongError,
    ("negative_prompt", "string_too_long"): PromptTooLongError,
    ("prompt", "too_long"): PromptTooLongError,
    ("negative_prompt", "too_long"): PromptTooLongError,
    ("aspect_ratio", "literal_error"): InvalidSizeError,
    ("width", "*"): InvalidSizeError,
    ("height", "*"): InvalidSizeError,
}
_NAMES_ELSEWHERE: dict[str, tuple[str, ...]] = {
    # What diffusers and hosted APIs call our arguments: models that know those use them.
    "num_inference_steps": ("steps",),
    "sampling_steps": ("steps",),
    "guidance_scale": ("guidance",),
    "cfg_scale": ("guidance",),
    "true_cfg_scale": ("negative_prompt",),
    "num_images_per_prompt": ("count",),
    "num_images": ("count",),
    "batch_size": ("count",),
    "n": ("count",),
    "generator": ("seed",),
    "size": ("width", "aspect_ratio"),
    "resolution": ("width", "aspect_ratio"),
    "image": ("images",),
    "input_image": ("image", "images"),
    "image_path": ("image", "images"),
    "image_url": ("image", "images"),
    "init_image": ("image", "images"),
    "mask_image": ("mask",),
    "control_type": ("structure",),
    "text": ("query", "prompt"),
    "timeout": ("wait_s",),
    "id": ("job_id",),
}


def parse_request(model: type[M], arguments: dict[str, Any]) -> M:
    """Validate raw arguments.

    Raises:
        RequestError: the first thing that is wrong, with what to do instead.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise explain(error, model) from error


def explain(error: ValidationError, model: type[BaseModel]) -> RequestError:
    """Turn the first of pydantic's complaints into one of our errors."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"]) or "arguments"
    field = str(detail["loc"][0]) if detail["loc"] else ""
    kind = _CODES.get((field, detail["type"])) or _CODES.get((field, "*")) or InvalidRequestError
    if detail["type"] == "extra_forbidden":
        return InvalidRequestError(
            f"There is no argument '{where}'.", _nearest(detail["loc"], model)
        )
    if kind is PromptTooLongError:
        message = f"{field} is longer than {MAX_PROMPT_CHARACTERS} characters"
        return kind(f"{message}.", "Say it shorter; the text encoders cut long prompts anyway.")
    message = _message(detail)
    if where == "arguments":
        return kind(f"{message[:1].upper()}{message[1:]}.", _hint(detail, model))
    return kind(f"{where}: {message}.", _hint(detail, model))


def _message(detail: Any) -> str:
    if detail["type"] in ("model_type", "model_attributes_type"):
        return "Input should be an object"
    return str(detail["msg"]).removeprefix("Value error, ")


def _hint(detail: Any, model: type[BaseModel]) -> str:
    context = detail.get("ctx") or {}
    mistake = context.get("error")
    if isinstance(mistake, MistakeError):
        return mistake.hint
    if detail["type"] == "literal_error":
        return f"Use {context['expected']}."
    field = _field(detail["loc"], model)
    about = (field.description if field is not None else None) or "Correct it and call again."
    if detail["type"] == "missing":
        return f"Give a value for it. {about}"
    if detail["input"] is None and field is not None and not field.is_required():
        return "Leave it out instead of null."
    return about


def _nearest(where: Where, model: type[BaseModel]) -> str:
    owner = _owner(where, model)
    known = list(owner.model_fields)
    name = str(where[-1])
    ours = [one for one in _NAMES_ELSEWHERE.get(name.lower(), ()) if one in known]
    close = ours[:1] or get_close_matches(name.lower(), known, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Arguments: {', '.join(known)}."


def _field(where: Where, model: type[BaseModel]) -> FieldInfo | None:
    """Return the field a complaint is about: the innermost one that has a description."""
    for length in range(len(where), 0, -1):
        owner = _owner(where[:length], model)
        field = owner.model_fields.get(str(where[length - 1]))
        if field is not None and field.description:
            return field
    return None


def _owner(where: Where, model: type[BaseModel]) -> type[BaseModel]:
    """Return the model the last part of `where` belongs to, following nested models."""
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((inner for inner in found if inner is not None), None)
