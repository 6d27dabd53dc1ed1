"""What is published: exactly eight tools, small, in schemas every client can read."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.requests.schemas import EditRequest, FillRequest, GenerateRequest, VariationRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.server.app import build_server
from flux_mcp.server.published import TOOLS_FILE, published_tools
from flux_mcp.server.tools import TOOLS, ToolRow, described_tools, input_schema
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings, ToolName
from tests.server.strict import NEEDED, filled, strict

MAX_LIST_BYTES = 36_000
MAX_READ_CHARACTERS = 17_500
"""Of what a client hands to its model with each request: descriptions and input schemas. That is

4,500 tokens with the names, of o200k_base (benchmarks/tool_list.py counts them).
"""
NAMES = [
    "flux_generate",
    "flux_edit",
    "flux_fill",
    "flux_variation",
    "flux_structural",
    "flux_search_gallery",
    "flux_get_job",
    "flux_cancel_job",
]
KEPT = {"type", "description", "properties", "required", "items", "enum"}
"""What every converter keeps, as tests/clients/test_conversions.py sees."""
SAID_IN_WORDS = {"default", "minimum", "maximum"}
"""What some of them drop, and descriptions repeat."""


def compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and every schema inside it; names of properties are no keywords."""
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from nodes(inner)
    for inner in (schema.get("items"), *schema.get("anyOf", ())):
        if inner is not None:
            yield from nodes(inner)


def test_the_published_list_is_made_of_the_models() -> None:
    """The whole list as clients see it. A change here is a change for every client:

    look at the difference, then write it with `python scripts/build_reference.py`.
    """
    assert json.loads(TOOLS_FILE.read_text(encoding="utf-8")) == described_tools()
    assert [tool.name for tool in published_tools()] == NAMES == [row.name for row in TOOLS]


# --- fewer tools, fewer words ------------------------------------------------------------------

SOME = ("flux_search_gallery", "flux_edit")


def test_the_setting_names_every_tool() -> None:
    assert list(get_args(ToolName)) == NAMES


@pytest.mark.anyio
async def test_only_the_tools_of_the_setting_are_published_and_can_be_called(
    settings: Settings,
) -> None:
    chosen = settings.model_copy(update={"tools": SOME})
    async with Client(build_server(Service(chosen, executes=False))) as client:
        listed = (await client.list_tools()).tools
        assert client.instructions is not None
        shown = client.instructions + "".join(tool.model_dump_json() for tool in listed)
        found = await client.call_tool("flux_search_gallery", {})
        with pytest.raises(MCPError, match="The setting 'tools' leaves out 'flux_fill'"):
            await client.call_tool("flux_fill", {})
    assert [tool.name for tool in listed] == ["flux_edit", "flux_search_gallery"]
    assert set(re.findall(r"flux_[a-z_]+", shown)) == set(SOME), "nothing names another tool"
    assert not found.is_error


def test_compact_schemas_say_nothing_twice_and_leave_no_argument_out() -> None:
    whole, compact = published_tools(), published_tools(compact=True)
    assert [tool.name for tool in compact] == NAMES
    assert all(tool.output_schema is None for tool in compact)
    for name in {name for tool in whole for name in tool.input_schema["properties"]}:
        having = [tool for tool in whole if name in tool.input_schema["properties"]]
        told = [tool for tool in compact if name in tool.input_schema["properties"]]
        for before, after in zip(having, told, strict=True):
            ours, theirs = (one.input_schema["properties"][name] for one in (before, after))
            if ours != theirs:
                first = having[0].input_schema["properties"][name]
                assert ours == first == told[0].input_schema["properties"][name]
                assert not any("description" in node for node in nodes(theirs))
                assert [set(node) for node in nodes(theirs)] == [
                    set(node) - {"description"} for node in nodes(ours)
                ]
    generate, edit = compact[0], compact[1]
    assert generate.input_schema == whole[0].input_schema
    assert generate.description == whole[0].description
    assert "Change an existing image" in edit.description
    assert "flux_get_job" not in edit.description, "flux_generate says it"
    size = [len(tool.description) + len(compact_json(tool.input_schema)) for tool in compact]
    assert sum(size) < 13_500


@pytest.mark.anyio
async def test_the_list_is_small_as_a_client_gets_it(settings: Settings) -> None:
    async with Client(build_server(Service(settings, executes=False))) as client:
        listed = await client.list_tools()
    result = listed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert [tool.name for tool in listed.tools] == NAMES
    assert len(compact_json(result).encode()) <= MAX_LIST_BYTES
    read = [tool["description"] + compact_json(tool["inputSchema"]) for tool in result["tools"]]
    assert sum(map(len, read)) <= MAX_READ_CHARACTERS


@pytest.mark.parametrize("tool", published_tools(), ids=lambda tool: tool.name)
def test_each_schema_is_valid_and_plain(tool: Any) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert not any("$ref" in node or "$defs" in node for node in nodes(schema))
    for node in nodes(tool.input_schema):
        assert set(node) <= KEPT | SAID_IN_WORDS
        assert isinstance(node["type"], str), "one type, never null"
        assert all(isinstance(one, str) for one in node.get("enum", ())), "as Gemini takes them"
        assert node["type"] != "object" or node["properties"], (
            "Gemini refuses an object of any keys"
        )
        assert node["type"] != "array" or node["items"]
    assert all(node.get("description") for node in tool.input_schema["properties"].values())
    assert 50 < len(tool.description) < 700
    assert tool.title


