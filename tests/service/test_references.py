"""What references stand for: ids and their beginnings, latest, the newest file, the clipboard."""

import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_mcp.errors import (
    ClipboardError,
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
    RequestError,
    UnknownImageError,
)
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.requests.schemas import EditRequest, FillRequest, GenerateRequest, VariationRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import DryRunAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.server.images import keep_image, noise, queue_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "Pictures"
    folder.mkdir()
    return folder


@pytest.fixture
async def service(settings: Settings, pictures: Path) -> AsyncIterator[Service]:
    """One that draws nothing."""
    chosen = settings.model_copy(update={"allowed_dirs": (pictures,)})
    service = Service(chosen, executes=False)
    await service.open()
    yield service
    await service.close()


class Kept:
    """Images that lie in the gallery; each is newer than the one before."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._count = 0

    async def __call__(self, **facts: Any) -> ImageRecord:
        self._count += 1
        job = {"job_id": f"job_{self._count}", **facts}
        return await keep_image(self._service, noise(64, 64, self._count), 64, 64, **job)


@pytest.fixture
def keep(service: Service) -> Kept:
    return Kept(service)


async def edited(service: Service, *images: str) -> DryRunAnswer:
    request = parse_request(EditRequest, {"prompt": "redder", "images": list(images), "seed": 1})
    return await service.dry_run(request)


def ids(answer: DryRunAnswer) -> list[str | None]:
    return [one.image_id for one in answer.plan.inputs]


def told(answer: DryRunAnswer, begins: str) -> str:
    """Return the one notice that begins so."""
    (notice,) = [one for one in answer.notices if one.startswith(begins)]
    return notice


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


# --- ids ---------------------------------------------------------------------------------------


async def test_the_beginning_of_an_id_is_enough_and_what_it_means_is_said(
    service: Service, keep: Kept
) -> None:
    image = await keep(id="img_abcdEFGH", prompt="a red\ncircle on " + "very " * 20)
    await keep(id="img_abCd")
    await keep(id="img_zzzz")
    for text in ("img_abcdE", "flux://images/img_abcd", "img_abcdEFG.png"):
        answer = await edited(service, text)
        assert ids(answer) == [image.id]
        notice = told(answer, "img_abcd")
        assert f" is img_abcdEFGH ({image.created_at[:10]} " in notice
        assert "UTC, 'a red circle on very" in notice
        assert len(notice) < 150
    whole = await edited(service, "img_abcdEFGH")
    assert ids(whole) == [image.id]
    assert not [one for one in whole.notices if one.startswith("img_")]


async def test_an_id_goes_before_those_that_begin_with_it(service: Service, keep: Kept) -> None:
    short = await keep(id="img_abcd")
    await keep(id="img_abcdE")
    assert ids(await edited(service, "img_abcd")) == [short.id]


async def test_what_several_ids_begin_with_is_answered_with_five_of_them(
    service: Service, keep: Kept
) -> None:
    for letter in "abcdef":
        await keep(id=f"img_same{letter}", prompt=f"words {letter}")
        await keep(id=f"img_pair{letter}" if letter in "ab" else f"img_{letter * 4}")
    with pytest.raises(InvalidRequestError, match="beginning of more than 5 images") as refused:
        await edited(service, "img_same")
    assert refused.value.hint.count("img_same") == 5
    assert "UTC, 'words e')" in refused.value.hint
    with pytest.raises(InvalidRequestError, match="of 2 images"):
        await edited(service, "img_pair")


@pytest.mark.parametrize("text", ["img_abc", "img_abce", "img_ABCD", "img_abc_", "img_abc-"])
async def test_other_beginnings_are_unknown(service: Service, keep: Kept, text: str) -> None:
    """Too short, of another id, in another case; `_` is no wildcard."""
    await keep(id="img_abcdEFGH")
    with pytest.raises(UnknownImageError, match=text):
        await edited(service, text)


async def test_a_beginning_finds_the_images_of_its_caller_alone(
    service: Service, keep: Kept
) -> None:
    adas = await keep(id="img_sameA", principal="ada")
    await keep(id="img_sameB", principal="bob")
    with acting_as("ada"):
        assert ids(await edited(service, "img_same")) == [adas.id]
    with acting_as("eve"), pytest.raises(UnknownImageError):
        await edited(service, "img_same")
    with pytest.raises(InvalidRequestError, match="of 2 images"):
        await edited(service, "img_same")  # whoever is local sees both


# --- latest ------------------------------------------------------------------------------------


async def test_latest_is_the_newest_image_of_the_caller(service: Service, keep: Kept) -> None:
    first = await keep(session="cats")
    mine = await keep(prompt="the newest")
    adas = await keep(principal="ada")
    for text, meant in (("latest", mine), ("Latest", mine), ("latest:cats", first)):
        answer = await edited(service, text)
        assert ids(answer) == [meant.id] == [*answer.plan.parents]
        assert f"is {meant.id} (" in told(answer, "latest")
    with acting_as("ada"):
        assert ids(await edited(service, "latest", "latest", adas.id)) == [adas.id] * 3
    for name, text in (("eve", "latest"), ("ada", "latest:cats"), (LOCAL, "latest:dogs")):
        with acting_as(name), pytest.raises(UnknownImageError, match="no image of yours"):
            await edited(service, text)
    with pytest.raises(InvalidRequestError, match="names no session"):
        await edited(service, "latest: ")


async def test_latest_serves_wherever_an_image_is_asked_for(service: Service, keep: Kept) -> None:
    image = await keep()
    for request, asked in (
        (FillRequest, {"image": "latest", "mask": "latest"}),
        (VariationRequest, {"images": "latest"}),
        (VariationRequest, {"images": ["latest", {"image": image.id, "weight": 0.5}]}),
        (GenerateRequest, {"refine_from": ["latest"]}),
    ):
        words = {} if "refine_from" in asked else {"prompt": "a"}
        answer = await service.dry_run(parse_request(request, {**words, **asked}))
        assert {one.image_id for one in answer.plan.inputs} - {None} == {image.id}
        assert told(answer, "latest")
        assert "latest" not in answer.plan.model_dump_json()
    with pytest.raises(InvalidRequestError, match="each once"):
        await service.dry_run(parse_request(GenerateRequest, {"refine_from": ["latest", image.id]}))


async def test_what_is_not_finished_is_not_the_latest_and_that_is_said(
    service: Service, keep: Kept
) -> None:
    await keep(session="cats")
    await queue_job(service, session="dogs")
    assert told(await edited(service, "latest"), "latest").endswith("is not meant.")
    assert told(await edited(service, "latest:cats"), "latest").endswith(").")


async def test_a_call_that_nobody_was_answered_about_does_not_mean_its_own_image(
    service: Service, keep: Kept
) -> None:
    """Its client made it again: the image that was the newest then is still the one it means."""
    request = parse_request(EditRequest, {"prompt": "a hat", "images": ["latest"], "seed": 1})
    original = await keep()
    job = await service.submit(request)
    own = [await keep(job_id=job.id, index=index) for index in range(2)]
    again = await service.submit(request)
    assert [again.parents, again.request["images"]] == [(original.id,), ["latest"]]
    notice = next(one for one in again.notices if one.startswith("latest is"))
    assert f"{own[1].id} is newer, and not meant" in notice
    # For every other request they are images like all others.
    assert ids(await edited(service, "latest")) == [own[1].id]
    # Once its caller has been told, the same words mean what is the newest now.
    await service.mark_id_given(job.id)
    assert (await service.submit(request)).parents == (own[1].id,)
    # What is brought in later is newer than all of them: nothing is passed over for it.
    other = parse_request(EditRequest, {"prompt": "a tie", "images": ["latest"], "seed": 1})
    unheard = await service.submit(other)
    await keep(job_id=unheard.id)
    sent = await service.intake.bring_in(PNG, name=None, source="import")
    again = await service.submit(other)
    assert again.parents == (sent.id,)
    assert not [one for one in again.notices if "not meant: this call" in one]


async def test_a_key_stands_for_its_job_whatever_is_the_latest_by_then(
    service: Service, keep: Kept
) -> None:
    asked = {"prompt": "a hat", "images": ["latest"], "idempotency_key": "one"}
    await keep()
    first = await service.submit(parse_request(EditRequest, asked))
    await keep(job_id=first.id)
    assert (await service.submit(parse_request(EditRequest, asked))).id == first.id


# --- the newest file of a folder -----------------------------------------------------------------


def drop(folder: Path, name: str, age_s: float, size: tuple[int, int] = (64, 64)) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, "red").save(path, "PNG")
    now_s = path.stat().st_mtime
    os.utime(path, (now_s - age_s, now_s - age_s))
    return path


async def test_the_newest_file_of_an_allowed_folder_is_taken_and_said(
    service: Service, pictures: Path
) -> None:
    drop(pictures, "old.png", 90_000)
    drop(pictures, "new.JPG", 9000, (80, 64))
    drop(pictures, "notes.txt", 0)
    drop(pictures, ".hidden.png", 0)
    drop(pictures, "folder/inner.png", 0)
    (pictures / "folder.png").mkdir()
    (pictures / "link.png").symlink_to(drop(pictures.parent, "outside.png", 0))
    for text in ("newest in pictures", f"Newest  in '{pictures}'", f"newest in {pictures}/"):
        answer = await edited(service, text)
        assert answer.plan.inputs[0].width == 80
        assert "'new.JPG', changed 2 hours ago." in told(answer, "newest in")
    inner = await edited(service, f"newest in {pictures / 'folder'}")
    assert "'inner.png', changed " in told(inner, "newest in")


@pytest.mark.parametrize(
    ("folder", "error", "says"),
    [
        ("{pictures}", InvalidImageError, "no image file in"),
        ("{pictures}/nothing", InvalidImageError, "No such file"),
        ("{pictures}/a.txt", InvalidImageError, "is a file"),
        ("{pictures}/..", PathNotAllowedError, "'Pictures'|Pictures"),
        ("{pictures}/out", PathNotAllowedError, "no folder that images may be read from"),
        ("downloads", PathNotAllowedError, "allowed_dirs"),
        ("../Pictures", PathNotAllowedError, "allowed_dirs"),
        ("~nobody", PathNotAllowedError, "allowed_dirs"),
        ("x" * 5000, PathNotAllowedError, "allowed_dirs"),
        ("", InvalidRequestError, "names no folder"),
    ],
)
async def test_other_folders_are_refused_with_those_that_there_are(
    service: Service, pictures: Path, folder: str, error: type[RequestError], says: str
) -> None:
    (pictures / "a.txt").write_text("a")
    (pictures / "out").symlink_to(pictures.parent)
    drop(pictures.parent, "secret.png", 0)
    with pytest.raises(error, match=says) as refused:
        await edited(service, f"newest in {folder.format(pictures=pictures)}")
    assert refused.value.hint


async def test_folders_of_one_name_are_told_apart_by_their_paths(
    settings: Settings, tmp_path: Path
) -> None:
    folders = tuple(tmp_path / one / "Shots" for one in ("a", "b"))
    for folder in folders:
        folder.mkdir(parents=True)
    drop(folders[1], "a.png", 0)
    service = Service(settings.model_copy(update={"allowed_dirs": folders}), executes=False)
    await service.open()
    with pytest.raises(InvalidRequestError, match="Several allowed folders") as refused:
        await edited(service, "newest in shots")
    assert str(folders[1]) in refused.value.hint
    assert told(await edited(service, f"newest in {folders[1]}"), "newest in")
    await service.close()


async def test_a_broken_newest_file_is_named(service: Service, pictures: Path) -> None:
    (pictures / "half.png").write_bytes(drop(pictures, "a.png", 99).read_bytes()[:60])
    with pytest.raises(InvalidImageError, match=r"newest in pictures is 'half.png'.*decoded"):
        await edited(service, "newest in pictures")


# --- who may use what ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["cat.png", "/etc/passwd", "newest in Pictures", "clipboard"])
async def test_an_error_proposes_what_its_caller_may_use(
    service: Service, pictures: Path, text: str
) -> None:
    async def hint(*, clipboard: bool, name: str = LOCAL, over_network: bool = False) -> str:
        chosen = service.settings.model_copy(update={"clipboard": clipboard})
        asking = Service(chosen, executes=False)
        await asking.open()
        try:
            with (
                acting_as(name, over_network=over_network),
                pytest.raises(RequestError) as refused,
            ):
                await edited(asking, text)
        finally:
            await asking.close()
        return str(refused.value)

    named = await hint(clipboard=True, name="ada", over_network=True)
    assert "'latest'" in named
    assert "data: URI" in named
    assert "Pictures" not in named.replace(text, "")
    assert "'clipboard'" not in named
    if text in ("cat.png", "/etc/passwd"):
        local = await hint(clipboard=True)
        assert "'latest'" in local
        assert "'newest in Pictures'" in local
        assert "'clipboard'" in local
        assert "'clipboard'" not in await hint(clipboard=False)
        assert "'clipboard'" not in await hint(clipboard=True, over_network=True)


async def test_the_clipboard_is_read_only_where_the_setting_says_so_and_never_over_http(
    service: Service,
) -> None:
    with pytest.raises(ClipboardError, match="setting 'clipboard' is off") as off:
        await edited(service, "clipboard")
    assert "FLUX_MCP_CLIPBOARD=true" in off.value.hint
    with (
        acting_as(LOCAL, over_network=True),
        pytest.raises(ClipboardError, match="user's own machine"),
    ):
        await edited(service, "clipboard")
