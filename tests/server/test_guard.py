"""Every route, every kind of bad caller: refused before anything behind the guard sees them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from flux_mcp.errors import (
    BodiesFullError,
    BodyTimeoutError,
    HostRefusedError,
    OriginRefusedError,
    RateLimitedError,
    TooManyOpenError,
    UnauthorizedError,
)
from flux_mcp.server.app import build_server
from flux_mcp.server.transports.bodies import Bodies
from flux_mcp.server.transports.guard import HEADERS, Guard, admission
from flux_mcp.server.transports.http import build_http_app
from flux_mcp.server.transports.shares import Shares
from flux_mcp.server.transports.tokens import Tokens
from flux_mcp.service.service import Service
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings

pytestmark = pytest.mark.anyio

ADA, BOB = "a" * 24, "b" * 24
BODY = 1000
"""Bytes of the bodies of one caller, over the small application."""
METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT")
UNKNOWN = (
    "/",
    "/nothing",
    "/mcp/",
    "/%2e%2e/mcp",
    "//mcp",
    "/.well-known/oauth-protected-resource",
)

Headers = list[tuple[str, str]]


@dataclass
class Counts:
    """What the guard says it saw."""

    open: int = 0
    refusals: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def opened(self) -> None:
        self.open += 1
        self.changed.set()

    def closed(self) -> None:
        self.open -= 1
        self.changed.set()

    async def until_open(self, number: int) -> None:
        async with asyncio.timeout(30):
            while self.open != number:
                self.changed.clear()
                await self.changed.wait()

    def refused(self, code: str) -> None:
        self.refusals.append(code)


@dataclass
class Server:
    """A listening server, and what its guard has counted."""

    port: int
    app: Guard
    counts: Counts

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        *,
        length: int | None = None,
        chunked: bool = False,
    ) -> "Answer":
        """Send a request as it is written here: header by header, twice if so."""
        reads, writes = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if chunked:
            lines += ["Transfer-Encoding: chunked", "Connection: close"]
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            lines += [f"Content-Length: {length or len(body)}", "Connection: close"]
        writes.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        raw = await asyncio.wait_for(reads.read(), 30)
        writes.close()
        await writes.wait_closed()
        head, _, content = raw.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in rest]
        found = {name.lower(): value for name, value in pairs}
        return Answer(int(first.split()[1]), found, content)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def listening(app: Guard, counts: Counts) -> AsyncIterator[Server]:
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    yield Server(server.servers[0].sockets[0].getsockname()[1], app, counts)
    server.should_exit = True
    await serving


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The product's own application: streamable HTTP and SSE, tokens of two people."""
    data = tmp_path_factory.mktemp("guard") / "data"
    settings = Settings(
        data_dir=data, weights_dir=PACKAGE_DIR / "weights", transport="http", sse=True
    )
    data.mkdir()
    settings.paths.tokens.write_text(f"ada {ADA}\nbob {BOB}\n", encoding="ascii")
    settings.paths.tokens.chmod(0o600)
    service = Service(settings, executes=False)
    counts = Counts()
    async for running in listening(build_http_app(service, build_server(service), counts), counts):
        yield running
    await service.close()


def routes_of(app: ASGIApp) -> list[str]:
    """Return every path the application behind the guard answers, as it was built."""
    assert isinstance(app, Guard)
    assert isinstance(app._app, Starlette)
    return [route.path for route in app._app.routes if isinstance(route, Route | Mount)]


LOCALHOST = ("Host", "localhost")
TOKEN = ("Authorization", f"Bearer {ADA}")
CALLERS: dict[str, tuple[Headers, int, str]] = {
    "a name of somewhere else": (
        [("Host", "evil.example"), TOKEN],
        421,
        HostRefusedError.code,
    ),
    "a name that only looks like ours": (
        [("Host", "localhost.evil.example:8421"), TOKEN],
        421,
        HostRefusedError.code,
    ),
    "an empty name": ([("Host", ""), TOKEN], 421, HostRefusedError.code),
    "another address": ([("Host", "[fe80::1]:8421"), TOKEN], 421, HostRefusedError.code),
    "a page of somewhere else": (
        [LOCALHOST, TOKEN, ("Origin", "https://evil.example")],
        403,
        OriginRefusedError.code,
    ),
    "a page without an origin": (
        [LOCALHOST, TOKEN, ("Origin", "null")],
        403,
        OriginRefusedError.code,
    ),
    "two origins": (
        [LOCALHOST, TOKEN, ("Origin", "http://localhost"), ("Origin", "https://evil.example")],
        403,
        OriginRefusedError.code,
    ),
    "no token": ([LOCALHOST], 401, UnauthorizedError.code),
    "a wrong token": (
        [LOCALHOST, ("Authorization", f"Bearer {'x' * 24}")],
        401,
        UnauthorizedError.code,
    ),
    "half a token": (
        [LOCALHOST, ("Authorization", f"Bearer {ADA[:12]}")],
        401,
        UnauthorizedError.code,
    ),
    "a password": ([LOCALHOST, ("Authorization", f"Basic {ADA}")], 401, UnauthorizedError.code),
    "two tokens": (
        [LOCALHOST, ("Authorization", f"Bearer {BOB}"), TOKEN],
        401,
        UnauthorizedError.code,
    ),
    "a token in the address": (
        [LOCALHOST, ("X-Token", ADA), ("Cookie", f"token={ADA}")],
        401,
        UnauthorizedError.code,
    ),
}


