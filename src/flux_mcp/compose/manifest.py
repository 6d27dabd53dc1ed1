"""`pack.json`: its schema, its errors by line and column, and what a pack takes from it.

`PackManifest` is the schema, `read_manifest` reads the file, and the functions after it turn the
rows into the values of packs.py.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flux_mcp.compose.audit import Forbidden, check_forbidden, unrelated
from flux_mcp.compose.choices import ANY, MAX_WEIGHT, read_wildcard
from flux_mcp.compose.files import NAME_RULE, NOTHING, PackFiles, Position, Text, position_at
from flux_mcp.compose.packs import RESERVED, SUBJECT, Defaults, PackLora, Variable
from flux_mcp.compose.problems import nearest
from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.registry import DrawnKind, Quality
from flux_mcp.requests.geometry import AspectRatio

MANIFEST = "pack.json"
SCHEMA_FILE = "pack.schema.json"

KeyPath = tuple[str | int, ...]
"""The path of a key or list item: `("variables", "light", "default")`."""
Models = Mapping[str, Collection[str]]
"""Ids of the known models, by kind."""

# --- the schema -----------------------------------------------------------------------------------

Line = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
# The grammar of semver.org, without its capturing groups.
_NUMBER = r"(?:0|[1-9]\d*)"
_LABEL = rf"(?:{_NUMBER}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_LABEL}(?:\.{_LABEL})*)?(?:\+[0-9A-Za-z.-]+)?$"


class _PackRow(BaseModel):
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


class LoraRow(_PackRow):
    """A LoRA the pack is made for."""

    name: Line = Field(description="Name of its file in the folder of LoRAs.")
    weight: float = Field(1.0, ge=-4, le=4, description="How strongly it counts.")


class SubjectRow(_PackRow):
    """What the image shows. The choices are the files of `subjects/`."""

    description: Line = Field(
        "What the image shows.", description="What a caller should know to choose or write one."
    )
    default: str | None = Field(
        None,
        min_length=1,
        description="Used when the caller names none: a file of subjects/ without .txt, * or a "
        "weighted choice such as cat:3|dog:1. Leave out if the caller must name one.",
    )
    weights: Mapping[Name, Weight] = Field(
        default_factory=dict,
        description=f"How often * picks each subject, 0 to {MAX_WEIGHT}; 1 where none is given.",
    )
    free_text: bool = Field(
        default=True, description="Whether the caller may describe a subject in free text."
    )


class VariableRow(_PackRow):
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
        description=f"How often * picks each choice, 0 to {MAX_WEIGHT}; 1 where none is given.",
    )
    free_text: bool = Field(
        default=False, description="Whether the caller may give free text instead of a choice."
    )


class ForbiddenRow(_PackRow):
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
        "refuse", description="refuse rejects the prompt; warn generates and says so."
    )
    reason: str = Field("", max_length=500, description="Why, for the caller who is refused.")
    instead: str = Field("", max_length=500, description="A positive wording to use instead.")
    allowed_in: tuple[Line, ...] = Field(
        (), description="Phrases in which it is allowed: people mover."
    )


class PackManifest(_PackRow):
    """A prompt pack: what every prompt says, what varies, and what is forbidden."""

    schema_: str | None = Field(
        None, alias="$schema", description="Path of this schema, for editors."
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
    kind: DrawnKind = Field("text2img", description="The kind of image it is made for.")
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
        default_factory=dict, description="What varies, in the order of the prompt."
    )
    forbidden: tuple[ForbiddenRow, ...] = Field(
        (), max_length=100, description="What no prompt of this pack may ask for."
    )
    allowed_contexts: tuple[Line, ...] = Field(
        (), description="Phrases in which every forbidden pattern is allowed."
    )


def pack_schema() -> dict[str, Any]:
    """Return the JSON schema of pack.json."""
    schema = PackManifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def pack_schema_text() -> str:
    """Return the schema as the text of the file `pack.schema.json`."""
    return json.dumps(pack_schema(), indent=2, ensure_ascii=False) + "\n"


# --- reading the file -----------------------------------------------------------------------------

_IN_KEY = "[key]"
"""pydantic's mark for an error about a key, not its value."""


@dataclass(frozen=True)
class LocatedManifest:
    """A valid pack.json, with the places of its keys for further errors."""

    rows: PackManifest
    positions: "KeyPositions"
    files: PackFiles

    def add_error(self, where: KeyPath, message: str, fix: str) -> None:
        """Add an error about the key at a path."""
        at = self.positions.find(where)
        self.files.add_error(MANIFEST, message, fix, line=at.line, column=at.column)

    def add_warning(self, where: KeyPath, message: str, fix: str) -> None:
        """Add a warning about the key at a path."""
        at = self.positions.find(where)
        self.files.add_warning(MANIFEST, message, fix, line=at.line)


