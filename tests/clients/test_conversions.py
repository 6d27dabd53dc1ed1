"""Every tool through the converters of third-party packages, and back as a strict model fills it.

Run by `make clients`, which installs the packages.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flux_mcp.requests.validation import parse_request
from flux_mcp.server.published import TOOLS_FILE
from flux_mcp.server.tools import TOOLS
from tests.server.strict import NEEDED, filled

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"
PUBLISHED = {tool["name"]: tool["inputSchema"] for tool in json.loads(TOOLS_FILE.read_bytes())}
GOOGLE = (
    "google-genai",
    "langchain-google-genai",
    "google-adk",
    "pydantic-ai google",
    "pydantic-ai google live",
)
STRICT = (
    "langchain-openai strict",
    "langchain-anthropic strict",
    "openai-agents strict",
    "pydantic-ai openai strict",
)
OTHERS = ("langchain-openai", "langchain-anthropic", "openai-agents", "pydantic-ai openai")
SAID_IN_WORDS = {"default", "minimum", "maximum"}
"""What some converters drop, and descriptions repeat."""

pytestmark = pytest.mark.skipif(
    not ENVIRONMENTS.is_dir(), reason="make clients installs the packages"
)


Converted = dict[str, list[tuple[str, Any]]]
"""For each converter: tools, and what it makes of their input schemas."""


@pytest.fixture(scope="module")
def converted() -> Converted:
    """Return what each converter makes of each tool, wherever its package is installed."""
    found: Converted = {}
    for python in sorted(ENVIRONMENTS.glob("*/bin/python")):
        done = subprocess.run(
            [python, HERE / "conversions.py", TOOLS_FILE], check=True, capture_output=True
        )
        for converter, schemas in json.loads(done.stdout).items():
            found.setdefault(converter, []).extend(schemas.items())
    return found


def test_every_converter_was_there(converted: Converted) -> None:
    assert set(converted) == {*GOOGLE, *STRICT, *OTHERS}
    assert all({name for name, _ in made} == set(PUBLISHED) for made in converted.values())


@pytest.mark.parametrize("converter", [*GOOGLE, *STRICT, *OTHERS])
def test_every_tool_is_taken_whole(converter: str, converted: Converted) -> None:
    for name, schema in converted[converter]:
        assert not isinstance(schema, str), f"{name}: {schema}"
        assert list(losses(PUBLISHED[name], schema, name)) == []


def losses(ours: dict[str, Any], theirs: dict[str, Any], where: str) -> Iterator[str]:
    """Yield what a converted schema says no more; types may be written otherwise."""
    assert ours["type"] == theirs["type"].lower()
    for key in ours.keys() - theirs.keys() - SAID_IN_WORDS - {"required"}:
        yield f"{where}: {key}"
    for key in ours.keys() & theirs.keys() & {"description", "enum", "minimum", "maximum"}:
        if ours[key] != theirs[key]:
            yield f"{where}: {key} is {theirs[key]}"
    for name, one in ours.get("properties", {}).items():
        if name not in theirs.get("properties", {}):
            yield f"{where}.{name}"
        else:
            yield from losses(one, theirs["properties"][name], f"{where}.{name}")
    if "items" in ours and "items" in theirs:
        yield from losses(ours["items"], theirs["items"], f"{where}[]")


@pytest.mark.parametrize("converter", [*GOOGLE, *OTHERS])
def test_no_more_is_required_than_we_ask(converter: str, converted: Converted) -> None:
    for name, schema in converted[converter]:
        assert required(schema) == required(PUBLISHED[name]), name


def required(schema: dict[str, Any], where: str = "") -> dict[str, list[str]]:
    """Return the required arguments of a schema, and of every object in it, by its place."""
    found = {where: sorted(schema.get("required") or ())}
    members = dict(schema.get("properties", {}))
    if "items" in schema:
        members["[]"] = schema["items"]
    for name, one in members.items():
        found |= required(one, f"{where}.{name}")
    return {place: names for place, names in found.items() if names}


@pytest.mark.parametrize("converter", [*STRICT])
def test_what_a_model_must_fill_in_means_nothing(converter: str, converted: Converted) -> None:
    requests = {row.name: row.request for row in TOOLS}
    for name, schema in converted[converter]:
        given = filled(schema, NEEDED[name])
        jsonschema.validate(given, schema)
        assert set(given) == set(PUBLISHED[name]["properties"])
        asked, meant = (parse_request(requests[name], one) for one in (given, NEEDED[name]))
        assert asked == meant, name
