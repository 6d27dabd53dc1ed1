"""What the fields of requests are made of, and how each is refused. Pure."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


class MistakeError(ValueError):
    """A complaint that knows what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _is_control(character: str) -> bool:
    code = ord(character)
    return (code < 0x20 and character not in "\t\n\r") or 0x7F <= code <= 0x9F  # noqa: PLR2004


def printable(value: str) -> str:
    """Refuse control characters: no encoder reads them, metadata and terminals break on them."""
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
        raise MistakeError("is blank", "Say in words what the picture shows.")
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
