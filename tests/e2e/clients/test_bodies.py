"""What clients send: large images, too much, slowly, and what is no request at all."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from mcp.types import INVALID_REQUEST, PARSE_ERROR
from PIL import Image

from tests.e2e.calls import job

from .dropping import post
from .holding import SMALL
from .inprocess import served
from .raw import ACCEPT, MODERN, hello, modern, opened, request
from .transports import HTTP, LEGACY_HTTP, OVER_HTTP, SSE, Route, Server, connected, http_client

pytestmark = pytest.mark.anyio

LARGE_BYTES = 40 * 1000 * 1000


@pytest.fixture(scope="module")
def large_image() -> str:
    """An image that was not compressed, as a data: URI of forty megabytes."""
    side_px = int((LARGE_BYTES * 3 / 4 / 3) ** 0.5) + 1
    buffer = io.BytesIO()
    Image.new("RGB", (side_px, side_px), "teal").save(buffer, "PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.mark.parametrize(
    "route",
    [HTTP, *(pytest.param(route, marks=pytest.mark.torture) for route in (LEGACY_HTTP, SSE))],
    ids=str,
)
async def test_an_image_of_forty_megabytes_goes_in(
    server: Server, large_image: str, route: Route
) -> None:
    assert len(large_image) > LARGE_BYTES
    async with connected(server, route) as client:
        asked = {**SMALL, "prompt": "make it red", "images": [large_image], "wait_s": 200}
        assert (await job(client, "flux_edit", **asked)).status == "completed"


@pytest.mark.parametrize("path", ["/mcp", "/messages/?session_id=0"])
@pytest.mark.parametrize("says", ["its size", "nothing"])
async def test_a_body_above_the_limit_is_refused(tmp_path: Path, path: str, says: str) -> None:
    limit_bytes = 100_000

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    async with served(tmp_path, max_body_bytes=limit_bytes) as (server, _), http_client() as http:
        content = b" " * (limit_bytes + 1) if says == "its size" else chunks()
        headers = {**ACCEPT, "Content-Type": "application/json"}
        refused = await http.post(f"{server.url}{path}", content=content, headers=headers)
        assert (refused.status_code, refused.text) == (413, "Request body too large")


async def test_one_slow_sender_holds_up_nobody(server: Server) -> None:
    async with slow_sender(server):
        for route in OVER_HTTP:
            async with connected(server, route) as client:
                assert len((await client.list_tools()).tools) == 8


@asynccontextmanager
async def slow_sender(server: Server) -> AsyncIterator[None]:
    """Hold a request open of which half was sent, without a session: one that would open one."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post("/mcp", b"{", length=5000, headers=ACCEPT))
    await writer.drain()
    yield
    writer.close()


@dataclass(frozen=True)
class Bad:
    """A request that is none, and how it is answered."""

    status: int
    code: int | None = None
    content: bytes = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    headers: dict[str, str] = field(default_factory=dict)
    says: str = ""


NO_ID = b'{"jsonrpc": "2.0", "id": 1.5, "method": "tools/list"}'
BATCH = b'[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]'
LONE = rb'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "\ud800"}}'
LEGACY_BAD = {
    "half a surrogate pair": Bad(400, PARSE_ERROR, LONE),
    "an id that is none": Bad(400, INVALID_REQUEST, NO_ID),
    "another content type": Bad(400, headers={"Content-Type": "text/plain"}),
    "no event stream wanted": Bad(406, INVALID_REQUEST, headers={"Accept": "application/json"}),
    "an unknown session": Bad(404, INVALID_REQUEST, headers={"Mcp-Session-Id": "0" * 32}),
    "an unknown version": Bad(400, None, headers={"MCP-Protocol-Version": "1999-01-01"}),
}
MODERN_BAD = {
    "half a surrogate pair": Bad(400, PARSE_ERROR, LONE),
    "a batch": Bad(400, INVALID_REQUEST, BATCH),
    "another content type": Bad(400, headers={"Content-Type": "text/plain"}),
    "no event stream wanted": Bad(406, headers={"Accept": "application/json"}),
}


def checked(response: httpx2.Response, bad: Bad) -> None:
    assert response.status_code == bad.status, response.text
    if bad.code is not None:
        assert response.json()["error"]["code"] == bad.code
        assert response.json()["error"]["message"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize("name", LEGACY_BAD)
async def test_what_is_no_request_of_2025_11_25_gets_a_clean_answer(
    server: Server, name: str
) -> None:
    bad = LEGACY_BAD[name]
    async with opened(server) as session:
        headers = {**session.headers, "Content-Type": "application/json", **bad.headers}
        checked(await session.http.post(session.url, content=bad.content, headers=headers), bad)
        # The session is as good as before.
        async with session.post(request("ping", 1)) as stream:
            assert await anext(stream)


@pytest.mark.parametrize("name", MODERN_BAD)
async def test_what_is_no_request_of_2026_07_28_gets_a_clean_answer(
    server: Server, name: str
) -> None:
    bad = MODERN_BAD[name]
    async with http_client() as http:
        common = {"MCP-Protocol-Version": MODERN, "Content-Type": "application/json", **ACCEPT}
        url, headers = f"{server.url}/mcp", {**common, **bad.headers}
        checked(await http.post(url, content=bad.content, headers=headers), bad)
        body, headers = modern(request("tools/list"))
        assert (await http.post(url, json=body, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("query", "content", "status"),
    [
        ("", b"{}", 400),
        ("?session_id=nonsense", Bad.content, 400),
        (f"?session_id={'0' * 32}", Bad.content, 404),
    ],
)
async def test_a_message_to_no_sse_session_gets_a_clean_answer(
    server: Server, query: str, content: bytes, status: int
) -> None:
    async with http_client() as http:
        url, headers = f"{server.url}/messages/{query}", {"Content-Type": "application/json"}
        checked(await http.post(url, content=content, headers=headers), Bad(status))


async def test_what_is_no_message_of_an_sse_session_gets_a_clean_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(tmp_path) as (server, _),
        http_client() as http,
        http.stream("GET", f"{server.url}/sse") as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        where = server.url + (await anext(lines)).removeprefix("data: ")
        headers = {"Content-Type": "application/json"}
        for content in (LONE, NO_ID, BATCH):
            answer = await http.post(where, content=content, headers=headers)
            code = PARSE_ERROR if content == LONE else INVALID_REQUEST
            checked(answer, Bad(400, code))
        assert "tools/list" not in caplog.text, "what a client sent is no business of the log"
        # The session is as good as before.
        assert (await http.post(where, json=hello())).status_code == 202
        async for line in lines:
            if '"serverInfo"' in line:
                return
