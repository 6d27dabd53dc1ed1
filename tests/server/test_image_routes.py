"""Images over HTTP, by a real server and client: uploads, ranges, caches, whose they are."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent
from PIL import Image
from starlette.requests import HTTPConnection

from flux_mcp.server.app import build_server
from flux_mcp.server.links import base_url, link_to
from flux_mcp.server.transports.http import build_http_app
from flux_mcp.service.service import Service
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings
from tests.server.images import complete_job, keep_image, noise
from tests.server.test_guard import ADA, BOB, Counts, listening
from tests.service.test_intake import drawing, encoded

pytestmark = pytest.mark.anyio

MAX_BYTES = 60_000
HOST = b"localhost:8421"
OWNER = "o" * 24
TOKENS = {"ada": ADA, "bob": BOB, "owner": OWNER}


@dataclass
class Site:
    """A listening server with clients of three tokens, and its service."""

    url: str
    port: int
    service: Service
    clients: dict[str, httpx2.AsyncClient]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.service.settings.paths.uploads.iterdir())

    async def rows(self) -> int:
        def count() -> int:
            database = self.service.runtime.rooms.uploads._database
            return int(database.table("uploads").count)

        return await self.service.runtime.database.call(count)

    async def upload(self, who: str, data: bytes, kind: str = "image/png") -> httpx2.Response:
        return await self.clients[who].post(
            "/uploads", content=data, headers={"content-type": kind}
        )


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    data = tmp_path_factory.mktemp("site") / "data"
    settings = Settings(
        data_dir=data,
        weights_dir=PACKAGE_DIR / "weights",
        transport="http",
        max_image_bytes=MAX_BYTES,
        max_body_bytes=MAX_BYTES * 4,
        body_timeout_s=2,
    )
    data.mkdir()
    settings.paths.tokens.write_text(f"ada {ADA}\nbob {BOB}\n{OWNER}\n", encoding="ascii")
    settings.paths.tokens.chmod(0o600)
    service = Service(settings, executes=False)
    await service.open()
    counts = Counts()
    async for server in listening(build_http_app(service, build_server(service), counts), counts):
        clients = {
            name: httpx2.AsyncClient(
                base_url=server.url, headers={"authorization": f"Bearer {token}"}
            )
            for name, token in TOKENS.items()
        }
        yield Site(server.url, server.port, service, clients)
        for client in clients.values():
            await client.aclose()
    await service.close()


def code_of(answer: httpx2.Response) -> str:
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["message"]
    return str(error["code"])


# --- in ----------------------------------------------------------------------------------------


async def test_an_image_goes_in_and_comes_back(site: Site) -> None:
    image = drawing(1)
    answer = await site.upload("ada", encoded(image, "WEBP", lossless=True), "image/webp")
    assert answer.status_code == 201
    told = answer.json()
    url = f"{site.url}/images/{told['id']}.png"
    assert told == {
        "id": told["id"],
        "uri": f"flux://images/{told['id']}",
        "width_px": 64,
        "height_px": 48,
        "notices": [],
        "url": url,
    }
    assert answer.headers["location"] == url
    assert answer.headers["cache-control"] == "no-store"
    got = await site.clients["ada"].get(told["url"])
    assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(got.content)) as opened:
        assert opened.convert("RGB").tobytes() == image.tobytes()


async def test_a_form_with_one_file_is_the_same(site: Site) -> None:
    data = encoded(drawing(2))
    raw, form = (
        await site.upload("ada", data),
        await site.clients["ada"].post(
            "/uploads", files={"file": ("cat.png", data, "image/png")}, data={"note": "hello"}
        ),
    )
    assert (raw.status_code, form.status_code) == (201, 201)
    assert raw.json() == form.json()
    assert raw.json()["id"].removeprefix("upl_") in "".join(site.files())

    def named() -> str | None:
        return site.service.runtime.rooms.uploads.find(raw.json()["id"]).name

    assert await site.service.runtime.database.call(named) == "cat.png"


async def test_the_same_file_of_two_principals_is_one_file(site: Site) -> None:
    data = encoded(drawing(3))
    before, rows = len(site.files()), await site.rows()
    answers = [await site.upload(who, data) for who in ("ada", "bob", "ada", "bob")]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (len(site.files()), await site.rows()) == (before + 1, rows + 2)


BIG = b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES)
FORM = "multipart/form-data; boundary=x"
TWO_FILES = b"".join(
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nabc\r\n'
    for _ in range(2)
)
REFUSED: dict[str, tuple[bytes, str, int, str]] = {
    "nothing": (b"", "image/png", 400, "invalid_image"),
    "text": (b"hello, I am an image", "image/png", 400, "invalid_image"),
    "half an image": (encoded(drawing())[:300], "image/png", 400, "invalid_image"),
    "too many pixels": (encoded(Image.new("1", (9000, 9000))), "image/png", 400, "invalid_image"),
    "too many bytes": (BIG, "image/png", 413, "too_large"),
    "a page": (b"<html>", "text/html", 415, "unsupported_media_type"),
    "JSON": (b"{}", "application/json", 415, "unsupported_media_type"),
    "a form of words": (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    "no type": (b"abc", "", 415, "unsupported_media_type"),
    "a form without a boundary": (b"", "multipart/form-data", 400, "invalid_request"),
    "a broken form": (b"hello", FORM, 400, "invalid_request"),
    "an empty form": (b"--x--\r\n", FORM, 400, "invalid_request"),
    "a form with a word": (
        b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\nabc\r\n--x--\r\n',
        FORM,
        400,
        "invalid_request",
    ),
    "a form with two files": (TWO_FILES + b"--x--\r\n", FORM, 400, "invalid_request"),
    "a form with a big file": (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
        + BIG
        + b"\r\n--x--\r\n",
        FORM,
        413,
        "too_large",
    ),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name.replace(" ", "-"))
async def test_what_is_refused_is_said_and_leaves_nothing(
    site: Site, name: str, *, chunked: bool
) -> None:
    data, kind, status, code = REFUSED[name]
    before, rows = site.files(), await site.rows()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 10_000):
            yield data[start : start + 10_000]

    headers = {"content-type": kind} if kind else {}
    answer = await site.clients["ada"].post(
        "/uploads", content=pieces() if chunked else data, headers=headers
    )
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert (site.files(), await site.rows()) == (before, rows)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthorized"),
        ({"authorization": f"Bearer {'x' * 24}"}, 401, "unauthorized"),
        (
            {"authorization": f"Bearer {ADA}", "origin": "https://evil.example"},
            403,
            "origin_refused",
        ),
        ({"authorization": f"Bearer {ADA}", "host": "evil.example"}, 421, "host_refused"),
    ],
)
async def test_the_guard_is_in_front(
    site: Site, headers: dict[str, str], status: int, code: str
) -> None:
    upload = await site.upload("ada", encoded(drawing(4)))
    async with httpx2.AsyncClient(base_url=site.url, headers=headers) as stranger:
        before = site.files()
        for answer in (
            # Without a body: who is refused before it has sent that may get no answer.
            await stranger.post("/uploads", headers={"content-type": "image/png"}),
            await stranger.get(f"/images/{upload.json()['id']}.png"),
            await stranger.get(f"/images/{upload.json()['id']}/thumbnail"),
        ):
            assert (answer.status_code, code_of(answer)) == (status, code)
        assert site.files() == before


@pytest.mark.parametrize("kind", ["image/png", FORM])
async def test_a_slow_or_broken_body_leaves_no_file(site: Site, kind: str) -> None:
    before, rows = site.files(), await site.rows()
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
    start = (head if kind == FORM else b"") + encoded(drawing(5))[:500]
    lines = (
        f"POST /uploads HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADA}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 20000\r\n\r\n"
    )
    reads, writes = await asyncio.open_connection("127.0.0.1", site.port)
    writes.write(lines.encode() + start)
    answer = await asyncio.wait_for(reads.read(), 30)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"request_timeout" in answer
    writes.close()
    _, gone = await asyncio.open_connection("127.0.0.1", site.port)
    gone.write(lines.encode() + start)
    await gone.drain()
    gone.close()
    # The next caller is answered, and nothing of it is left.
    assert (await site.upload("ada", b"x")).status_code == 400
    assert (site.files(), await site.rows()) == (before, rows)


# --- out ---------------------------------------------------------------------------------------


async def test_ranges_tags_and_heads(site: Site) -> None:
    told = (await site.upload("ada", encoded(drawing(6)))).json()
    client, url = site.clients["ada"], told["url"]
    whole = await client.get(url)
    tag = f'"{hashlib.sha256(whole.content).hexdigest()}"'
    assert whole.headers["etag"] == tag
    assert whole.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-security-policy"].startswith("default-src 'none'")
    assert whole.headers["content-disposition"] == f'inline; filename="{told["id"]}.png"'
    head = await client.head(url)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    assert head.headers["content-length"] == str(len(whole.content))
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await client.get(url, headers={"if-none-match": given})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await client.get(url, headers={"if-none-match": '"other"'})).status_code == 200
    part = await client.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    rest = await client.get(url, headers={"range": "bytes=-5", "if-range": tag})
    assert (rest.status_code, rest.content) == (206, whole.content[-5:])
    changed = await client.get(url, headers={"range": "bytes=0-4", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = await client.get(url, headers={"range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416


async def test_a_gallery_image_and_its_thumbnail_are_served(site: Site) -> None:
    record = await keep_image(site.service, noise(64, 64), 64, 64)
    client = site.clients["owner"]
    image = await client.get(f"/images/{record.id}.png")
    assert hashlib.sha256(image.content).hexdigest() == record.sha256
    assert image.headers["etag"] == f'"{record.sha256}"'
    thumbnail = await client.get(f"/images/{record.id}/thumbnail")
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/webp")
    tag = thumbnail.headers["etag"]
    assert tag == f'"{hashlib.sha256(thumbnail.content).hexdigest()}"'
    again = await client.get(f"/images/{record.id}/thumbnail", headers={"if-none-match": tag})
    assert again.status_code == 304


async def test_images_of_others_are_as_if_they_were_not(site: Site) -> None:
    mine = (await site.upload("ada", encoded(drawing(7)))).json()["id"]
    record = await keep_image(site.service, noise(64, 64), 64, 64, job_id="job_of_owner")
    never = (f"upl_{'0' * 32}", "img_never", "nonsense")
    for path in ("/images/{}.png", "/images/{}/thumbnail"):
        said = set()
        for image_id in (mine, record.id, *never):
            answer = await site.clients["bob"].get(path.format(image_id))
            assert answer.status_code == 404
            said.add(answer.text.replace(image_id, "ID"))
        assert len(said) == 1
        assert (await site.clients["owner"].get(path.format(mine))).status_code == 200
    resource = await site.clients["bob"].get("/images/%2e%2e%2fgallery.sqlite.png")
    assert resource.status_code == 404


async def test_a_file_that_is_gone_is_said_without_its_path(site: Site) -> None:
    told = (await site.upload("ada", encoded(drawing(8)))).json()
    name = next(one for one in site.files() if one.startswith(told["id"].removeprefix("upl_")))
    (site.service.settings.paths.uploads / name).unlink()
    for path in (f"/images/{told['id']}.png", f"/images/{told['id']}/thumbnail"):
        answer = await site.clients["ada"].get(path)
        assert (answer.status_code, code_of(answer)) == (500, "storage")
        assert str(site.service.settings.data_dir) not in answer.text


# --- with the tools ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_upload_is_used_by_who_uploaded_it(site: Site, mode: str) -> None:
    upload = (await site.upload("ada", encoded(drawing(9, size=(64, 64))))).json()
    asked = {"prompt": "paint it blue", "images": [upload["uri"]], "wait_s": 0}
    for who, is_refused in (("ada", False), ("bob", True)):
        async with Client(
            streamable_http_client(f"{site.url}/mcp", http_client=site.clients[who]), mode=mode
        ) as client:
            result = await client.call_tool("flux_edit", asked)
            assert isinstance(result.content[0], TextContent)
            assert result.is_error == is_refused
            assert ("[unknown_image]" in result.content[0].text) == is_refused
            if not is_refused:
                (content,) = (await client.read_resource(upload["uri"])).contents
                assert base64.b64decode(content.blob).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("scheme", "public_url", "base"),
    [
        ("http", None, "http://localhost:8421"),
        ("https", None, "https://localhost:8421"),
        ("http", "https://studio.example.org/flux/", "https://studio.example.org/flux"),
    ],
)
def test_links_begin_with_what_the_caller_used_or_with_the_setting(
    site: Site, scheme: str, public_url: str | None, base: str
) -> None:
    changed = Settings(data_dir=site.service.settings.data_dir, public_url=public_url)
    scope = {"type": "http", "scheme": scheme, "path": "/", "headers": [(b"host", HOST)]}
    request = HTTPConnection(scope)
    assert base_url(request, changed.public_url) == base
    assert link_to(base, "img_x") == f"{base}/images/img_x.png"


REFERENCES = ("/etc/passwd", "img_nowhere", "https://example.org/a.png", "garbage", "ask")


@pytest.mark.parametrize("reference", REFERENCES)
async def test_who_cannot_name_a_file_is_told_to_upload_it(site: Site, reference: str) -> None:
    """Over HTTP nobody is told a command of this machine, the owner neither."""
    for who in ("ada", "owner"):
        async with Client(
            streamable_http_client(f"{site.url}/mcp", http_client=site.clients[who])
        ) as client:
            asked = {"prompt": "paint it blue", "images": [reference], "wait_s": 0}
            result = await client.call_tool("flux_edit", asked)
            assert result.is_error
            assert "POST /uploads" in result.content[0].text
            assert "flux-mcp" not in result.content[0].text


async def test_results_over_http_have_a_link_that_works_and_others_none(site: Site) -> None:
    done = await complete_job(site.service, [(noise(64, 64), 64, 64)])
    asked = {"job_id": done.id}
    (record,) = (await site.service.describe_job(done)).images
    url = f"{site.url}/images/{record.id}.png"
    async with Client(
        streamable_http_client(f"{site.url}/mcp", http_client=site.clients["owner"])
    ) as client:
        result = await client.call_tool("flux_get_job", asked)
    assert result.structured_content["images"][0]["url"] == url
    assert result.structured_content["images"][0]["uri"] == f"flux://images/{record.id}"
    assert url in result.content[0].text
    got = await site.clients["owner"].get(url)
    assert hashlib.sha256(got.content).hexdigest() == record.sha256
    async with Client(build_server(site.service)) as client:
        result = await client.call_tool("flux_get_job", asked)
    assert "url" not in result.structured_content["images"][0]
    assert "http" not in result.content[0].text