@pytest.mark.parametrize("tool", published_tools(), ids=lambda tool: tool.name)
def test_bounds_and_defaults_stand_in_the_description(tool: Any) -> None:
    for node in nodes(tool.input_schema):
        for key in SAID_IN_WORDS & set(node):
            if node[key] not in ("", [], {}):
                assert f"{node[key]}" in node["description"], (key, node)
    search = input_schema(SearchRequest)["properties"]
    assert search["limit"]["description"] == "Most images in one answer. 1 to 50, default 20."
    guidance = input_schema(GenerateRequest)["properties"]["guidance"]
    assert guidance == {"type": "number", "description": "-1: the model's own. 0 to 100."}
    share = input_schema(VariationRequest)["properties"]["strength"]
    assert share["description"].endswith("only likeness. Above 0 to 1.")


@pytest.mark.parametrize("tool", published_tools(), ids=lambda tool: tool.name)
def test_optional_members_of_nested_objects_have_defaults(tool: Any) -> None:
    """langchain-google-genai makes a model give those without."""
    _, *nested = nodes(tool.input_schema)
    for node in nested:
        for name, member in node.get("properties", {}).items():
            assert ("default" in member) is (name not in node.get("required", ()))


@pytest.mark.parametrize("row", TOOLS, ids=lambda row: row.name)
def test_what_a_strict_model_must_fill_in_means_nothing(row: ToolRow) -> None:
    """It gives every argument, by types and descriptions alone."""
    schema = strict(input_schema(row.request))
    given = filled(schema, NEEDED[row.name])
    jsonschema.validate(given, schema)
    assert parse_request(row.request, given) == parse_request(row.request, NEEDED[row.name])


def test_annotations_are_honest() -> None:
    hints = {tool.name: tool.annotations for tool in published_tools()}
    assert all(hint is not None and hint.open_world_hint is False for hint in hints.values())
    read_only = {name for name, hint in hints.items() if hint and hint.read_only_hint}
    assert read_only == {"flux_search_gallery", "flux_get_job"}
    assert {name for name, hint in hints.items() if hint and hint.destructive_hint} == {
        "flux_cancel_job"
    }


def test_optional_arguments_are_left_out_rather_than_null() -> None:
    width = input_schema(GenerateRequest)["properties"]["width"]
    assert width["type"] == "integer"
    assert "default" not in width
    fill = input_schema(FillRequest)
    assert fill["required"] == ["image", "mask"]
    assert fill["properties"]["mask"]["properties"]["box"]["items"] == {"type": "number"}


def test_a_prompt_or_a_pack_is_asked_for_in_words() -> None:
    """Which of the two, no schema that every client reads can say: an error does."""
    generate = input_schema(GenerateRequest)
    assert "required" not in generate
    assert "Instead of prompt" in generate["properties"]["pack"]["description"]
    assert generate["properties"]["pack"]["required"] == ["name"]


def test_what_the_schema_leaves_out_the_server_still_checks() -> None:
    """Unknown arguments, lengths of texts, exclusive bounds: the models have them all."""
    box = {"x": 0, "y": 0, "width": 8, "height": 8}
    for model, wrong in (
        (GenerateRequest, {"prompt": "a" * 2001}),
        (GenerateRequest, {"prompt": ""}),
        (GenerateRequest, {"prompt": "a", "zzz": 1}),
        (GenerateRequest, {"pack": {"name": "n" * 101}}),
        (GenerateRequest, {"pack": {"name": "shapes", "colour": "red"}}),
        (GenerateRequest, {"prompt": "a", "loras": [{"name": "striped", "scale": 1}]}),
        (GenerateRequest, {"prompt": "a", "idempotency_key": "k" * 201}),
        (EditRequest, {"prompt": "a", "images": [""]}),
        (FillRequest, {"prompt": "a", "image": "i", "mask": {"box": {**box, "left": 1}}}),
        (VariationRequest, {"images": ["i"], "strength": 0}),
        (VariationRequest, {"images": [{"image": "i", "share": 1}]}),
    ):
        with pytest.raises(ValidationError):
            model.model_validate(wrong)


@pytest.mark.parametrize(
    "variables",
    [{"light": "dawn", "tag": "a=b"}, ["light=dawn", "tag=a=b"], '["light=dawn", " tag =a=b"]'],
)
def test_variables_are_pairs_or_an_object(variables: Any) -> None:
    asked = GenerateRequest.model_validate({"pack": {"name": "shapes", "variables": variables}})
    assert asked.pack is not None
    assert asked.pack.variables == {"light": "dawn", "tag": "a=b"}


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        (["dawn"], "'dawn' is not variable=choice"),
        (["=dawn"], "'=dawn' is not variable=choice"),
        (["light=dawn", "light=dusk"], "'light' is there twice"),
        (["light=" + "d" * 2001], "at most 2000 characters"),
        ([1], "valid dictionary"),
    ],
)
def test_pairs_that_say_nothing_or_two_things_are_refused(variables: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GenerateRequest.model_validate({"pack": {"name": "shapes", "variables": variables}})