EVERYWHERE = ("a name of somewhere else", "a page of somewhere else", "no token")
"""One caller for each reason to refuse; the guard decides by headers alone, before any route."""


@pytest.mark.parametrize("caller", CALLERS, ids=lambda name: name.replace(" ", "-"))
async def test_every_route_refuses_every_bad_caller(server: Server, caller: str) -> None:
    headers, status, code = CALLERS[caller]
    known = routes_of(server.app)
    assert {"/mcp", "/sse", "/messages"} <= set(known)
    before = len(server.counts.refusals)
    asked = 0
    is_everywhere = caller in EVERYWHERE
    for path in [*known, *UNKNOWN] if is_everywhere else ["/mcp"]:
        for method in METHODS if is_everywhere else ["POST"]:
            body = b"{}" if method == "POST" else b""
            answer = await server.ask(method, f"{path}?token={ADA}", headers, body)
            where = f"{method} {path}"
            assert answer.status == status, where
            if method != "HEAD":
                assert answer.code == code, where
            for name, value in HEADERS:
                assert answer.headers[name.decode()] == value.decode(), where
            assert "access-control-allow-origin" not in answer.headers, where
            assert ("www-authenticate" in answer.headers) == (status == 401), where
            assert ADA.encode() not in answer.body, where
            asked += 1
    assert server.counts.refusals[before:] == [code] * asked
    assert server.counts.open == 0


async def test_a_good_caller_is_let_in_everywhere(server: Server) -> None:
    for path in [*routes_of(server.app), *UNKNOWN]:
        if path == "/sse":
            continue  # a stream without an end
        answer = await server.ask("PUT", path, [LOCALHOST, TOKEN])
        assert answer.status in (400, 404, 405, 307), path
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode(), path


async def test_a_page_of_this_machine_may_call(server: Server) -> None:
    headers = [LOCALHOST, TOKEN, ("Origin", f"http://localhost:{server.port}")]
    answer = await server.ask("GET", "/nothing", headers)
    assert answer.status == 404


async def test_a_request_without_a_name_is_no_http(server: Server) -> None:
    assert (await server.ask("GET", "/mcp", [TOKEN])).status in (400, 421)
    twice = [("Host", "localhost"), ("Host", "localhost"), TOKEN]
    assert (await server.ask("GET", "/mcp", twice)).status in (400, 421)


async def test_a_session_is_worth_nothing_to_another_caller(server: Server) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    accept = ("Accept", "application/json, text/event-stream")
    content = ("Content-Type", "application/json")
    opening = await server.ask(
        "POST", "/mcp", [LOCALHOST, TOKEN, accept, content], json.dumps(hello).encode()
    )
    assert opening.status == 200
    session = ("Mcp-Session-Id", opening.headers["mcp-session-id"])
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    stolen = [LOCALHOST, ("Authorization", f"Bearer {BOB}"), accept, content, session]
    assert (await server.ask("POST", "/mcp", stolen, ping)).status == 404
    assert (await server.ask("DELETE", "/mcp", stolen)).status == 404
    mine = [LOCALHOST, TOKEN, accept, content, session]
    assert (await server.ask("POST", "/mcp", mine, ping)).status == 200


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_jobs_are_the_callers_own(server: Server, mode: str) -> None:
    asked = {"prompt": "a red circle", "width": 64, "height": 64, "wait_s": 0}
    ids = {}
    for name, token in (("ada", ADA), ("bob", BOB)):
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as mcp,
        ):
            ids[name] = (await mcp.call_tool("flux_generate", asked)).structured_content["job_id"]
            own = await mcp.call_tool("flux_get_job", {"job_id": ids[name], "wait_s": 0})
            assert own.structured_content["status"] == "queued"
            for other in set(ids.values()) - {ids[name]}:
                for tool in ("flux_get_job", "flux_cancel_job"):
                    refused = await mcp.call_tool(tool, {"job_id": other})
                    assert refused.is_error
                    assert "[unknown_job]" in refused.content[0].text


