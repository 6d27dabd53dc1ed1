"""Prompts of the suite: with arguments, with embedded contents, with a question first."""

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import InputRequiredResult

from tests.conformance.server.elicitations import filled_in, form, form_request
from tests.conformance.server.samples import embedded, image, text


def simple() -> list[UserMessage]:
    """Give a prompt without arguments."""
    return [UserMessage(text("This is a simple prompt for testing."))]


def with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """Give a prompt with two required arguments."""
    return [UserMessage(text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


def with_embedded_resource(
    resourceUri: str,  # noqa: N803 - the argument's name on the wire is the suite's
) -> list[UserMessage]:
    """Give a prompt that holds a resource."""
    return [
        UserMessage(embedded(resourceUri, "Embedded resource content for testing.")),
        UserMessage(text("Please process the embedded resource above.")),
    ]


def with_image() -> list[UserMessage]:
    """Give a prompt that holds an image."""
    return [UserMessage(image()), UserMessage(text("Please analyze the image above."))]


def with_question(ctx: Context[Any, Any]) -> list[UserMessage] | InputRequiredResult:
    """Ask for the context of a prompt before giving it (SEP-2322)."""
    context = filled_in(ctx.input_responses, "user_context", "context")
    if context is None:
        asked = form_request("What context should the prompt use?", form("context"))
        return InputRequiredResult(input_requests={"user_context": asked})
    return [UserMessage(text(f"Use the following context: {context}"))]


PROMPTS: Mapping[str, Callable[..., Any]] = {
    "test_simple_prompt": simple,
    "test_prompt_with_arguments": with_arguments,
    "test_prompt_with_embedded_resource": with_embedded_resource,
    "test_prompt_with_image": with_image,
    "test_input_required_result_prompt": with_question,
}
