"""Messages: what a client sends, as a JSON-RPC message or refused under the id of its request.

A line of stdio and the body of an HTTP request are read alike. The SDK's own transports read some
of what is no message without a word, so that its sender waits for ever, and take others for a
notification.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

HEAD_BYTES = 64 * 1024
"""How much of the beginning, and of the end, is searched for the id of what cannot be read."""
BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
"""What JSON calls whitespace (RFC 8259, 2)."""

_NO_MESSAGE = (
    "[invalid_request] This is no JSON-RPC 2.0 message. Send an object with jsonrpc, method, "
    "params (an object), and an id that is a string or an integer."
)
_BATCH = "[invalid_request] Batches are not supported. Send one message at a time."

Kind = Literal["request", "other", "unknown"]


@dataclass(frozen=True)
class Refused:
    """What is no message.

    Attributes:
        code: Of JSON-RPC.
        message: What is wrong with it.
        kind: Whether it asks for an answer, as far as can be seen.
        id: Of the request, if it could be read.
    """

    code: int
    message: str
    kind: Kind
    id: RequestId | None

    @property
    def error(self) -> JSONRPCError:
        """The error of JSON-RPC that says so."""
        error: Any = {"code": self.code, "message": self.message}
        return JSONRPCError(jsonrpc="2.0", id=self.id, error=error)

    @property
    def answer(self) -> JSONRPCError | None:
        """What its sender is told; `None` for what JSON-RPC leaves without an answer."""
        return None if self.kind == "other" else self.error


def read_message(text: bytes) -> JSONRPCMessage | Refused | None:
    """Return the message of a text, why it is none, or `None` for an empty one.

    Args:
        text: A line without its end, or a body. A byte order mark before it is left out (RFC 8259,
            8.1).
    """
    text = text.removeprefix(BOM).strip(_BLANKS)
    if not text:
        return None
    try:
        message = jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValueError as error:
        return _refused(text, error)
    if isinstance(message, JSONRPCNotification) and "id" in (content := json.loads(text)):
        # With an id it asks for an answer, which the SDK's model overlooks.
        return Refused(INVALID_REQUEST, _NO_MESSAGE, *_asked_by(content))
    return message


def too_long(head: bytes, tail: bytes, limit_bytes: int) -> Refused:
    """Return the refusal of a line that is longer than allowed.

    Args:
        head: Its first bytes.
        tail: Its last bytes.
        limit_bytes: How long it may be.
    """
    kind, request_id = _seen_in(head, tail)
    message = (
        f"[too_large] The message is longer than {limit_bytes} bytes. Give images by path or id, "
        "or send smaller ones."
    )
    return Refused(INVALID_REQUEST, message, kind, request_id)


def _refused(text: bytes, error: ValueError) -> Refused:
    reason = _json_error(error)
    try:
        # Python's reader takes more than the standard allows: lone surrogates, NaN.
        content = json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        kind, request_id = _seen_in(text[:HEAD_BYTES], text[-HEAD_BYTES:])
        return Refused(PARSE_ERROR, _not_json(text, reason), kind, request_id)
    kind, request_id = _asked_by(content)
    if reason is not None:
        return Refused(PARSE_ERROR, _not_json(text, reason), kind, request_id)
    message = _BATCH if isinstance(content, list) else _NO_MESSAGE
    return Refused(INVALID_REQUEST, message, kind, request_id)


def _json_error(error: ValueError) -> str | None:
    """Return what keeps a text from being JSON; `None` where it is JSON."""
    if isinstance(error, ValidationError):
        for detail in error.errors(include_input=False, include_url=False):
            if detail["type"] == "json_invalid":
                return str(detail["ctx"]["error"])
    return None


def _not_json(text: bytes, reason: str | None) -> str:
    """Say what keeps a text from being JSON, without quoting it."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            f"[invalid_request] The message is not UTF-8 (byte {error.start}). Send UTF-8, or "
            "ASCII with \\u escapes."
        )
    if b"\0" in text:
        return (
            "[invalid_request] The message has NUL bytes, as UTF-16 has. Send UTF-8, and a NUL in "
            "a string as \\u0000."
        )
    if _has_half_a_pair(text):
        return (
            "[invalid_request] The message has half of a surrogate pair (\\ud800 to \\udfff). "
            "Send both halves, or the character itself as UTF-8."
        )
    return (
        f"[invalid_request] The message is not JSON ({reason or 'it cannot be read'}). "
        "Send one JSON object at a time."
    )


_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


def _has_half_a_pair(text: bytes) -> bool:
    ends = None  # where the first half of a pair ends
    for found in _ESCAPE.finditer(text):
        code = int(found[1] or b"0", 16)
        if (code in _LOW) != (found.start() == ends) or (ends is not None and code not in _LOW):
            return True
        ends = found.end() if code in _HIGH else None
    return ends is not None


def _asked_by(content: Any) -> tuple[Kind, RequestId | None]:
    """Return whether a JSON value asks for an answer, and the id it is to have."""
    if not isinstance(content, dict):
        return "unknown", None
    if "method" not in content and ("result" in content or "error" in content):
        return "other", None  # an answer
    if "id" not in content:
        # Nothing to answer, if it is a notification that only has something wrong in it.
        return ("other" if isinstance(content.get("method"), str) else "unknown"), None
    found = content["id"]
    if isinstance(found, float) and found.is_integer():
        found = int(found)  # the same number to who sent it
    is_id = isinstance(found, str | int) and not isinstance(found, bool) and can_be_sent(found)
    return "request", found if is_id else None


def can_be_sent(text: str | int) -> bool:
    """Tell whether a JSON writer takes it: not a lone surrogate, nor thousands of digits."""
    try:
        str(text).encode()
    except ValueError:
        return False
    return True


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:]|[^\s"{}\[\]:,]+', re.DOTALL)
_LAST_ID = re.compile(rb'"id"\s*:\s*("[^"\\]*"|-?\d{1,18})\s*\}\s*$')


def _seen_in(head: bytes, tail: bytes) -> tuple[Kind, RequestId | None]:
    """Return the same for what cannot be read: its id stands at its first level, or last."""
    depth, key, before = 0, b"", b""
    for found in _TOKEN.finditer(head):
        token = found[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and token == b":":
            key = before
        elif depth == 1 and key == b'"id"' and before == b":":
            return _id_of(token)
        before = token
    last = _LAST_ID.search(tail[-1024:])
    return ("unknown", None) if last is None else _id_of(last[1])


def _id_of(token: bytes) -> tuple[Kind, RequestId | None]:
    try:
        return _asked_by({"method": "", "id": json.loads(token)})
    except ValueError:
        return "request", None
