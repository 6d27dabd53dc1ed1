"""What is published: exactly eight tools, in schemas every client can read."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flux_mcp.requests.schemas import FillRequest, GenerateRequest
from flux_mcp.server.tools import input_schema, output_schema, published_tools
from flux_mcp.service.answers import JobAnswer

SNAPSHOT = Path(__file__).with_name("tools.json")
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


def walk(node: Any) -> list[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [node, *(found for child in children for found in walk(child))]


def test_exactly_the_eight_tools_are_published_in_order() -> None:
    assert [tool.name for tool in published_tools()] == NAMES


def test_the_tool_list_is_the_one_agreed_on() -> None:
    """The whole list as clients see it. A change here is a change for every client:

    look at the difference, then write it with `python -m tests.server.test_schema`.
    """
    published = [tool.model_dump(mode="json", by_alias=True) for tool in published_tools()]
    assert published == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", published_tools(), ids=lambda tool: tool.name)
def test_each_schema_is_valid_and_plain(tool: Any) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert not any(isinstance(node, dict) and "$ref" in node for node in walk(schema))
    assert tool.input_schema["additionalProperties"] is False
    assert {"type": "null"} not in walk(tool.input_schema)
    assert all(node.get("description") for node in tool.input_schema["properties"].values())
    assert 50 < len(tool.description) < 700
    assert tool.title


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


def test_a_prompt_or_a_pack_is_asked_for_in_words() -> None:
    """Which of the two, no schema that every client reads can say: an error does."""
    generate = input_schema(GenerateRequest)
    assert "required" not in generate
    assert "Instead of prompt" in generate["properties"]["pack"]["description"]
    assert generate["properties"]["pack"]["required"] == ["name"]


def test_nested_arguments_are_inlined() -> None:
    mask = input_schema(FillRequest)["properties"]["mask"]
    assert mask["properties"]["box"]["properties"]["x"]["type"] == "integer"


def test_every_answer_fits_its_schema() -> None:
    jsonschema.validate(JobAnswer().model_dump(mode="json"), output_schema(JobAnswer))


if __name__ == "__main__":
    tools = [tool.model_dump(mode="json", by_alias=True) for tool in published_tools()]
    SNAPSHOT.write_text(json.dumps(tools, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
