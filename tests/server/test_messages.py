"""What a line or a body is: a message, or refused with the id of its request where it has one."""

from typing import Any

import pytest
from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCRequest

from flux_mcp.server.transports.messages import Refused, read_message, too_long
from flux_mcp.server.transports.posts import OnlyMessages

CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"flux_generate","x":%s}}'
LAST = b'{"method":"ping","params":{"id":5,"x":%s},"jsonrpc":"2.0","id":7}'
DEEP = b"[" * 100_000 + b"]" * 100_000

NOT_JSON = {
    "a lone high surrogate": rb'"\ud83d"',
    "a lone low surrogate": rb'"\udc00"',
    "halves in the wrong order": rb'"\ude00\ud83d"',
    "latin-1": b'"caf\xe9"',
    "half a character": b'"\xf0\x9f"',
    "deep nesting": DEEP,
    "a number of 5000 digits": b"9" * 5000,
    "a control character": b'"a\tb"',
    "nothing": b"",
    "Python": b"None",
    "a NUL": b'"a\0b"',
    "a byte order mark": b'\xef\xbb\xbf"a"',
    "two values": b'"a" "b"',
}
REASONS = {
    "a lone high surrogate": "surrogate pair",
    "a lone low surrogate": "surrogate pair",
    "halves in the wrong order": "surrogate pair",
    "latin-1": "not UTF-8",
    "half a character": "not UTF-8",
    "deep nesting": "recursion limit",
    "a number of 5000 digits": "number out of range",
    "a control character": "control character",
    "a NUL": "NUL bytes",
}


@pytest.mark.parametrize("around", [CALL, LAST], ids=["id first", "id last"])
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_is_refused_with_the_id_of_the_request(name: str, around: bytes) -> None:
    refused = read_message(around % NOT_JSON[name])
    assert isinstance(refused, Refused)
    assert refused.answer is not None
    assert (refused.answer.id, refused.answer.error.code) == (7, PARSE_ERROR)
    assert REASONS.get(name, "is not JSON") in refused.message


def test_a_mistake_beside_a_whole_surrogate_pair_is_not_taken_for_half_of_one() -> None:
    for whole in (rb'"\ud83d\ude00"', rb'"\\ud83d"', rb'"\\\ud83d\ude00\\"'):
        refused = read_message(CALL % (whole + b","))
        assert isinstance(refused, Refused)
        assert "trailing comma" in refused.message


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7}', 7),
        (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', "a"),
        (b'{"id":7,"method":"ping"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}', 7),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":7.0,"method":"ping"}', 7),
        (b'{"jsonrpc":"2.0","\\u0069d":1.5,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', None),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', None),
        (b"[]", None),
        (b"5", None),
        (b"null", None),
        (b"{}", None),
    ],
)
def test_json_that_is_no_message_is_refused(line: bytes, request_id: object) -> None:
    refused = read_message(line)
    assert isinstance(refused, Refused)
    assert refused.answer is not None
    assert (refused.answer.id, refused.answer.error.code) == (request_id, INVALID_REQUEST)


@pytest.mark.parametrize(
    "line",
    [
        rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}',
        b"hello",
        CALL.decode().encode("utf-16"),
        CALL.decode().encode("utf-16-le"),
        b"\0",
        b"\x0c",
    ],
)
def test_without_an_id_that_can_be_read_the_answer_has_none(line: bytes) -> None:
    refused = read_message(line)
    assert isinstance(refused, Refused)
    assert refused.answer is not None
    assert (refused.answer.id, refused.answer.error.code) == (None, PARSE_ERROR)


@pytest.mark.parametrize(
    "line",
    [
        rb'{"jsonrpc":"2.0","method":"notifications/x","params":{"x":"\ud800"}}',
        rb'{"jsonrpc":"2.0","id":7,"result":{"x":"\ud800"}}',
    ],
    ids=["notification", "answer"],
)
def test_what_asks_for_no_answer_gets_none(line: bytes) -> None:
    refused = read_message(line)
    assert isinstance(refused, Refused)
    assert refused.answer is None


@pytest.mark.parametrize("line", [b"%s\r", b"\xef\xbb\xbf%s", b" %s "], ids=["crlf", "bom", "gaps"])
def test_what_may_stand_around_a_message_is_left_out(line: bytes) -> None:
    message = read_message(line % b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}')
    assert isinstance(message, JSONRPCRequest)
    assert message.id == 2  # the last of two, as every reader of JSON takes it


@pytest.mark.parametrize("line", [b"", b"\r", b"  "])
def test_an_empty_line_is_nothing(line: bytes) -> None:
    assert read_message(line) is None


def test_a_line_that_is_too_long_is_refused_with_its_id() -> None:
    for line in (CALL % (b'"%s"' % (b"x" * 1000)), LAST % (b'"%s"' % (b"x" * 1000))):
        answer = too_long(line[:100], line[-100:], 500).answer
        assert answer is not None
        assert (answer.id, answer.error.code) == (7, INVALID_REQUEST)


PING = b'{"jsonrpc":"2.0","id":"p","method":"ping"}'
NO_JSON_RPC = b'{"jsonrpc":"2.0","id":true,"method":"ping"}'


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chunks", "passed", "status"),
    [
        ((PING[:9], PING[9:]), (PING,), None),
        ((b"\xef\xbb\xbf" + PING,), (PING,), None),
        ((b"\xef\xbb\xbf\xef\xbb\xbf" + PING,), (), 400),
        ((NO_JSON_RPC,), (), 400),
        ((b"",), (), 400),
        ((b"x" * 60, b"x" * 60, b"x"), (b"x" * 60, b"x" * 60, b"x"), None),
    ],
    ids=["in pieces", "bom", "two boms", "no id", "empty", "too long: the application refuses it"],
)
async def test_a_body_reaches_the_application_only_as_a_message(
    chunks: tuple[bytes, ...], passed: tuple[bytes, ...], status: int | None
) -> None:
    coming = list(enumerate(chunks, 1))
    came: list[bytes] = []
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        number, body = coming.pop(0)
        return {"type": "http.request", "body": body, "more_body": number < len(chunks)}

    async def application(_: Any, read: Any, __: Any) -> None:
        while (message := await read())["more_body"]:
            came.append(message["body"])
        came.append(message["body"])

    async def send(message: Any) -> None:
        said.append(message)

    checked = OnlyMessages(application, 100)
    await checked({"type": "http", "method": "POST", "headers": []}, receive, send)
    assert tuple(came) == passed
    assert (said[0]["status"] if said else None) == status
