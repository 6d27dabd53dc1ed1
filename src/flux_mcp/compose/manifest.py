"""`pack.json` -> `PackFile`, with every complaint at the line and column of the key it is about."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flux_mcp.compose.files import PackFiles
from flux_mcp.compose.positions import Path, Position, Positions
from flux_mcp.compose.problems import nearest
from flux_mcp.compose.schema import PackFile
from flux_mcp.compose.texts import NAME_RULE

MANIFEST = "pack.json"

_IN_KEY = "[key]"
"""pydantic's mark for a complaint about a key, not its value."""


@dataclass(frozen=True)
class Manifest:
    """A pack.json that has the right shape, and where to complain about it."""

    rows: PackFile
    positions: Positions
    files: PackFiles

    def complain(self, where: Path, message: str, mend: str) -> None:
        """Collect an error about the key at a path."""
        at = self.positions.find(where)
        self.files.complain(MANIFEST, message, mend, line=at.line, column=at.column)


def read_manifest(files: PackFiles) -> Manifest | None:
    """Read and check pack.json; `None`, with every problem collected, where it cannot be used."""
    file = files.read(MANIFEST)
    if file is None:
        return None
    try:
        json.loads(file.text)
        positions = Positions(file.text)
    except json.JSONDecodeError as error:
        message = f"It is not JSON: {error.msg[:1].lower()}{error.msg[1:]}."
        mend = (
            "Look there and just before: a comma, a quotation mark or a bracket too many or too "
            "few is the usual reason."
        )
        files.complain(MANIFEST, message, mend, line=error.lineno, column=error.colno)
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
        for at, message, mend in _explained(error, positions):
            files.complain(MANIFEST, message, mend, line=at.line, column=at.column)
        return None
    manifest = Manifest(rows, positions, files)
    _check_size(manifest)
    return manifest


def _check_size(manifest: Manifest) -> None:
    rows = manifest.rows
    if (rows.width is None) != (rows.height is None):
        given = "width" if rows.height is None else "height"
        manifest.complain((given,), f"There is a {given} alone.", "Give width and height.")
    elif rows.width is not None and rows.aspect_ratio is not None:
        message = "There are an aspect_ratio and a width."
        mend = "Give aspect_ratio, or width and height, not both."
        manifest.complain(("aspect_ratio",), message, mend)


def _explained(error: ValidationError, positions: Positions) -> Iterator[tuple[Position, str, str]]:
    """Say pydantic's complaints as ours."""
    for detail in error.errors(include_url=False):
        where: Path = tuple(detail["loc"])
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


def _dotted(where: Path) -> str:
    return ".".join(str(part) for part in where) or MANIFEST


def _about(where: Path) -> str:
    """Return what the field a complaint is about should hold."""
    for length in range(len(where), 0, -1):
        field = _owner(where[:length]).model_fields.get(str(where[length - 1]))
        if field is not None and field.description:
            return field.description
    return "Write an object with title, description and version."


def _owner(where: Path) -> type[BaseModel]:
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
