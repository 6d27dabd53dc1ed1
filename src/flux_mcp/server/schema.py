"""Pydantic models -> the JSON Schemas that are published. Pure.

Clients and the models behind them read these; many handle neither `$ref` nor null alternatives
well, so definitions are inlined, "or null" is said by leaving the argument out, and titles go.
"""

from functools import cache
from typing import Any

from pydantic import BaseModel


def input_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a tool's arguments: an object, closed, without references."""
    return _root(_without_null(_inline(model.model_json_schema())))


@cache
def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a tool's structured content; null is a value there."""
    return _root(_inline(model.model_json_schema(mode="serialization")))


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    # The model's docstring is about the class; the tool has a description of its own.
    return {key: value for key, value in schema.items() if key != "description"}


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = schema.get("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].removeprefix("#/$defs/")]
            beside = {key: value for key, value in node.items() if key != "$ref"}
            return walk({**target, **beside})
        # A property may itself be called "title": inside `properties` names are kept.
        return {
            key: {name: walk(value) for name, value in item.items()}
            if key == "properties"
            else walk(item)
            for key, item in node.items()
            if key != "$defs" and not (key == "title" and isinstance(item, str))
        }

    inlined: dict[str, Any] = walk(schema)
    return inlined


def _without_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    alternatives = [item for item in node.get("anyOf", []) if item != {"type": "null"}]
    if len(alternatives) == 1:
        beside = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        node = {**alternatives[0], **beside}
    return {key: _without_null(value) for key, value in node.items()}
