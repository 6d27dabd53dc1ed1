"""A model endpoint on loopback: it makes the calls of a conversation and keeps what it is sent.

It speaks what clients send to a model: Anthropic messages, OpenAI responses and chat completions,
Gemini generateContent; and `/neutral` for clients that have no model: those send the tools they
list and the results as their library hands them over.

What a model receives after a call is everything that the client added to the conversation after
it: some clients move images out of the tool's result into a message of the user.
"""

import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from tests.clients.conversation import Conversation, Part, Turn

Json = dict[str, Any]
DONE = "done"
MOST_IDLE_ANSWERS = 6
"""Answers without a call, after which a model that lacks a tool gives up: some clients ask on."""
USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


class Api(Protocol):
    """One of the protocols between clients and models."""

    def tools(self, body: Json) -> dict[str, Json]:
        """Return the tools of a request by their name there."""

    def received(self, body: Json, call_id: str) -> list[Part] | None:
        """Return what follows a call in a request; None if the call is not in it."""

    def answer(self, body: Json, call: "Call | None") -> tuple[Any, bool]:
        """Return the answer, which makes a call or ends the turn, and whether it is a stream."""


class Call:
    """A call as a model makes it.

    Attributes:
        id: Its number in the conversation.
        name: The tool's name as the client has it.
        tool: The tool as the client has it.
    """

    def __init__(self, call_id: str, name: str, tool: Json, arguments: Mapping[str, Any]) -> None:
        self.id, self.name, self.tool, self.arguments = call_id, name, tool, arguments

    @property
    def json(self) -> str:
        return json.dumps(self.arguments)


def new_id() -> str:
    """Return an id of an answer: clients put those with the same one together."""
    return f"made_{uuid.uuid4().hex}"


def part_of(block: Any) -> Part:
    """Return a block of content of any of the protocols as a part."""
    if isinstance(block, str):
        return Part("text", block)
    kind = block.get("type", "")
    if kind in ("text", "input_text", "output_text"):
        return Part("text", block["text"])
    if kind in ("image", "image_url", "input_image", "inlineData"):
        return _image_part(block)
    return Part("other", json.dumps(block, ensure_ascii=False))


def _image_part(block: Json) -> Part:
    """Return an image, or what is none though it says so: no model can fetch flux://..."""
    if "data" in block:
        return Part("image", str(block.get("mimeType") or block.get("mime_type")))
    if "source" in block:
        source = block["source"]
        address = source.get("url") or f"data:{source.get('media_type')};base64,"
    else:
        address = block["image_url"]
        address = address["url"] if isinstance(address, dict) else address
    if address.startswith("data:image/"):
        return Part("image", address.split(";")[0].removeprefix("data:"))
    return Part("other", json.dumps({"type": "broken image", "url": address}))


def _parts(content: Any) -> list[Part]:
    blocks = content if isinstance(content, list) else [content]
    return [part_of(block) for block in blocks if block]


class Anthropic:
    """POST /v1/messages."""

    def tools(self, body: Json) -> dict[str, Json]:
        return {tool["name"]: tool for tool in body.get("tools", ()) if "name" in tool}

    def received(self, body: Json, call_id: str) -> list[Part] | None:
        parts: list[Part] | None = None
        for message in body["messages"]:
            blocks = message["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            for block in blocks:
                if block.get("type") == "tool_use" and block["id"] == call_id:
                    parts = []
                elif parts is not None and block.get("type") == "tool_result":
                    # Not those of a search for tools, which Claude Code puts into one message.
                    if block["tool_use_id"] == call_id:
                        parts += _parts(block.get("content", ""))
                elif parts is not None and message["role"] == "user":
                    parts += _parts([block])
        return parts or None

    def answer(self, body: Json, call: Call | None) -> tuple[Any, bool]:
        block: Json = {"type": "text", "text": DONE}
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": DONE}
        if call is not None:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            empty, delta = {**block, "input": {}}, {"type": "input_json_delta"}
            delta["partial_json"] = call.json
        stop = "end_turn" if call is None else "tool_use"
        message: Json = {"id": new_id(), "type": "message", "role": "assistant"}
        message |= {"model": body["model"], "content": [], "stop_reason": None, "usage": USAGE}
        if not body.get("stream"):
            return {**message, "content": [block], "stop_reason": stop}, False
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": USAGE},
            {"type": "message_stop"},
        ], True


