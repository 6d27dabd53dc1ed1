"""The shape of `pack.json`: one pydantic model, and the JSON schema that editors read."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.compose.wildcards import MAX_WEIGHT
from flux_mcp.models.registry import Kind, Quality
from flux_mcp.requests.geometry import AspectRatio

SCHEMA_FILE = "pack.schema.json"

Line = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
# The grammar of semver.org, without its capturing groups.
_NUMBER = r"(?:0|[1-9]\d*)"
_LABEL = rf"(?:{_NUMBER}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_LABEL}(?:\.{_LABEL})*)?(?:\+[0-9A-Za-z.-]+)?$"


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        defer_build=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_by_name=False,
        validate_by_alias=True,
    )


class LoraRow(_Row):
    """A LoRA the pack is made for."""

    name: Line = Field(description="Name of its file in the folder of LoRAs.")
    weight: float = Field(1.0, ge=-4, le=4, description="How strongly it counts.")


class SubjectRow(_Row):
    """What the picture shows. The choices are the files of `subjects/`."""

    description: Line = Field(
        "What the picture shows.", description="What a caller should know to choose or write one."
    )
    default: str | None = Field(
        None,
        min_length=1,
        description="Drawn when the caller names none: a file of subjects/ without .txt, * or a "
        "weighted choice such as cat:3|dog:1. Leave out if the caller must name one.",
    )
    weights: Mapping[Name, Weight] = Field(
        default_factory=dict,
        description=f"How often * draws each subject, 0 to {MAX_WEIGHT}; 1 where none is given.",
    )
    free_text: bool = Field(
        default=True, description="Whether the caller may describe a subject in own words."
    )


class VariableRow(_Row):
    """Something that varies from picture to picture."""

    description: Line = Field(description="What it decides, for the caller who chooses.")
    default: str | None = Field(
        None,
        min_length=1,
        description="A choice, * or a weighted choice such as noir:3|pastel:1; any text if "
        "free_text. Leave out if the caller must choose.",
    )
    choices: Mapping[Name, str] | None = Field(
        None,
        description="Short texts by name, if the variable has no file variable_<name>.txt.",
    )
    weights: Mapping[Name, Weight] = Field(
        default_factory=dict,
        description=f"How often * draws each choice, 0 to {MAX_WEIGHT}; 1 where none is given.",
    )
    free_text: bool = Field(
        default=False, description="Whether the caller may give own words instead of a choice."
    )


class ForbiddenRow(_Row):
    """Something no prompt of this pack may ask for."""

    pattern: Line = Field(
        description="A word (people), a phrase (stock photo), or a regular expression."
    )
    kind: Literal["words", "regex"] = Field(
        "words", description="words finds other forms of the words as well; regex is exact."
    )
    related: bool = Field(
        default=False,
        description="Whether words of the same idea count as well: for people also crowd, woman.",
    )
    severity: Literal["refuse", "warn"] = Field(
        "refuse", description="refuse draws nothing; warn draws and says so."
    )
    reason: str = Field("", max_length=500, description="Why, for the one who is refused.")
    instead: str = Field("", max_length=500, description="What to write instead, said positively.")
    allowed_in: tuple[Line, ...] = Field(
        (), description="Phrases in which it may stand: people mover."
    )


class PackFile(_Row):
    """A prompt pack: what never changes, what varies, and what may not be asked for."""

    schema_: str | None = Field(
        None, alias="$schema", description="Where this schema lies, for editors."
    )
    title: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="A short name for people."
    )
    description: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="What the pack is for, in a sentence or two."
    )
    version: str = Field(
        pattern=_VERSION, description="A semantic version such as 1.0.0; raise it with each change."
    )
    kind: Kind = Field("text2img", description="What is drawn with it unless asked otherwise.")
    model: Line | None = Field(
        None, description="Model id. Leave out to let quality choose what is installed."
    )
    quality: Quality | None = Field(None, description="low, standard or high.")
    aspect_ratio: AspectRatio | None = Field(
        None, description="Shape of the picture. Not together with width and height."
    )
    width: int | None = Field(None, ge=16, le=16_384, description="Pixels. Give height too.")
    height: int | None = Field(None, ge=16, le=16_384, description="Pixels. Give width too.")
    loras: tuple[LoraRow, ...] = Field((), max_length=8, description="LoRAs, in order.")
    subject: SubjectRow = Field(
        default_factory=SubjectRow, description="What the picture shows; its choices are files."
    )
    variables: Mapping[Name, VariableRow] = Field(
        default_factory=dict, description="What varies, in the order it stands in the prompt."
    )
    forbidden: tuple[ForbiddenRow, ...] = Field(
        (), max_length=100, description="What no prompt of this pack may ask for."
    )
    allowed_contexts: tuple[Line, ...] = Field(
        (), description="Phrases in which every forbidden pattern may stand."
    )


def pack_schema() -> dict[str, Any]:
    """Return the JSON schema of pack.json."""
    schema = PackFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def pack_schema_text() -> str:
    """Return the schema as the file `pack.schema.json` has it."""
    return json.dumps(pack_schema(), indent=2, ensure_ascii=False) + "\n"
