"""What a model gives that must give every argument, as the strict modes of providers ask."""

import re
from typing import Any

Schema = dict[str, Any]

NEEDED: dict[str, dict[str, Any]] = {
    "flux_generate": {"prompt": "a circle"},
    "flux_edit": {"prompt": "make it red", "images": ["img_a"]},
    "flux_fill": {
        "prompt": "a hat",
        "image": "img_a",
        "mask": {"box": [0, 0, 16, 16]},
    },
    "flux_variation": {"images": [{"image": "img_a", "weight": 1}]},
    "flux_structural": {"prompt": "a house", "image": "img_a"},
    "flux_search_gallery": {"query": "circle"},
    "flux_get_job": {"job_id": "job_a"},
    "flux_cancel_job": {"session": "cards"},
}
"""What a caller wants of each tool, and nothing else."""


def strict(node: Schema) -> Schema:
    """Return a schema as OpenAI's strict mode takes it: closed, all required, no defaults."""
    node = {key: value for key, value in node.items() if key != "default"}
    if "items" in node:
        node["items"] = strict(node["items"])
    if "properties" in node:
        node["properties"] = {name: strict(one) for name, one in node["properties"].items()}
        node |= {"required": [*node["properties"]], "additionalProperties": False}
    return node


def filled(schema: Schema, wanted: Any = None) -> Any:
    """Return what a model gives for a schema: what is wanted, and else what says the least.

    It has nothing to go by but types and descriptions.
    """
    if "properties" in schema:
        wanted = wanted or {}
        return {name: filled(one, wanted.get(name)) for name, one in schema["properties"].items()}
    if isinstance(wanted, list) and "items" in schema:
        return [filled(schema["items"], one) for one in wanted]
    if wanted is not None:
        return wanted
    about = schema.get("description", "")
    default = re.search(r"\bdefault ([\w.-]+?)\.?$", about, re.IGNORECASE)
    kind = schema["type"].lower()
    if "enum" in schema:
        return default[1] if default else schema["enum"][0]
    if kind in ("integer", "number"):
        number = default or re.search(r"(-?\d+): ", about)
        return 0 if number is None else int(number[1])
    return {"string": "", "boolean": False, "array": []}[kind]
