"""`pack.json` -> `PackFile`, with every complaint at the line and column of the key it is about."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flux_mcp.compose.audit import Forbidden, check_forbidden
from flux_mcp.compose.choices import ANY, MAX_WEIGHT, read_wildcard
from flux_mcp.compose.files import NAME_RULE, NOTHING, KeyPath, PackFiles, Position, Positions, Text
from flux_mcp.compose.packs import RESERVED, SUBJECT, Defaults, PackLora, Variable
from flux_mcp.compose.problems import nearest
from flux_mcp.errors import InvalidRequestError
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
    """What the image shows. The choices are the files of `subjects/`."""

    description: Line = Field(
        "What the image shows.", description="What a caller should know to choose or write one."
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
    """Something that varies from image to image."""

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
        None, description="Shape of the image. Not together with width and height."
    )
    width: int | None = Field(None, ge=16, le=16_384, description="Pixels. Give height too.")
    height: int | None = Field(None, ge=16, le=16_384, description="Pixels. Give width too.")
    loras: tuple[LoraRow, ...] = Field((), max_length=8, description="LoRAs, in order.")
    subject: SubjectRow = Field(
        default_factory=SubjectRow, description="What the image shows; its choices are files."
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


MANIFEST = "pack.json"

_IN_KEY = "[key]"
"""pydantic's mark for a complaint about a key, not its value."""


@dataclass(frozen=True)
class PackManifest:
    """A pack.json that has the right shape, and where to complain about it."""

    rows: PackFile
    positions: Positions
    files: PackFiles

    def complain(self, where: KeyPath, message: str, fix: str) -> None:
        """Collect an error about the key at a path."""
        at = self.positions.find(where)
        self.files.complain(MANIFEST, message, fix, line=at.line, column=at.column)


def read_manifest(files: PackFiles) -> PackManifest | None:
    """Read and check pack.json; `None`, with every problem collected, where it cannot be used."""
    file = files.read(MANIFEST)
    if file is None:
        return None
    try:
        json.loads(file.text)
        positions = Positions(file.text)
    except json.JSONDecodeError as error:
        message = f"It is not JSON: {error.msg[:1].lower()}{error.msg[1:]}."
        fix = (
            "Look there and just before: a comma, a quotation mark or a bracket too many or too "
            "few is the usual reason."
        )
        files.complain(MANIFEST, message, fix, line=error.lineno, column=error.colno)
        return None
    except RecursionError:
        files.complain(MANIFEST, "It is nested too deeply.", "Four levels are enough for a pack.")
        return None
    for path, at in positions.doubled:
        message = f"The key '{path[-1]}' is there twice."
        files.complain(MANIFEST, message, "Take one out.", line=at.line, column=at.column)
    try:
        rows = PackFile.model_validate_json(file.text)
    except ValidationError as error:
        for at, message, fix in _explained(error, positions):
            files.complain(MANIFEST, message, fix, line=at.line, column=at.column)
        return None
    manifest = PackManifest(rows, positions, files)
    _check_size(manifest)
    return manifest


def _check_size(manifest: PackManifest) -> None:
    rows = manifest.rows
    if (rows.width is None) != (rows.height is None):
        given = "width" if rows.height is None else "height"
        manifest.complain((given,), f"There is a {given} alone.", "Give width and height.")
    elif rows.width is not None and rows.aspect_ratio is not None:
        message = "There are an aspect_ratio and a width."
        fix = "Give aspect_ratio, or width and height, not both."
        manifest.complain(("aspect_ratio",), message, fix)


def _explained(error: ValidationError, positions: Positions) -> Iterator[tuple[Position, str, str]]:
    """Say pydantic's complaints as ours."""
    for detail in error.errors(include_url=False):
        where: KeyPath = tuple(detail["loc"])
        is_key = bool(where) and where[-1] == _IN_KEY
        where = where[:-1] if is_key else where
        name = str(where[-1]) if where else ""
        at = positions.find(where)
        if is_key:
            yield at, f"'{name}' cannot be a name.", NAME_RULE
        elif detail["type"] == "extra_forbidden":
            known = (field.alias or key for key, field in _owner(where).model_fields.items())
            yield at, f"There is no key '{name}'.", nearest(name, known, what="Keys")
        elif detail["type"] == "missing":
            yield at, f"The key '{name}' is missing.", f"Add it. {_about(where)}"
        else:
            yield at, f"{_dotted(where)}: {_message(detail)}.", _about(where)


def _message(detail: Any) -> str:
    if detail["type"] == "string_pattern_mismatch":
        return f"'{detail['input']}' is not of the right form"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "it should be an object"
    return str(detail["msg"]).replace("Input should", "it should").replace("tuple", "list")


def _dotted(where: KeyPath) -> str:
    return ".".join(str(part) for part in where) or MANIFEST


def _about(where: KeyPath) -> str:
    """Return what the field a complaint is about should hold."""
    for length in range(len(where), 0, -1):
        field = _owner(where[:length]).model_fields.get(str(where[length - 1]))
        if field is not None and field.description:
            return field.description
    return "Write an object with title, description and version."


def _owner(where: KeyPath) -> type[BaseModel]:
    """Return the model the last part of a path belongs to."""
    model: type[BaseModel] = PackFile
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        model = (_model_in(field.annotation) if field is not None else None) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((inner for inner in found if inner is not None), None)


