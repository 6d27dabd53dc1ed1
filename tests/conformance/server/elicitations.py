"""What fixtures ask a user: messages and the schemas of answers. Pure.

Schemas are written here as they are sent, because the suite compares them with SEP-1034 (defaults
of every primitive type) and SEP-1330 (the five ways to write a choice).
"""

from collections.abc import Mapping
from typing import Any

from mcp.types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputResponses,
    SamplingMessage,
)

from tests.conformance.server.samples import text

Schema = Mapping[str, Any]


def form(required: str, kind: str = "string") -> Schema:
    """Return the schema of a form with one required field."""
    return {"type": "object", "properties": {required: {"type": kind}}, "required": [required]}


def form_request(message: str, schema: Schema) -> ElicitRequest:
    """Return a request to fill in a form."""
    params = ElicitRequestFormParams(message=message, requested_schema=dict(schema))
    return ElicitRequest(params=params)


def sampling_request(words: str, max_tokens: int) -> CreateMessageRequest:
    """Return a request for words of the client's model."""
    messages = [SamplingMessage(role="user", content=text(words))]
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens)
    )


def filled_in(responses: InputResponses | None, key: str, field: str) -> Any:
    """Return a field of an accepted form, or None when that form has not been answered so."""
    answer = (responses or {}).get(key)
    if isinstance(answer, ElicitResult) and answer.action == "accept" and answer.content:
        return answer.content.get(field)
    return None


CONTACT: Schema = {
    "type": "object",
    "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "required": ["username", "email"],
}

DEFAULTS: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    },
    "required": [],
}


def _titled(*titles: str) -> list[dict[str, str]]:
    return [{"const": f"value{at}", "title": title} for at, title in enumerate(titles, start=1)]


_PLAIN = ["option1", "option2", "option3"]

CHOICES: Schema = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": _PLAIN},
        "titledSingle": {"type": "string", "oneOf": _titled("First", "Second", "Third")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _PLAIN}},
        "titledMulti": {"type": "array", "items": {"anyOf": _titled("First", "Second", "Third")}},
    },
    "required": [],
}