class Responses:
    """POST /v1/responses; Codex puts the tools of a server into a namespace."""

    def tools(self, body: Json) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for tool in body.get("tools", ()):
            if tool.get("type") == "function":
                found[tool["name"]] = tool
            for inner in tool.get("tools") or ():
                found[inner["name"]] = {**inner, "namespace": tool.get("name")}
        return found

    def received(self, body: Json, call_id: str) -> list[Part] | None:
        parts: list[Part] | None = None
        items = body["input"] if isinstance(body["input"], list) else []
        for item in items:
            kind = item.get("type", "message")
            if kind == "function_call" and item["call_id"] == call_id:
                parts = []
            elif parts is not None and kind == "function_call_output":
                parts += _parts(item["output"])
            elif parts is not None and kind == "message" and item.get("role") != "assistant":
                parts += _parts(item["content"])
        return parts or None

    def answer(self, body: Json, call: Call | None) -> tuple[Any, bool]:
        item: Json = {"id": new_id(), "status": "completed"}
        if call is None:
            text = {"type": "output_text", "text": DONE, "annotations": []}
            item |= {"type": "message", "role": "assistant", "content": [text]}
        else:
            item |= {"type": "function_call", "call_id": call.id, "name": call.name}
            item |= {"arguments": call.json}
            if "namespace" in call.tool:
                item["namespace"] = call.tool["namespace"]
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        response: Json = {"id": new_id(), "object": "response", "created_at": 1}
        response |= {"model": body["model"], "status": "completed", "output": [item]}
        response |= {"usage": {**USAGE, **details}, "tool_choice": "auto", "tools": []}
        response |= {"parallel_tool_calls": False}
        if not body.get("stream"):
            return response, False
        begun = {**response, "status": "in_progress", "output": []}
        placed = {"output_index": 0, "item": item}
        return [
            {"type": "response.created", "sequence_number": 0, "response": begun},
            {"type": "response.output_item.added", "sequence_number": 1, **placed},
            {"type": "response.output_item.done", "sequence_number": 2, **placed},
            {"type": "response.completed", "sequence_number": 3, "response": response},
        ], True


