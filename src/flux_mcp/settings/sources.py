"""Where each setting comes from, what is wrong with any, and what a setting takes, in words."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python
from pydantic_settings import SettingsError

from flux_mcp.errors import SettingsFileError, nearest_name
from flux_mcp.settings.files import (
    NEVER_IN_A_FILE,
    ConfigFile,
    files_beside,
    holds,
    values_in_environment,
)
from flux_mcp.settings.settings import Settings

Schema = Mapping[str, Any]
DEFAULT = "default"
UNKNOWN = "unknown until the configuration file is fixed"


@dataclass(frozen=True)
class Setting:
    """One setting as it is now.

    Args:
        name: Field of `Settings`.
        value: As JSON; of a secret only "set" or "unset".
        source: The flag, the variable, the file and line, or `DEFAULT`.
    """

    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class Explained:
    """The settings with their sources, also of settings that cannot be used.

    Args:
        settings: Every setting, in the order of `Settings`.
        files: Paths of the configuration files that were looked for, the first wins, and whether
            they are there.
        problems: What is wrong, a line each; empty if the settings can be used.
    """

    settings: tuple[Setting, ...]
    files: Mapping[str, bool]
    problems: tuple[str, ...]


def explain(given: Mapping[str, Any]) -> Explained:
    """Return what is set where.

    Args:
        given: The values of the command's flags, by the name of the setting.
    """
    settings: Settings | None = None
    problems: tuple[str, ...] = ()
    try:
        settings = Settings(**given)
    except (ValidationError, SettingsError, SettingsFileError) as error:
        problems = problems_of(error, given)
    try:
        files = files_beside(Settings, given)
    except SettingsFileError:
        files = None
    layers = _layers(given, files or ())
    usable = {} if settings is None else settings.model_dump(mode="json")
    rows: list[Setting] = []
    for name, field in Settings.model_fields.items():
        layer = next((layer for layer in layers if name in layer.values), None)
        if layer is not None:
            value, source = layer.values[name], layer.label(name)
        elif files is None:
            value, source = None, UNKNOWN
        else:
            before = {row.name: row.value for row in rows}
            value = field.get_default(call_default_factory=True, validated_data=before)
            source = DEFAULT
        value = usable.get(name, to_jsonable_python(value, fallback=str))
        if holds(field, SecretStr):
            value = "unset" if value is None else "set"
        rows.append(Setting(name, value, source))
    looked_for = {str(file.path): file.is_there for file in files or ()}
    return Explained(tuple(rows), looked_for, problems)


def problems_of(
    error: ValidationError | SettingsError | SettingsFileError, given: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return what is wrong with the settings, each with the place to fix it.

    Args:
        error: What making `Settings` raised.
        given: As for `explain`.
    """
    if isinstance(error, SettingsFileError):
        return (str(error),)
    if isinstance(error, SettingsError):
        # Only a list or an object can be unreadable before it is validated.
        found = re.search(r'field "(\w+)"', str(error))
        name = variable_of(found.group(1)) if found else "A FLUX_MCP_ variable"
        return (f'{name}: it is not JSON. Write a list as ["/first", "/second"].',)
    layers = _layers(given, files_beside(Settings, given))
    details = error.errors(include_url=False, include_input=False, include_context=False)
    # A default that follows from a wrong value is no problem of its own.
    own = (detail for detail in details if detail["type"] != "default_factory_not_called")
    return tuple(_problem(detail, layers) for detail in own)


def flag_of(name: str) -> str:
    """Return the flag of a setting, where a command has one."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{Settings.model_config.get('env_prefix', '')}{name}".upper()


@dataclass(frozen=True)
class _Layer:
    """One source: its values, how a table names the place of one, and how a complaint does."""

    values: Mapping[str, Any]
    label: Callable[[str], str]
    place: Callable[[str], str]


def _layers(given: Mapping[str, Any], files: tuple[ConfigFile, ...]) -> tuple[_Layer, ...]:
    return (
        _Layer(given, lambda name: f"flag {flag_of(name)}", flag_of),
        _Layer(values_in_environment(Settings), variable_of, variable_of),
        *(_Layer(file.values, file.place_of, _place_in(file)) for file in files),
    )


def _place_in(file: ConfigFile) -> Callable[[str], str]:
    return lambda name: f"{file.place_of(name)}: {name}"


def _problem(detail: ErrorDetails, layers: tuple[_Layer, ...]) -> str:
    said = detail["msg"].removeprefix("Value error, ")
    said = said if said.endswith((".", "?")) else f"{said}."
    if not detail["loc"]:  # About several settings at once; it names them.
        return said
    name = str(detail["loc"][0])
    layer = next((layer for layer in layers if name in layer.values), None)
    place = variable_of(name) if layer is None else layer.place(name)
    if name not in Settings.model_fields:
        return f"{place}: {_unknown(name, layer)}"
    # Of types pydantic speaks in Python's words; the others say what they want.
    if not detail["type"].endswith("_type"):
        return f"{place}: {said}"
    kind = kind_of(Settings.model_json_schema()["properties"][name]).removesuffix(" or null")
    return f"{place}: wrong type. It takes: {kind.replace('`', '')}."


def _unknown(name: str, layer: _Layer | None) -> str:
    if layer is not None and isinstance(layer.values[name], dict):
        return "there are no tables here; write name = value, without a [heading] above."
    known = set(Settings.model_fields) - set(NEVER_IN_A_FILE)
    close = nearest_name(name.lower().removeprefix("flux_mcp_"), known)
    return f"there is no such setting.{f' Did you mean {close}?' if close else ''}"


# --- a field of a schema in words --------------------------------------------------------------


def kind_of(field: Schema) -> str:
    """Say a field's type and range in a few words."""
    if "anyOf" in field:
        return " or ".join(kind_of(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field.get("type", "any"))
    if kind == "array" and "items" in field:
        kind = f"list of {kind_of(field['items'])}"
    kind = "path" if field.get("format") == "path" else kind
    return ", ".join([kind, *_limits(field)])


def _limits(field: Schema) -> Iterator[str]:
    words = (
        ("minimum", "at least {:,}"),
        ("exclusiveMinimum", "above {:,}"),
        ("maximum", "at most {:,}"),
        ("minLength", "at least {:,} characters"),
        ("maxLength", "at most {:,} characters"),
        ("minItems", "at least {:,}"),
        ("maxItems", "at most {:,}"),
    )
    for key, text in words:
        if key in field and (key, field[key]) != ("minLength", 1):
            yield text.format(field[key])


def default_of(field: Schema) -> str:
    """Say a field's default; nothing where leaving it out means that there is none."""
    value = field.get("default")
    if value is None:
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
