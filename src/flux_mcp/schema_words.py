"""A field of a JSON Schema in a few words: for the reference pages, and for people's mistakes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


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
