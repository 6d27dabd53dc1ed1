"""Tools that answer at once: each kind of content, an error, schemas and headers.

What each must answer stands in the suite's scenario of the same name (`tools-call-*`,
`json-schema-2020-12`, `http-custom-header-server-validation`).
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    EmbeddedResource,
    ImageContent,
    TextContent,
)
from pydantic import Field

from tests.conformance.server.samples import embedded, image, sound, text


def simple_text() -> str:
    """Answer with a text."""
    return "This is a simple text response for testing."


def image_content() -> list[ImageContent]:
    """Answer with an image."""
    return [image()]


def audio_content() -> list[AudioContent]:
    """Answer with a sound."""
    return [sound()]


def embedded_resource() -> list[EmbeddedResource]:
    """Answer with a resource inside the answer."""
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


def multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answer with a text, an image and a resource."""
    body = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", body, "application/json"),
    ]


def error_handling() -> str:
    """Fail, in a way the caller can read."""
    raise ToolError("This tool intentionally returns an error for testing")


def missing_capability(ctx: Context[Any, Any]) -> str:
    """Refuse a client that has not declared sampling, as a protocol error."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs the client's capability 'sampling'.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client declared sampling."


def mirrored_header(
    region: Annotated[
        str,
        Field(
            description="Also sent in the header Mcp-Param-Region.",
            json_schema_extra={"x-mcp-header": "Region"},
        ),
    ] = "none",
) -> str:
    """Answer with an argument that travels in a header as well (SEP-2243)."""
    return f"region={region}"


def json_schema() -> str:
    """Be listed with a schema that uses much of JSON Schema 2020-12; arguments are not read."""
    return "json_schema_2020_12_tool"


CONTENT_TOOLS: Mapping[str, Callable[..., Any]] = {
    "test_simple_text": simple_text,
    "test_image_content": image_content,
    "test_audio_content": audio_content,
    "test_embedded_resource": embedded_resource,
    "test_multiple_content_types": multiple_content_types,
    "test_error_handling": error_handling,
    "test_missing_capability": missing_capability,
    "test_x_mcp_header": mirrored_header,
    "json_schema_2020_12_tool": json_schema,
}

# SEP-1613 and SEP-2106; the suite compares the listed schema with this one. The SDK makes schemas
# from signatures only, so this replaces the one it made.
INPUT_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }
}
