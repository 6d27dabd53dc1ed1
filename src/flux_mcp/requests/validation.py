"""Validation of requests: the types of their fields, and one error with a hint for a mistake."""

import json
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from flux_mcp.errors import (
    InvalidRequestError,
    InvalidSizeError,
    PromptTooLongError,
    RequestError,
)
from flux_mcp.requests.other_names import instead_of

MAX_PROMPT_CHARACTERS = 2000
MAX_COUNT = 8
MAX_LORAS = 8
MAX_WAIT_S = 230
MAX_SEED = 2**53 - 1 - MAX_COUNT
"""Seeds travel as JSON numbers, which clients in JavaScript hold exactly up to 2**53 - 1."""


def parse_json_text(value: object) -> object:
    """Accept a list or object sent as JSON text: some clients quote structured arguments."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


BRIEF = "brief"
"""Key in a field's JSON schema: the description that is published with a tool."""


def brief(text: str) -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a field that is published with fewer words, or none."""
    return {BRIEF: text}


class MistakeError(ValueError):
    """A validation error with a hint: what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def as_list(value: object) -> object:
    """Accept one item for a list of them, and either as JSON text."""
    value = parse_json_text(value)
    is_broken = isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
    return [value] if isinstance(value, str | dict) and not is_broken else value


def _is_control(character: str) -> bool:
    code = ord(character)
    return (code < 0x20 and character not in "\t\n\r") or 0x7F <= code <= 0x9F  # noqa: PLR2004


def printable(value: str) -> str:
    """Refuse control characters, which break metadata and terminals, and lone surrogates."""
    if any(map(_is_control, value)):
        raise MistakeError(
            "contains control characters", "Remove them; line breaks and tabs may stay."
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise MistakeError(
            "contains half a character (a lone surrogate)", "Send whole Unicode characters."
        )
    return value


def not_blank(value: str) -> str:
    """Refuse what has no words in it."""
    if not value.strip():
        raise MistakeError("is blank", "Say in words what the image shows.")
    return value


Real = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(printable)]
ModelId = Annotated[str, Field(max_length=100), AfterValidator(printable)]
Key = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
Prompt = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(printable),
    AfterValidator(not_blank),
]


class Request(BaseModel):
    """Base of every request: closed, and strict about truth values."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    example: ClassVar[str] = ""
    """A whole right value, for the hint of an error inside an argument that has this shape."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, data: Any) -> Any:
        """Refuse `steps: true`, which Python would take for 1."""
        if isinstance(data, dict):
            for name, value in data.items():
                field = cls.model_fields.get(name)
                if isinstance(value, bool) and field is not None and field.annotation is not bool:
                    raise MistakeError(f"{name} must not be true or false", field.description or "")
        return data


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
    """Return the first error that pydantic found as one of our errors."""
    detail = _most_telling(error.errors(include_url=False))
    where = ".".join(str(part) for part in detail["loc"]) or "arguments"
    field = str(detail["loc"][0]) if detail["loc"] else ""
    kind = _CODES.get((field, detail["type"])) or _CODES.get((field, "*")) or InvalidRequestError
    whole = _example(detail["loc"], model)
    if detail["type"] == "extra_forbidden":
        known = tuple(_owner(detail["loc"], model).model_fields)
        hint = instead_of(str(detail["loc"][-1]), detail["input"], known)
        return InvalidRequestError(f"There is no argument '{where}'.", _with(whole, hint))
    if kind is PromptTooLongError:
        message = f"{field} is longer than {MAX_PROMPT_CHARACTERS} characters"
        return kind(f"{message}.", "Say it shorter; the text encoders cut long prompts anyway.")
    message = _message(detail)
    if where == "arguments":
        return kind(f"{message[:1].upper()}{message[1:]}.", _hint(detail, model))
    return kind(f"{where}: {message}.", _with(whole, _hint(detail, model)))


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
    about = (field.description if field is not None else None) or ""
    if detail["type"] == "missing":
        return f"Give a value for it. {about}".rstrip()
    if detail["input"] is None and field is not None and not field.is_required():
        return "Leave it out instead of null."
    return about or "Correct it and call again."


def _example(where: Where, model: type[BaseModel]) -> str:
    """Return a whole right value of the argument that an error is in, where one was written."""
    field = model.model_fields.get(str(where[0])) if where else None
    inner = None if field is None else _model_in(field.annotation)
    example = inner.example if inner is not None and issubclass(inner, Request) else ""
    return f' A whole one: "{where[0]}": {example}.' if example else ""


def _with(whole: str, hint: str) -> str:
    """Add a whole right value to a hint, unless it has one of its own."""
    name = whole.partition(": ")[2].partition(":")[0]
    return hint if name and f"{name}: {{" in hint else f"{hint}{whole}"


def _most_telling(details: list[Any]) -> Any:
    """Return the first error; of a value that is missing, the other name it was given by."""
    first = details[0]
    if first["type"] != "missing":
        return first
    place = first["loc"][:-1]
    others = (
        one for one in details if one["type"] == "extra_forbidden" and one["loc"][:-1] == place
    )
    return next(others, first)


def _field(where: Where, model: type[BaseModel]) -> FieldInfo | None:
    """Return the innermost field an error is about; an item of a list belongs to its field."""
    for length in range(len(where), 0, -1):
        owner = _owner(where[:length], model)
        field = owner.model_fields.get(str(where[length - 1]))
        if field is not None:
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
