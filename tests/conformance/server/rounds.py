"""Tools that ask by answering (SEP-2322): a result says what is missing, the client calls again.

What a tool must remember between the calls travels in `request_state`, which the SDK seals: a
changed one never reaches a tool.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context
from mcp.types import (
    CreateMessageResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
)

from tests.conformance.server.elicitations import (
    filled_in,
    form,
    form_request,
    sampling_request,
)

Answer = str | InputRequiredResult
CONFIRM = "Please confirm"
STATE = "asked once"


def elicits(ctx: Context[Any, Any]) -> Answer:
    """Ask for a name, then greet; anything but an answer to that is asked again."""
    name = filled_in(ctx.input_responses, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": _name()})
    return f"Hello, {name}!"


def samples(ctx: Context[Any, Any]) -> Answer:
    """Ask the client's model, then repeat it."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult) and answer.content.type == "text":
        return f"The model said: {answer.content.text}"
    asked = sampling_request("What is the capital of France?", 100)
    return InputRequiredResult(input_requests={"capital_question": asked})


def lists_roots(ctx: Context[Any, Any]) -> Answer:
    """Ask for the client's folders, then name them."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return f"Roots: {', '.join(str(root.uri) for root in answer.roots)}"
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


def keeps_state(ctx: Context[Any, Any]) -> Answer:
    """Ask to confirm, and answer only when its own state comes back with the answer."""
    confirmed = filled_in(ctx.input_responses, "confirm", "ok")
    if confirmed is None or ctx.request_state != STATE:
        return InputRequiredResult(input_requests={"confirm": _confirm()}, request_state=STATE)
    return f"state-ok: confirmed={confirmed}"


def asks_everything(ctx: Context[Any, Any]) -> Answer:
    """Ask user, model and client in one answer."""
    asked: dict[str, InputRequest] = {
        "user_name": _name(),
        "greeting": sampling_request("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    if asked.keys() <= (ctx.input_responses or {}).keys():
        return "All inputs received."
    return InputRequiredResult(input_requests=asked, request_state=STATE)


def asks_twice(ctx: Context[Any, Any]) -> Answer:
    """Ask for a name, then for a colour; out of order it begins again."""
    known = json.loads(ctx.request_state) if ctx.request_state else {}
    name = known.get("name") or filled_in(ctx.input_responses, "step1", "name")
    if not known or name is None:
        return InputRequiredResult(
            input_requests={"step1": _name("Step 1: What is your name?")},
            request_state=json.dumps({"name": None}),
        )
    colour = filled_in(ctx.input_responses, "step2", "color")
    if colour is None:
        asked = form_request("Step 2: What is your favorite color?", form("color"))
        return InputRequiredResult(
            input_requests={"step2": asked}, request_state=json.dumps({"name": name})
        )
    return f"{name} likes {colour}."


def asks_what_is_possible(ctx: Context[Any, Any]) -> InputRequiredResult:
    """Ask only in ways the client has declared."""
    declared = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if declared is not None and declared.sampling is not None:
        asked["sample"] = sampling_request("Say hello", 50)
    if declared is not None and declared.elicitation is not None:
        asked["ask"] = _name()
    return InputRequiredResult(input_requests=asked, request_state=STATE)


def _name(message: str = "What is your name?") -> InputRequest:
    return form_request(message, form("name"))


def _confirm() -> InputRequest:
    return form_request(CONFIRM, form("ok", "boolean"))


ROUND_TOOLS: Mapping[str, Callable[..., Any]] = {
    "test_input_required_result_elicitation": elicits,
    "test_input_required_result_sampling": samples,
    "test_input_required_result_list_roots": lists_roots,
    "test_input_required_result_request_state": keeps_state,
    "test_input_required_result_multiple_inputs": asks_everything,
    "test_input_required_result_multi_round": asks_twice,
    "test_input_required_result_tampered_state": keeps_state,
    "test_input_required_result_capabilities": asks_what_is_possible,
}
