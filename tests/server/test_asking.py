"""`ask`: the user gives an image on a page of this machine, and the call that asked goes on."""

import asyncio
import base64
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

from flux_mcp.server import asking
from flux_mcp.server.app import FluxServer, build_server
from flux_mcp.server.on_demand import OnDemand
from flux_mcp.server.transports.ask_page import AskPage, open_page
from flux_mcp.server.transports.http import build_http_app
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.server.test_guard import ADA, Counts, listening
from tests.service.test_intake import drawing, encoded

pytestmark = pytest.mark.anyio

DATA = encoded(drawing(1, size=(64, 64)))
EDIT: dict[str, Any] = {"prompt": "paint it blue", "images": ["ask"], "wait_s": 30}
LINK = re.compile(r"http://127\.0\.0\.1:\d+/[\w-]+")
TOKEN = re.compile(r"ask:([\w-]+)")
GIVE = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], open(sys.argv[2], "rb").read())
request.add_header("content-type", "image/png")
urllib.request.urlopen(request).read()
"""


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings.model_copy(update={"ask_page": "link"}), executes=False)
    await service.open()
    yield service
    await service.close()


Here = Callable[..., FluxServer]


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    """Return a server as stdio makes it: its user sits at this machine."""
    pages: list[AskPage] = []

    def server(service: Service, **more: Any) -> FluxServer:
        async def opening(one: Service) -> AskPage:
            pages.append(await open_page(one, **more))
            return pages[-1]

        return FluxServer(OnDemand.ready(service), service.settings, open_page=opening)

    yield server
    for page in pages:
        page.close()
        await page.closed()


def words(result: CallToolResult) -> str:
    return str(result.content[0].text)


def link_of(result: CallToolResult) -> tuple[str, str]:
    """Return the address of the page and the reference to it, of a call that was refused."""
    assert result.is_error
    assert words(result).startswith("[image_wanted]")
    link, token = LINK.search(words(result)), TOKEN.search(words(result))
    assert link is not None
    assert token is not None
    assert link[0].endswith(f"/{token[1]}")
    return link[0], token[0]


async def give(url: str, data: bytes = DATA, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as browser:
        return await browser.post(
            url, files={"file": ("cat.png", data, "image/png")}, headers=headers
        )


async def until_closed(url: str) -> None:
    """Return when nothing listens at an address any more."""
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    async with asyncio.timeout(30):
        while True:
            try:
                _, writes = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it is being closed
                writes = None
            if writes is not None:
                writes.close()
            await asyncio.sleep(0.05)


async def test_the_link_is_told_the_image_is_given_and_the_same_call_uses_it(
    here: Here,
    service: Service,
) -> None:
    async with Client(here(service)) as client:
        url, reference = link_of(await client.call_tool("flux_edit", EDIT))
        assert not (await service.recent_jobs(5)), "nothing is queued"
        # The same call again, by whoever overlooked the hint, is the same page.
        assert link_of(await client.call_tool("flux_edit", EDIT)) == (url, reference)
        again = {**EDIT, "images": [reference], "wait_s": 30}
        submitted = asyncio.Event()

        async def progress(*said: object) -> None:
            if "waiting for an image" not in str(said[2]):
                submitted.set()

        waiting = asyncio.create_task(
            client.call_tool("flux_edit", again, progress_callback=progress)
        )
        answer = await give(url)
        assert answer.status_code == 201
        # It waits for the image, and then, for as long as is left, for the job.
        await asyncio.wait_for(submitted.wait(), 30)
        (job,) = await service.recent_jobs(1)
        assert job.parents == (answer.json()["id"],)
        assert job.request["images"] == [answer.json()["id"]]
        waiting.cancel()
        await until_closed(url)
        later = {**EDIT, "images": [reference], "wait_s": 0, "prompt": "paint it red"}
        result = await client.call_tool("flux_edit", later)
        assert not result.is_error, "an image that was given stays"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("flux_fill", {"prompt": "a door", "image": "ask", "mask": {"box": [0.1, 0.1, 0.5, 0.5]}}),
        ("flux_fill", {"prompt": "a door", "image": "IMAGE", "mask": {"image": "ask"}}),
        ("flux_variation", {"images": [{"image": "ask", "weight": 0.5}]}),
        ("flux_structural", {"prompt": "a house", "image": "ask"}),
        ("flux_structural", {"prompt": "a house", "control_image": "ASK"}),
        ("flux_edit", {"prompt": "paint", "images": ["IMAGE", "ask"], "dry_run": True}),
    ],
)
async def test_every_argument_that_is_an_image_can_ask(
    here: Here, service: Service, tool: str, arguments: dict[str, Any]
) -> None:
    image = f"data:image/png;base64,{base64.b64encode(DATA).decode()}"
    mask = encoded(drawing(2, "L", (64, 64)))

    def filled(value: Any, reference: str) -> Any:
        if isinstance(value, dict):
            return {key: filled(one, reference) for key, one in value.items()}
        if isinstance(value, list):
            return [filled(one, reference) for one in value]
        known = {"IMAGE": image, "ask": reference, "ASK": reference}
        return known.get(value, value) if isinstance(value, str) else value

    async with Client(here(service)) as client:
        asked = {**filled(arguments, "ask"), "wait_s": 0}
        url, reference = link_of(await client.call_tool(tool, asked))
        is_mask = arguments.get("mask") == {"image": "ask"}
        assert (await give(url, mask if is_mask else DATA)).status_code == 201
        again = {**filled(arguments, reference), "wait_s": 0}
        result = await client.call_tool(tool, again)
        assert not result.is_error, words(result)


async def test_the_page_is_for_those_who_were_given_its_address(
    here: Here, service: Service
) -> None:
    async with Client(here(service)) as client:
        url, _ = link_of(await client.call_tool("flux_edit", EDIT))
        site, token = url.rsplit("/", 1)
        async with httpx2.AsyncClient() as browser:
            page = await browser.get(url)
            assert page.status_code == 200
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            (nonce,) = set(re.findall(r"'nonce-([\w-]+)'", policy))
            assert page.text.count(f'nonce="{nonce}"') == 2
            assert 'accept="image/*"' in page.text
            for path in ("/", "/uploads", f"/{token[:-1]}", f"/{token}/x", "/healthz", "/mcp"):
                assert (await browser.get(f"{site}{path}")).status_code == 404
                assert (await browser.post(f"{site}{path}", content=b"x")).status_code == 404
            wrong = {"host": "evil.example"}
            assert (await browser.get(url, headers=wrong)).status_code == 421
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example:80"}):
            # Without a body: who is refused before it has sent that may get no answer.
            async with httpx2.AsyncClient() as browser:
                answer = await browser.post(url, headers=headers)
                assert answer.status_code in (403, 421)
        assert (await give(url, b"no image")).json()["error"]["code"] == "invalid_image"
        own = await give(url, origin=site, accept="text/html,*/*")
        assert (own.status_code, own.headers["content-type"][:9]) == (201, "text/html")
        await until_closed(url)


async def test_a_page_ends_when_its_time_is_up(here: Here, service: Service) -> None:
    async with Client(here(service, open_s=0.1)) as client:
        url, reference = link_of(await client.call_tool("flux_edit", EDIT))
        await until_closed(url)
        for one in (reference, "ask:nonsense", "ask:"):
            result = await client.call_tool("flux_edit", {**EDIT, "images": [one]})
            assert words(result).startswith("[invalid_request]")
            assert "Say 'ask' instead" in words(result)
        other, _ = link_of(await client.call_tool("flux_edit", EDIT))
        assert other != url


async def test_one_image_a_call_and_only_so_many_pages(
    here: Here, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MOST_PAGES", 2)
    async with Client(here(service)) as client:
        two = await client.call_tool("flux_edit", {**EDIT, "images": ["ask", "ask"]})
        assert "asks the user for one image" in words(two)
        urls = [
            link_of(await client.call_tool("flux_edit", {**EDIT, "seed": seed}))[0]
            for seed in range(3)
        ]
        assert len(set(urls)) == 3
        await until_closed(urls[0])
        assert (await give(urls[1])).status_code == (await give(urls[2])).status_code == 201


async def test_a_call_that_waits_is_answered_when_the_server_ends(
    here: Here, service: Service
) -> None:
    server = here(service)
    async with Client(server) as client:
        url, reference = link_of(await client.call_tool("flux_edit", EDIT))
        told: list[str | None] = []
        arrived = asyncio.Event()

        async def progress(_: float, __: float | None, message: str | None) -> None:
            told.append(message)
            arrived.set()

        waiting = asyncio.create_task(
            client.call_tool(
                "flux_edit",
                {**EDIT, "images": [reference], "wait_s": 200},
                progress_callback=progress,
            )
        )
        await asyncio.wait_for(arrived.wait(), 30)
        assert url in str(told[0])
        await server.finish_calls(5)
        result = await asyncio.wait_for(waiting, 30)
        assert "The page has ended without an image" in words(result)


async def test_where_the_user_cannot_be_asked_it_is_said(
    here: Here, service: Service, settings: Settings
) -> None:
    # Off, which is the default.
    off = Service(settings.model_copy(update={"data_dir": settings.data_dir / "off"}))
    async with Client(FluxServer(OnDemand.ready(off), off.settings, open_page=open_page)) as client:
        result = await client.call_tool("flux_edit", EDIT)
        assert words(result).startswith("[invalid_request]")
        assert "FLUX_MCP_ASK_PAGE=link" in words(result)
    await off.close()
    # Over HTTP, whoever it is.
    settings = service.settings
    settings.paths.tokens.write_text(f"ada {ADA}\n{'o' * 24}\n", encoding="ascii")
    settings.paths.tokens.chmod(0o600)
    counts = Counts()
    app = build_http_app(service, here(service), counts)
    async for server in listening(app, counts):
        for token in (ADA, "o" * 24):
            headers = {"authorization": f"Bearer {token}"}
            async with (
                httpx2.AsyncClient(headers=headers) as http,
                Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client,
            ):
                result = await client.call_tool("flux_edit", EDIT)
                assert words(result).startswith("[invalid_request]")
                assert LINK.search(words(result)) is None
    # A server whose transport opens no pages.
    async with Client(build_server(service)) as client:
        result = await client.call_tool("flux_edit", EDIT)
        assert words(result).startswith("[invalid_request]")


async def test_a_real_server_opens_the_page_in_the_browser_and_waits(
    tmp_path: Path, weights_dir: Path
) -> None:
    """The browser is a script that gives an image, as the variable BROWSER names it."""
    (tmp_path / "cat.png").write_bytes(DATA)
    (tmp_path / "give.py").write_text(GIVE)
    browser = [sys.executable, str(tmp_path / "give.py"), "%s", str(tmp_path / "cat.png")]
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "flux_mcp", "serve"],
        env={
            "FLUX_MCP_DATA_DIR": str(tmp_path / "data"),
            "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
            "FLUX_MCP_ASK_PAGE": "open",
            "FLUX_MCP_CONFIG": "/dev/null",
            "BROWSER": shlex.join(browser),
            "PYTHONPATH": ":".join(sys.path),
        },
    )
    async with Client(stdio_client(parameters)) as client:
        result = await client.call_tool("flux_edit", {**EDIT, "dry_run": True})
        assert not result.is_error, words(result)
        (one,) = result.structured_content["plan"]["inputs"]
        assert one["image_id"].startswith("upl_")