class Chat:
    """POST /v1/chat/completions."""

    def tools(self, body: Json) -> dict[str, Json]:
        return {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}

    def received(self, body: Json, call_id: str) -> list[Part] | None:
        parts: list[Part] | None = None
        for message in body["messages"]:
            called = {call["id"] for call in message.get("tool_calls") or ()}
            if call_id in called:
                parts = []
            elif parts is not None and message["role"] in ("tool", "user"):
                parts += _parts(message["content"])
        return parts or None

    def answer(self, body: Json, call: Call | None) -> tuple[Any, bool]:
        message: Json = {"role": "assistant", "content": DONE}
        if call is not None:
            function = {"name": call.name, "arguments": call.json}
            called = {"index": 0, "id": call.id, "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [called]}
        end = "stop" if call is None else "tool_calls"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        answer: Json = {"id": new_id(), "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": end}
            answer |= {"object": "chat.completion", "choices": [choice], "usage": usage}
            return answer, False
        answer["object"] = "chat.completion.chunk"
        begun = {"index": 0, "delta": message, "finish_reason": None}
        ended = {"index": 0, "delta": {}, "finish_reason": end}
        return [
            {**answer, "choices": [begun]},
            {**answer, "choices": [ended], "usage": usage},
        ], True


class Gemini:
    """POST /v1beta/models/...:generateContent and :streamGenerateContent.

    Not every client keeps the ids of calls there: the last call of a request is the open one.
    """

    def tools(self, body: Json) -> dict[str, Json]:
        declared = (tool.get("functionDeclarations", ()) for tool in body.get("tools") or ())
        return {function["name"]: function for tool in declared for function in tool}

    def received(self, body: Json, call_id: str) -> list[Part] | None:  # noqa: ARG002 - see above
        parts: list[Part] | None = None
        for content in body["contents"]:
            for part in content.get("parts", ()):
                if "functionCall" in part:
                    parts = []
                elif parts is not None and content.get("role") != "model":
                    parts += list(self._received(part))
        return parts or None

    def _received(self, part: Json) -> Iterator[Part]:
        if "functionResponse" in part:
            response = part["functionResponse"]
            yield Part("text", json.dumps(response.get("response"), ensure_ascii=False))
            for inner in response.get("parts") or ():
                yield from self._received(inner)
        elif "inlineData" in part:
            yield Part("image", part["inlineData"]["mimeType"])
        elif "text" in part:
            yield Part("text", part["text"])
        else:
            yield Part("other", json.dumps(part, ensure_ascii=False))

    def answer(self, body: Json, call: Call | None) -> tuple[Any, bool]:  # noqa: ARG002
        part: Json = {"text": DONE}
        if call is not None:
            part = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
            part["thoughtSignature"] = "c2lnbmVk"
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        return {
            "candidates": [{**candidate, "index": 0}],
            "usageMetadata": usage,
            "modelVersion": "recorder",
        }, False


class Neutral:
    """POST /neutral: a library without a model hands over its tools, and each result whole."""

    def tools(self, body: Json) -> dict[str, Json]:
        return {tool["name"]: tool for tool in body["tools"]}

    def received(self, body: Json, call_id: str) -> list[Part] | None:
        result = body.get("result")
        if result is None or body.get("call_id") != call_id:
            return None
        if "raised" in result:
            return [Part("text", result["raised"])]
        structured = result.get("structuredContent")
        parts = _parts(result["content"])
        if structured is not None:
            parts.append(Part("structured", json.dumps(structured, ensure_ascii=False)))
        return parts

    def answer(self, body: Json, call: Call | None) -> tuple[Any, bool]:  # noqa: ARG002
        if call is None:
            return {"call": None}, False
        called = {"id": call.id, "name": call.name, "arguments": call.arguments}
        return {"call": called}, False


APIS: tuple[tuple[str, Api], ...] = (
    ("/neutral", Neutral()),
    ("/messages", Anthropic()),
    ("/responses", Responses()),
    ("/chat/completions", Chat()),
    ("enerateContent", Gemini()),
)
"""By what the path of a request contains."""


class Recorder:
    """Makes the calls of one conversation, and keeps what came back.

    Args:
        conversation: What the model asks for.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._lock = threading.Lock()
        self._next: Turn | None = next(conversation)
        self._pending = False
        self.turns: list[Turn] = []
        self.tools: dict[str, Json] = {}
        """Tools of ours as the client describes them to its model, by our names."""
        self.is_over = threading.Event()
        """Set when the model has no more calls to make, or cannot make the next one."""
        self._left_to_say = MOST_IDLE_ANSWERS
        self.paths: list[str] = []

    def answer(self, path: str, body: Json) -> tuple[Any, bool]:
        """Return the answer to a request of a client, and whether it is a stream."""
        api = next((api for part, api in APIS if part in path), None)
        if api is None or "count" in path:
            # What clients ask beside: how many tokens something has, which models there are.
            return {"input_tokens": 10, "totalTokens": 10, "data": [], "models": []}, False
        with self._lock:
            self.paths.append(path)
            call = self._call(api, body)
            if call is None:
                self._left_to_say -= 1
                if self._left_to_say == 0:
                    self.is_over.set()
            return api.answer(body, call)

    def _call(self, api: Api, body: Json) -> Call | None:
        tools = api.tools(body)
        names = {_ours(name): name for name in tools if _ours(name)}
        self.tools |= {ours: tools[name] for ours, name in names.items()}
        if self._pending:
            parts = api.received(body, self._call_id)
            if parts is None:
                return None
            turn = self.turns[-1]
            turn.parts = parts
            self._pending = False
            self._next = self._advance(turn)
        if self._next is None:
            return None
        if self._next.tool not in names:
            return _finder(tools, self._next.tool)
        self.turns.append(self._next)
        self._pending = True
        name = names[self._next.tool]
        return Call(self._call_id, name, tools[name], self._next.arguments)

    @property
    def _call_id(self) -> str:
        return f"call_{len(self.turns)}"

    def _advance(self, answered: Turn) -> Turn | None:
        try:
            return self._conversation.send(answered)
        except StopIteration:
            self.is_over.set()
            return None


def _ours(name: str) -> str:
    """Return the name we publish a tool under: clients put their own before it."""
    found = re.search(r"flux_(generate|edit|fill|variation|structural|[a-z]+_(gallery|job))$", name)
    return found[0] if found else ""


def _finder(tools: Mapping[str, Json], wanted: str) -> Call | None:
    """Ask for a tool that Claude Code describes only when its model looks for it."""
    if "ToolSearch" not in tools:
        return None
    arguments = {"query": f"select:mcp__flux__{wanted}", "max_results": 5}
    return Call(f"find_{wanted}", "ToolSearch", tools["ToolSearch"], arguments)


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the recorder of its server."""

    protocol_version = "HTTP/1.1"
    server: "Endpoint"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """Say nothing."""

    def do_GET(self) -> None:
        self._send(b'{"data": [], "models": []}', "application/json")

    def do_HEAD(self) -> None:
        self._send(b"", "application/json")

    def do_POST(self) -> None:
        raw = self._body()
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        answer, is_stream = self.server.recorder.answer(self.path, body)
        if "alt=sse" in self.path:
            answer, is_stream = [answer], True
        if not is_stream:
            self._send(json.dumps(answer).encode(), "application/json")
            return
        lines = [_event(event) for event in answer]
        if "/chat/" in self.path:
            lines.append("data: [DONE]\n\n")
        self._send("".join(lines).encode(), "text/event-stream")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, data: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _event(event: Json) -> str:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n"


class Endpoint(ThreadingHTTPServer):
    """The server of one recorder, on a free port of loopback."""

    daemon_threads = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.recorder = recorder


@contextmanager
def listening(recorder: Recorder) -> Iterator[str]:
    """Serve a recorder; yield its address."""
    with Endpoint(recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