def read_manifest(files: PackFiles) -> LocatedManifest | None:
    """Read and check pack.json; `None`, with its errors added, where it cannot be used."""
    file = files.read(MANIFEST)
    if file is None:
        return None
    try:
        json.loads(file.text)
        positions = KeyPositions(file.text)
    except json.JSONDecodeError as error:
        message = f"It is not JSON: {error.msg[:1].lower()}{error.msg[1:]}."
        fix = (
            "Look there and just before: usually a comma, a quotation mark or a bracket is "
            "missing, or there is one too many."
        )
        files.add_error(MANIFEST, message, fix, line=error.lineno, column=error.colno)
        return None
    except RecursionError:
        files.add_error(MANIFEST, "It is nested too deeply.", "A pack needs four levels.")
        return None
    for path, at in positions.repeated:
        message = f"The key '{path[-1]}' is there twice."
        files.add_error(MANIFEST, message, "Remove one.", line=at.line, column=at.column)
    try:
        rows = PackManifest.model_validate_json(file.text)
    except ValidationError as error:
        for at, message, fix in _explained(error, positions):
            files.add_error(MANIFEST, message, fix, line=at.line, column=at.column)
        return None
    manifest = LocatedManifest(rows, positions, files)
    _check_size(manifest)
    return manifest


def _check_size(manifest: LocatedManifest) -> None:
    rows = manifest.rows
    if (rows.width is None) != (rows.height is None):
        given = "width" if rows.height is None else "height"
        manifest.add_error((given,), f"{given} is given alone.", "Give width and height.")
    elif rows.width is not None and rows.aspect_ratio is not None:
        message = "aspect_ratio and width are both given."
        fix = "Give aspect_ratio, or width and height, not both."
        manifest.add_error(("aspect_ratio",), message, fix)


def _explained(
    error: ValidationError, positions: "KeyPositions"
) -> Iterator[tuple[Position, str, str]]:
    """Yield pydantic's errors in our words: the place, what is wrong, and how to fix it."""
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
    """Return the description of the field that an error is about."""
    for length in range(len(where), 0, -1):
        field = _owner(where[:length]).model_fields.get(str(where[length - 1]))
        if field is not None and field.description:
            return field.description
    return "Write an object with title, description and version."


def _owner(where: KeyPath) -> type[BaseModel]:
    """Return the model the last part of a path belongs to."""
    model: type[BaseModel] = PackManifest
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        model = (_model_in(field.annotation) if field is not None else None) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((inner for inner in found if inner is not None), None)


# --- places in the file ---------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


