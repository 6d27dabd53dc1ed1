"""Images that are brought in: one row and one file of the same content, whose they are, parents."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
from mcp import Client
from PIL import Image

from flux_mcp.errors import InvalidImageError, InvalidRequestError, UnknownImageError
from flux_mcp.gallery.store import is_image_id
from flux_mcp.gallery.uploads import LONGEST_NAME, plain_name, upload_id
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.requests.schemas import EditRequest, FillRequest, GenerateRequest, VariationRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.server.app import build_server
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.server.images import keep_image, noise

pytestmark = pytest.mark.anyio


def drawing(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    shape = (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings, executes=False)
    await service.open()
    yield service
    await service.close()


def files(service: Service) -> list[str]:
    return sorted(path.name for path in service.settings.paths.uploads.iterdir())


def rows(service: Service) -> list[dict[str, object]]:
    database = service.runtime.rooms.uploads._database
    return list(database.table("uploads").rows)


async def bring(service: Service, data: bytes, name: str | None = "a.png") -> UploadAnswer:
    return await service.intake.bring_in(data, name=name, source="import")


async def test_the_same_content_is_one_row_and_one_file_whatever_it_came_as(
    service: Service,
) -> None:
    image = drawing()
    first = await bring(service, encoded(image), "one.png")
    again = await bring(service, encoded(image, "WEBP", lossless=True), "/home/ada/two.webp")
    assert first.id == again.id
    (file,) = files(service)
    (row,) = await service.runtime.database.call(rows, service)
    assert (row["id"], row["name"], row["source"]) == (first.id, "two.webp", "import")
    stored = (service.settings.paths.uploads / file).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == file.removesuffix(".png") == row["sha256"]
    assert first.id == upload_id(file) == f"upl_{file[:32]}"
    with Image.open(io.BytesIO(stored)) as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(image))
    assert not is_image_id(first.id)


async def test_it_exists_for_who_brought_it_in_and_for_the_owner(service: Service) -> None:
    data = encoded(drawing())
    with acting_as("ada"):
        upload = await bring(service, data)
        assert (await service.gallery.find_stored(upload.id)).id == upload.id
    never = upload_id("0" * 64)
    with acting_as("bob"):
        said = []
        for image_id in (upload.id, never):
            with pytest.raises(UnknownImageError) as refused:
                await service.gallery.find_stored(image_id)
            said.append((refused.value.message.replace(image_id, "ID"), refused.value.hint))
            request = EditRequest(prompt="paint it", images=[image_id])
            with pytest.raises(UnknownImageError):
                await service.submit(request)
        assert said[0] == said[1]
        # The same content is Bob's as well once he brings it in: a row more, no file more.
        assert (await bring(service, data)).id == upload.id
        await service.gallery.find_stored(upload.id)
    assert (await service.gallery.find_stored(upload.id)).sha256 == files(service)[0][:-4]
    assert len(await service.runtime.database.call(rows, service)) == 2
    assert len(files(service)) == 1


async def test_the_newest_is_what_came_last_also_when_it_came_before(service: Service) -> None:
    uploads = service.runtime.rooms.uploads

    async def newest(principal: str | None) -> str | None:
        found = await service.runtime.database.call(uploads.newest, principal)
        return None if found is None else found.id

    assert await newest("ada") is None
    with acting_as("ada"):
        first = await bring(service, encoded(drawing(1)))
        second = await bring(service, encoded(drawing(2)))
        assert await newest("ada") == second.id
        await bring(service, encoded(drawing(1)))
    mine = await bring(service, encoded(drawing(3)))
    assert (await newest("ada"), await newest(LOCAL), await newest(None)) == (
        first.id,
        mine.id,
        mine.id,
    )


async def test_latest_is_what_was_brought_in_or_made_last(service: Service) -> None:
    async def latest(reference: str = "latest") -> tuple[str, ...]:
        return (await service.submit(EditRequest(prompt="paint it", images=[reference]))).parents

    upload = await bring(service, encoded(drawing(1, size=(64, 64))), "cat.png")
    assert await latest() == (upload.id,)
    job = await service.submit(EditRequest(prompt="paint it", images=["latest"]))
    assert any(f"latest is {upload.id} (brought in" in notice for notice in job.notices)
    made = await keep_image(service, noise(64, 64), 64, 64, session="cats")
    assert await latest() == (made.id,) == await latest("latest:cats")
    await bring(service, encoded(drawing(1, size=(64, 64))))
    assert await latest() == (upload.id,)
    assert await latest("latest:cats") == (made.id,)
    with acting_as("ada"), pytest.raises(UnknownImageError):
        await latest()


async def test_the_beginning_of_an_id_is_enough_where_one_begins_so(service: Service) -> None:
    upload = await bring(service, encoded(drawing(1)))
    request = EditRequest(prompt="paint it", images=[upload.id[:9]])
    job = await service.submit(request)
    assert job.parents == (upload.id,)
    assert any(notice.startswith(f"{upload.id[:9]} is {upload.id} (") for notice in job.notices)
    with acting_as("bob"), pytest.raises(UnknownImageError):
        await service.submit(request)
    with pytest.raises(UnknownImageError):
        await service.submit(EditRequest(prompt="paint it", images=[upload.id[:6]]))
    # Two that begin alike are too rare to be drawn: one is written.
    twin = upload_id(upload.id[4:12] + "0" * 56)

    def write() -> None:
        uploads = service.runtime.rooms.uploads
        row = uploads.find(upload.id)
        uploads.add(row.model_copy(update={"id": twin, "sha256": twin[4:] * 2}))

    await service.runtime.database.call(write)
    with pytest.raises(InvalidRequestError, match="the beginning of 2 images") as refused:
        await service.submit(request)
    assert upload.id in refused.value.hint
    assert twin in refused.value.hint


@pytest.mark.parametrize("form", ["{}", "flux://images/{}", "{}.png"])
async def test_every_tool_takes_it_and_its_id_is_the_parent(service: Service, form: str) -> None:
    upload = await bring(service, encoded(drawing(size=(64, 64))))
    reference = form.format(upload.id)
    mask = {"box": [0.2, 0.2, 0.6, 0.6]}
    for kind, arguments in (
        (EditRequest, {"prompt": "paint it", "images": [reference]}),
        (VariationRequest, {"images": [{"image": reference}]}),
        (FillRequest, {"prompt": "a door", "image": reference, "mask": mask}),
    ):
        job = await service.submit(parse_request(kind, arguments))
        assert job.parents == (upload.id,)
        assert {one.image_id for one in job.plan.inputs} - {None} == {upload.id}


async def test_a_draft_is_no_upload(service: Service) -> None:
    upload = await bring(service, encoded(drawing(size=(64, 64))))
    with pytest.raises(InvalidRequestError, match="images of the gallery"):
        await service.submit(parse_request(GenerateRequest, {"refine_from": [upload.id]}))


async def test_what_was_changed_is_said_when_it_comes_in_and_when_it_is_used(
    service: Service,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = await bring(service, encoded(drawing(size=(64, 48)), "JPEG", exif=exif))
    assert (upload.width_px, upload.height_px) == (48, 64)
    (notice,) = upload.notices
    assert "turned" in notice
    job = await service.submit(EditRequest(prompt="paint it", images=[upload.id]))
    assert notice in job.notices


async def test_transparency_is_kept_and_can_be_the_mask(service: Service) -> None:
    image = drawing(size=(64, 64)).convert("RGBA")
    image.paste((0, 0, 0, 0), (16, 16, 48, 48))
    upload = await bring(service, encoded(image))
    assert upload.notices == ()
    request = parse_request(
        FillRequest, {"prompt": "a door", "image": upload.id, "mask": {"image": "alpha"}}
    )
    job = await service.submit(request)
    assert [one.role for one in job.plan.inputs] == ["image", "mask"]
    assert not any("became white" in notice for notice in job.notices)
    job = await service.submit(EditRequest(prompt="paint it", images=[upload.id]))
    assert any("transparent parts: they became white" in notice for notice in job.notices)
    thumbnail = await service.gallery.read_thumbnail(upload.id)
    with Image.open(io.BytesIO(thumbnail)) as opened:
        assert (opened.format, opened.size, opened.mode) == ("WEBP", (64, 64), "RGB")
        assert min(opened.getpixel((32, 32))) > 250


@pytest.mark.parametrize("data", [b"", b"no image", encoded(drawing())[:200], b"\x89PNG\r\n\x1a\n"])
async def test_what_is_no_image_leaves_nothing(service: Service, data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        await bring(service, data)
    assert files(service) == await service.runtime.database.call(rows, service) == []


async def test_the_resource_serves_it_and_its_thumbnail(service: Service) -> None:
    upload = await bring(service, encoded(drawing()))
    async with Client(build_server(service)) as client:
        for uri, head in ((upload.uri, b"\x89PNG"), (f"{upload.uri}/thumbnail", b"RIFF")):
            (content,) = (await client.read_resource(uri)).contents
            assert base64.b64decode(content.blob).startswith(head)


async def test_many_at_once_are_all_there(service: Service) -> None:
    datas = [encoded(drawing(n % 5)) for n in range(20)]
    answers = await asyncio.gather(*(bring(service, data) for data in datas))
    assert len({answer.id for answer in answers}) == 5 == len(files(service))
    assert len(await service.runtime.database.call(rows, service)) == 5


def test_a_name_is_kept_as_one_short_line_without_folders() -> None:
    assert plain_name("C:\\Users\\ada\\cat.png") == "cat.png"
    assert plain_name("../../etc/x\n\x1b[31m.png") == "x [31m.png"
    assert plain_name("a" * 500) == "a" * LONGEST_NAME
    assert plain_name("/") is plain_name(None) is None
