"""What is chosen by name inside a request for a drawing: a prompt pack, LoRAs. Pure."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flux_mcp.models.lora_about import MAX_WEIGHT
from flux_mcp.requests.fields import (
    MAX_LORAS,
    MAX_PROMPT_CHARACTERS,
    MistakeError,
    Name,
    Real,
    Request,
    parse_json_text,
    printable,
)

MAX_NAME_CHARACTERS = 100

Value = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(printable)]


def _short_names(variables: dict[str, str]) -> dict[str, str]:
    # Not in the schema: few clients know `propertyNames`.
    if any(len(name) > MAX_NAME_CHARACTERS for name in variables):
        raise MistakeError(
            "the name of a variable is too long",
            f"It has {MAX_NAME_CHARACTERS} characters at most.",
        )
    return variables


class PackChoice(Request):
    """A prompt pack, and what is chosen in it."""

    name: Name = Field(description="Name of the pack; an error lists those there are.")
    subject: Value | None = Field(
        None,
        description="One of the pack's subjects by name, '*' for any of them, or your own words.",
    )
    variables: Annotated[
        dict[str, Value], BeforeValidator(parse_json_text), AfterValidator(_short_names)
    ] = Field(
        default_factory=dict,
        max_length=50,
        description="Variable -> the name of one of its choices; '*' takes any, 'noir:3|pastel:1' "
        "one of these by weight, both decided by the seed of each picture. Left out: the default.",
    )
    extra: Value | None = Field(None, description="Words of your own for the end.")

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        """Accept `pack: "product-shot"` as well as `{"name": "product-shot"}`."""
        return {"name": data} if isinstance(data, str) else data


class LoraChoice(Request):
    """A LoRA, and how strongly it counts."""

    name: Name = Field(description="Its file's name without .safetensors.")
    weight: Real = Field(
        1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, description="0 is without it, 1 as it was trained."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        """Accept `"striped"` as well as `{"name": "striped"}`."""
        return {"name": data} if isinstance(data, str) else data


def _each_once(loras: list[LoraChoice]) -> list[LoraChoice]:
    if len({lora.name for lora in loras}) < len(loras):
        raise MistakeError("one of them is named twice", "Name each once, with one weight.")
    return loras


LoraChoices = Annotated[
    list[LoraChoice],
    BeforeValidator(parse_json_text),
    Field(max_length=MAX_LORAS),
    AfterValidator(_each_once),
]