# --- limits: over an application that answers when it is told to -------------------------------


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[tuple[Server, asyncio.Event]]:
    """Two open requests and sixty in a minute for each caller."""
    release = asyncio.Event()

    async def wait(_: Request) -> Response:
        await release.wait()
        return PlainTextResponse("done", headers={"Cache-Control": "max-age=5"})

    async def fail(_: Request) -> Response:
        raise ZeroDivisionError

    async def read(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def read_and_wait(request: Request) -> Response:
        await request.body()
        return await wait(request)

    routes = [Route("/wait", wait), Route("/fail", fail)]
    routes += [
        Route("/read", read, methods=["POST"]),
        Route("/read-and-wait", read_and_wait, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    judge = admission(Settings(data_dir=tmp_path), Tokens({ADA: "ada", BOB: "bob"}))
    counts = Counts()
    open_requests, bodies = Shares(100, 2, 2), Bodies(Shares(2 * BODY, BODY), BODY, 60.0, 0.2)
    guard = Guard(app, judge, 1.0, open_requests, bodies, counts)
    async for running in listening(guard, counts):
        yield running, release


async def test_each_caller_has_so_many_open_and_room_again(
    small: tuple[Server, asyncio.Event],
) -> None:
    server, release = small
    as_ada, as_bob = [LOCALHOST, TOKEN], [LOCALHOST, ("Authorization", f"Bearer {BOB}")]
    waiting = [asyncio.create_task(server.ask("GET", "/wait", as_ada)) for _ in range(2)]
    await server.counts.until_open(2)
    refused = await server.ask("GET", "/nothing", as_ada)
    assert (refused.status, refused.code) == (429, TooManyOpenError.code)
    assert refused.headers["retry-after"] == "1"
    assert (await server.ask("GET", "/nothing", as_bob)).status == 404
    release.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert server.counts.open == 0
    assert (await server.ask("GET", "/nothing", as_ada)).status == 404


async def test_a_caller_that_vanishes_makes_room(small: tuple[Server, asyncio.Event]) -> None:
    server, release = small
    request = f"GET /wait HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADA}\r\n\r\n"
    streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
    for _, writes in streams:
        writes.write(request.encode())
    await server.counts.until_open(2)
    for _, writes in streams:
        writes.close()
    release.set()
    await server.counts.until_open(0)
    assert (await server.ask("GET", "/x", [LOCALHOST, TOKEN])).status == 404


async def test_a_failing_route_makes_room(small: tuple[Server, asyncio.Event]) -> None:
    server, _ = small
    for _ in range(3):
        assert (await server.ask("GET", "/fail", [LOCALHOST, TOKEN])).status == 500
    assert server.counts.open == 0


async def test_each_caller_may_ask_so_often(small: tuple[Server, asyncio.Event]) -> None:
    server, _ = small
    statuses = [(await server.ask("GET", "/x", [LOCALHOST, TOKEN])).status for _ in range(60)]
    assert statuses == [404] * 60
    refused = await server.ask("GET", "/x", [LOCALHOST, TOKEN])
    assert (refused.status, refused.code) == (429, RateLimitedError.code)
    bob = await server.ask("GET", "/x", [LOCALHOST, ("Authorization", f"Bearer {BOB}")])
    assert bob.status == 404


async def test_a_body_that_stops_in_its_middle_is_refused(
    small: tuple[Server, asyncio.Event],
) -> None:
    server, _ = small
    stopped = await server.ask("POST", "/read", [LOCALHOST, TOKEN], b"half", length=8)
    assert (stopped.status, stopped.code) == (408, BodyTimeoutError.code)
    assert stopped.headers["connection"] == "close"
    assert server.counts.open == 0
    assert (await server.ask("POST", "/read", [LOCALHOST, TOKEN], b"all")).body == b"3"


@pytest.mark.parametrize("says", ["its length", "nothing"])
async def test_bodies_of_a_caller_that_would_hold_too_much_are_refused(
    small: tuple[Server, asyncio.Event], says: str
) -> None:
    server, release = small
    as_ada, as_bob = [LOCALHOST, TOKEN], [LOCALHOST, ("Authorization", f"Bearer {BOB}")]
    first = asyncio.create_task(
        server.ask("POST", "/read-and-wait", as_ada, b"x" * (BODY * 3 // 4))
    )
    await server.counts.until_open(1)
    # Nothing else of hers is read meanwhile: the length that was said is set aside at once.
    body = b"x" * (BODY // 2)
    chunked = says == "nothing"
    refused = await server.ask("POST", "/read", as_ada, body, chunked=chunked)
    assert (refused.status, refused.code) == (503, BodiesFullError.code)
    assert refused.headers["retry-after"] == "5"
    assert (await server.ask("POST", "/read", as_bob, body, chunked=chunked)).status == 200
    release.set()
    assert (await first).status == 200
    assert (await server.ask("POST", "/read", as_ada, body, chunked=chunked)).status == 200


async def test_guessing_tokens_is_slowed_down_and_shuts_nobody_out(
    small: tuple[Server, asyncio.Event],
) -> None:
    server, _ = small
    guess = [LOCALHOST, ("Authorization", f"Bearer {'x' * 24}")]
    statuses = [(await server.ask("GET", "/x", guess)).status for _ in range(61)]
    assert statuses == [401] * 60 + [429]
    assert (await server.ask("GET", "/x", [LOCALHOST, TOKEN])).status == 404


async def test_what_a_route_says_of_itself_stands(small: tuple[Server, asyncio.Event]) -> None:
    server, release = small
    release.set()
    answer = await server.ask("GET", "/wait", [LOCALHOST, TOKEN])
    assert answer.headers["cache-control"] == "max-age=5"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_websocket_is_not_opened(server: Server) -> None:
    upgrade = [
        LOCALHOST,
        TOKEN,
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    answer = await server.ask("GET", "/nothing", upgrade)
    assert re.fullmatch(r"4\d\d", str(answer.status))