Models = Mapping[str, Collection[str]]
"""Ids of the models there are, by kind."""


def subject_of(manifest: PackManifest, choices: Mapping[str, Text]) -> Variable:
    """Return the subject as something to choose, with problems collected."""
    row = manifest.rows.subject
    if not choices and not row.free_text:
        message = "There is no subject to choose, and none may be written."
        fix = "Put a text file into subjects/, or set free_text to true."
        manifest.complain((SUBJECT, "free_text"), message, fix)
    return _argument(manifest, (SUBJECT,), row, choices)


def variable_of(
    manifest: PackManifest, name: str, row: VariableRow, from_file: Mapping[str, Text] | None
) -> Variable:
    """Return a variable, with problems collected.

    Args:
        manifest: Where the row stands.
        name: The variable's name.
        row: What pack.json says about it.
        from_file: The choices of `variable_<name>.txt`; `None` if there is no such file.
    """
    path = ("variables", name)
    file = f"variable_{name}.txt"
    if name in RESERVED:
        manifest.complain(path, f"No variable can be called '{name}'.", "Rename it.")
    if row.choices is not None and from_file is not None:
        message = f"The choices of '{name}' stand here and in {file}."
        manifest.complain((*path, "choices"), message, "Take one of the two away.")
    if not row.choices and from_file is None and not row.free_text:
        fix = f"Write them into {file}, or here as choices; or set free_text to true."
        manifest.complain(path, f"The variable '{name}' has no choices.", fix)
    inline = {
        choice: _inline(manifest, name, choice, text)
        for choice, text in (row.choices or {}).items()
    }
    return _argument(manifest, path, row, inline if from_file is None else from_file)


def _inline(manifest: PackManifest, name: str, choice: str, text: str) -> Text:
    path = ("variables", name, "choices", choice)
    text = text.strip()
    if not text:
        fix = f"Write one, or {NOTHING} alone for one that says nothing."
        manifest.complain(path, f"The choice '{choice}' has no text.", fix)
    line = manifest.positions.find(path).line
    return Text("" if text == NOTHING else text, MANIFEST, (line,), f"{name}: {choice}")


def _argument(
    manifest: PackManifest,
    path: KeyPath,
    row: SubjectRow | VariableRow,
    choices: Mapping[str, Text],
) -> Variable:
    name = str(path[-1])
    for choice in row.weights:
        if choice not in choices:
            message = f"There is a weight for '{choice}', which is no choice of '{name}'."
            fix = nearest(choice, choices, what="Choices")
            manifest.complain((*path, "weights", choice), message, fix)
    weights = {choice: row.weights.get(choice, 1) for choice in choices}
    if weights and not any(weights.values()):
        message = f"Every choice of '{name}' has the weight 0."
        manifest.complain((*path, "weights"), message, "Give one of them a weight above 0.")
    argument = Variable(name, row.description, choices, weights, row.default, row.free_text)
    _check_default(manifest, path, argument)
    return argument


def _check_default(manifest: PackManifest, path: KeyPath, argument: Variable) -> None:
    default, choices = argument.default, argument.choices
    if default is None or default in choices:
        return
    if default == ANY and not choices:
        message = f"There is nothing '{ANY}' could draw for '{argument.name}'."
        manifest.complain((*path, "default"), message, "Give it choices, or another default.")
        return
    try:
        is_drawn = read_wildcard(default, argument.weights) is not None
    except InvalidRequestError as error:
        if not argument.free_text:
            manifest.complain((*path, "default"), f"default: {error.message}", error.hint)
        return
    if not is_drawn and not argument.free_text:
        message = f"The default '{default}' is no choice of '{argument.name}'."
        manifest.complain((*path, "default"), message, nearest(default, choices, what="Choices"))


def check_model(manifest: PackManifest, models: Models | None) -> None:
    """Collect a problem if the pack asks for a model that is not among those given."""
    model, kind = manifest.rows.model, manifest.rows.kind
    if models is None or model is None:
        return
    known = models.get(kind, ())
    if model not in known:
        fix = nearest(model, known, what=f"Models for {kind}")
        manifest.complain(("model",), f"There is no model '{model}' for {kind}.", fix)


def forbidden_of(manifest: PackManifest) -> tuple[Forbidden, ...]:
    """Return what the pack forbids, with problems collected.

    The contexts that are allowed everywhere are in each.
    """
    rows = manifest.rows
    forbidden = tuple(
        Forbidden(
            pattern=row.pattern,
            kind=row.kind,
            severity=row.severity,
            reason=row.reason,
            instead=row.instead,
            related=row.related,
            allowed_in=(*row.allowed_in, *rows.allowed_contexts),
        )
        for row in rows.forbidden
    )
    for index, one in enumerate(forbidden):
        try:
            check_forbidden(one)
        except InvalidRequestError as error:
            manifest.complain(("forbidden", index, "pattern"), error.message, error.hint)
    return forbidden


def defaults_of(rows: PackFile) -> Defaults:
    """Return what the pack asks for where the caller says nothing."""
    return Defaults(
        kind=rows.kind,
        model=rows.model,
        quality=rows.quality,
        aspect_ratio=rows.aspect_ratio,
        width=rows.width,
        height=rows.height,
        loras=tuple(PackLora(row.name, row.weight) for row in rows.loras),
    )
