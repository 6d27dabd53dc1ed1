"""What docs/doctor.md says of `doctor --json` is what it writes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter

from flux_mcp.doctor.facts import Examination
from flux_mcp.models.planning.device import Obstacle
from flux_mcp.settings.sources import kind_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
SCHEMA = Examination.model_json_schema()


def keys(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield each key with its type and what the code says of it, those of objects below it."""
    for name, field in schema["properties"].items():
        key, inner = f"{prefix}{name}", field
        options = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
        if len(options) == 1:
            inner = options[0]
        is_list = inner.get("type") == "array"
        inner = inner["items"] if is_list else inner
        if "$ref" in inner and "properties" in SCHEMA["$defs"][inner["$ref"].split("/")[-1]]:
            yield key, "list of objects" if is_list else "object", field.get("description", "")
            target = SCHEMA["$defs"][inner["$ref"].split("/")[-1]]
            yield from keys(target, f"{key}[]." if is_list else f"{key}.")
        else:
            said = field.get("description", "")
            yield key, kind_of(field).removesuffix(" or null"), said


def test_every_key_stands_in_the_table_with_what_the_code_says_of_it() -> None:
    table = [
        tuple(cell.strip() for cell in line.strip("|").split(" | "))
        for line in PAGE.split("\n## Keys\n")[1].splitlines()
        if line.startswith("| `")
    ]
    said = [(f"`{key}`", kind, " ".join(about.split())) for key, kind, about in keys(SCHEMA)]
    assert len(said) > 100
    assert [tuple(cell.replace("\\|", "|") for cell in row) for row in table] == said


def test_every_key_is_described() -> None:
    # Those of the worker's own message are described where the worker is.
    for key, _, about in keys(SCHEMA):
        assert about or key.startswith("worker.environment."), key


def test_the_example_is_of_the_kind_that_is_written() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, value in json.loads(example).items():
        kind = TypeAdapter(Examination.model_fields[name].annotation)
        assert kind.validate_json(json.dumps(value)) is not None


def test_every_obstacle_is_explained() -> None:
    for name in get_args(Obstacle):
        assert f"| `{name}` |" in PAGE