class KeyPositions:
    """The position of every key and list item of a JSON text, by its path.

    Args:
        text: The JSON text, which must be valid.
    """

    def __init__(self, text: str) -> None:
        self.repeated: list[tuple[KeyPath, Position]] = []
        """Keys written twice in one object, each with the place of the second."""
        self._text = text
        self._offsets: dict[KeyPath, int] = {}
        self._walk()

    def find(self, path: KeyPath) -> Position:
        """Return the place of a key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._offsets:
                return position_at(self._text, self._offsets[path[:length]])
        return Position(1, 1)

    def _walk(self) -> None:
        """Read the tokens once, with the path of every open object and list."""
        path: list[str | int] = []
        is_list: list[bool] = []
        previous = ""
        for found in _TOKEN.finditer(self._text):
            mark = found[0]
            if is_list and is_list[-1] and mark != "]" and previous in ("[", ","):
                path[-1] = int(path[-1]) + 1 if previous == "," else 0
                self._note(path, found.start())
            elif is_list and not is_list[-1] and mark not in "}," and previous in ("{", ","):
                path[-1] = _unquoted(mark)
                self._note(path, found.start())
            if mark in ("{", "["):
                path.append(-1)
                is_list.append(mark == "[")
            elif mark in ("}", "]"):
                path.pop()
                is_list.pop()
            previous = mark

    def _note(self, path: Sequence[str | int], offset: int) -> None:
        key = tuple(path)
        if key in self._offsets:
            self.repeated.append((key, position_at(self._text, offset)))
        self._offsets[key] = offset


def _unquoted(key: str) -> str:
    return str(json.loads(key))


# --- what a pack takes from it --------------------------------------------------------------------


def subject_of(manifest: LocatedManifest, choices: Mapping[str, Text]) -> Variable:
    """Return the subject as a variable; adds errors to the files of the manifest."""
    row = manifest.rows.subject
    if not choices and not row.free_text:
        message = "There is no subject to choose, and free text is not allowed."
        fix = "Put a text file into subjects/, or set free_text to true."
        manifest.add_error((SUBJECT, "free_text"), message, fix)
    return _argument(manifest, (SUBJECT,), row, choices)


def variable_of(
    manifest: LocatedManifest, name: str, row: VariableRow, from_file: Mapping[str, Text] | None
) -> Variable:
    """Return a variable; adds errors to the files of the manifest.

    Args:
        manifest: The pack.json the row is from.
        name: The variable's name.
        row: Its row.
        from_file: The choices of `variable_<name>.txt`; `None` if there is no such file.
    """
    path = ("variables", name)
    file = f"variable_{name}.txt"
    if name in RESERVED:
        manifest.add_error(path, f"No variable can be called '{name}'.", "Rename it.")
    if row.choices is not None and from_file is not None:
        message = f"The choices of '{name}' are here and in {file}."
        manifest.add_error((*path, "choices"), message, "Remove one of the two.")
    if not row.choices and from_file is None and not row.free_text:
        fix = f"Write them into {file}, or here as choices; or set free_text to true."
        manifest.add_error(path, f"The variable '{name}' has no choices.", fix)
    inline = {
        choice: _inline(manifest, name, choice, text)
        for choice, text in (row.choices or {}).items()
    }
    return _argument(manifest, path, row, inline if from_file is None else from_file)


def _inline(manifest: LocatedManifest, name: str, choice: str, text: str) -> Text:
    path = ("variables", name, "choices", choice)
    text = text.strip()
    if not text:
        fix = f"Write one, or {NOTHING} alone for a choice that adds nothing."
        manifest.add_error(path, f"The choice '{choice}' has no text.", fix)
    line = manifest.positions.find(path).line
    return Text("" if text == NOTHING else text, MANIFEST, (line,), f"{name}: {choice}")


def _argument(
    manifest: LocatedManifest,
    path: KeyPath,
    row: SubjectRow | VariableRow,
    choices: Mapping[str, Text],
) -> Variable:
    name = str(path[-1])
    for choice in row.weights:
        if choice not in choices:
            message = f"There is a weight for '{choice}', which is no choice of '{name}'."
            fix = nearest(choice, choices, what="Choices")
            manifest.add_error((*path, "weights", choice), message, fix)
    weights = {choice: row.weights.get(choice, 1) for choice in choices}
    if weights and not any(weights.values()):
        message = f"Every choice of '{name}' has the weight 0."
        manifest.add_error((*path, "weights"), message, "Give one of them a weight above 0.")
    argument = Variable(name, row.description, choices, weights, row.default, row.free_text)
    _check_default(manifest, path, argument)
    return argument


def _check_default(manifest: LocatedManifest, path: KeyPath, argument: Variable) -> None:
    default, choices = argument.default, argument.choices
    if default is None or default in choices:
        return
    if default == ANY and not choices:
        message = f"The default '{ANY}' picks one of the choices, and '{argument.name}' has none."
        manifest.add_error((*path, "default"), message, "Give it choices, or another default.")
        return
    try:
        is_random = read_wildcard(default, argument.weights) is not None
    except InvalidRequestError as error:
        if not argument.free_text:
            manifest.add_error((*path, "default"), f"default: {error.message}", error.hint)
        return
    if not is_random and not argument.free_text:
        message = f"The default '{default}' is no choice of '{argument.name}'."
        manifest.add_error((*path, "default"), message, nearest(default, choices, what="Choices"))


def check_model(manifest: LocatedManifest, models: Models | None) -> None:
    """Add an error if the pack names a model that is not known."""
    model, kind = manifest.rows.model, manifest.rows.kind
    if models is None or model is None:
        return
    known = models.get(kind, ())
    if model not in known:
        fix = nearest(model, known, what=f"Models for {kind}")
        manifest.add_error(("model",), f"There is no model '{model}' for {kind}.", fix)


def forbidden_of(manifest: LocatedManifest) -> tuple[Forbidden, ...]:
    """Return what the pack forbids, each with `allowed_contexts`; adds errors to the files."""
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
            manifest.add_error(("forbidden", index, "pattern"), error.message, error.hint)
            continue
        if one.related and (why := unrelated(one)):
            manifest.add_warning(("forbidden", index, "related"), why, "List the words in rows.")
    return forbidden


def defaults_of(rows: PackManifest) -> Defaults:
    """Return what the pack sets where the caller gives nothing."""
    return Defaults(
        kind=rows.kind,
        model=rows.model,
        quality=rows.quality,
        aspect_ratio=rows.aspect_ratio,
        width=rows.width,
        height=rows.height,
        loras=tuple(PackLora(row.name, row.weight) for row in rows.loras),
    )
