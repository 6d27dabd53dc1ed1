"""Pydantic's complaints, said as our errors: one sentence, a stable code, what to do instead."""

from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flux_mcp.errors import (
    InvalidRequestError,
    InvalidSizeError,
    PromptTooLongError,
    RequestError,
)
from flux_mcp.requests.schemas import MAX_PROMPT_CHARACTERS

M = TypeVar("M", bound=BaseModel)

_CODES: dict[tuple[str, str], type[RequestError]] = {
    ("prompt", "string_too_long"): PromptTooLongError,
    ("negative_prompt", "string_too_long"): PromptTooLongError,
    ("aspect_ratio", "literal_error"): InvalidSizeError,
    ("width", "*"): InvalidSizeError,
    ("height", "*"): InvalidSizeError,
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
    detail = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in detail["loc"]) or "arguments"
    field = str(detail["loc"][0]) if detail["loc"] else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    kind = _CODES.get((field, detail["type"])) or _CODES.get((field, "*")) or InvalidRequestError
    if detail["type"] == "extra_forbidden":
        return InvalidRequestError(f"There is no argument '{where}'.", _nearest(where, model))
    if kind is PromptTooLongError:
        message = f"{field} is longer than {MAX_PROMPT_CHARACTERS} characters"
        return kind(f"{message}.", "Say it shorter; the text encoders cut long prompts anyway.")
    if where == "arguments":
        return kind(f"{message[:1].upper()}{message[1:]}.")
    return kind(f"{where}: {message}.", _range_hint(detail.get("ctx"), detail["type"]))


def _nearest(name: str, model: type[BaseModel]) -> str:
    known = list(model.model_fields)
    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Arguments: {', '.join(known)}."


def _range_hint(context: Any, complaint: str) -> str:
    if complaint == "literal_error" and context:
        return f"Use {context['expected']}."
    if complaint == "missing":
        return "Give a value for it."
    return "Correct it and call again."
