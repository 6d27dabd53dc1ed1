"""What a line of stdio is: a message, or refused with the id of its request where it has one."""

import pytest
from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCRequest

from flux_mcp.server.transports.lines import Refused, read_message, too_long

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
}


@pytest.mark.parametrize("around", [CALL, LAST], ids=["id first", "id last"])
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_is_refused_with_the_id_of_the_request(name: str, around: bytes) -> None:
    refused = read_message(around % NOT_JSON[name])
    assert isinstance(refused, Refused)
    assert refused.answer is not None
    assert (refused.answer.id, refused.answer.error.code) == (7, PARSE_ERROR)


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
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', None),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', None),
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


@pytest.mark.parametrize("line", [b"hello", rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}'])
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
