"""References as anybody may send them: an image the caller may see, or a deliberate refusal.

Nothing outside the allowed folders is read, though folders become links meanwhile, and nothing is
left behind.
"""

import asyncio
import base64
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import RequestError
from flux_mcp.images.decoding import load_image
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    FillRequest,
    GenerateRequest,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import DryRunAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.server.images import keep_image, noise

SECRET_SHARE = 13 / 64
"""Of the secret image that is white: no other mask has it."""
ROLES_OF_IMAGES = {"image", "reference", "control"}
CAN_MAKE_PIPES = hasattr(os, "mkfifo")


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _sha256(png: bytes) -> str:
    return load_image(png, max_bytes=len(png), max_pixels=10**6, mode="RGB").sha256


class World:
    """A service that draws nothing, files inside and outside its folder, images of two callers."""

    def __init__(self, root: Path, weights_dir: Path) -> None:
        self.root, self.inside, self.outside = root, root / "Pictures", root / "outside"
        for folder in (self.inside / "sub", self.inside / "turning", self.outside / "deep"):
            folder.mkdir(parents=True)
        sent = _png("red")
        for name in ("a.png", "b c.png", "ü.png", "sub/c.png", "turning/secret.png"):
            (self.inside / name).write_bytes(sent)
        secret = Image.new("RGB", (64, 64), "black")
        secret.paste("white", (0, 0, 64, 13))
        for path in (self.outside / "secret.png", self.outside / "deep" / "secret.png"):
            secret.save(path)
        for name, target in (
            *(("inlink.png", "a.png"), ("outlink.png", "../outside/secret.png")),
            *(("outdir", "../outside"), ("zero.png", "/dev/zero"), ("loop.png", "loop.png")),
        ):
            (self.inside / name).symlink_to(target)
        (self.inside / "folder.png").mkdir()
        (self.inside / "broken.png").write_bytes(sent[:70])
        if CAN_MAKE_PIPES:
            os.mkfifo(self.inside / "pipe.png")
        self.runner = asyncio.Runner()
        self.service = Service(
            Settings(
                data_dir=root / "data",
                weights_dir=weights_dir,
                allowed_dirs=(self.inside,),
                max_image_pixels=20_000,
            ),
            executes=False,
        )
        mine, adas = self.runner.run(self._keep())
        green, blue = _png("green"), _png("blue")
        common = {_sha256(sent), _sha256(adas), _sha256(green)}
        self.may_see = {LOCAL: common | {_sha256(mine), _sha256(blue)}, "ada": common}
        self.texts = {
            "inside": str(self.inside),
            "outside": str(self.outside),
            "data_dir": str(root / "data"),
            "adas_upload": self.runner.run(self._bring_in(green, "ada")),
            "upload": self.runner.run(self._bring_in(blue, LOCAL)),
            "data": f"data:image/png;base64,{base64.b64encode(sent).decode()}",
        }
        self.files = self.listed()

    async def _keep(self) -> tuple[bytes, bytes]:
        await self.service.open()
        read = []
        for seed, (name, principal) in enumerate(
            (("img_mine0000", LOCAL), ("img_adas0000", "ada"))
        ):
            facts = {"id": name, "job_id": f"job_{name}", "session": "s", "principal": principal}
            row = await keep_image(self.service, noise(64, 64, seed), 64, 64, **facts)
            read.append((self.root / "data" / row.file).read_bytes())
        return read[0], read[1]

    async def _bring_in(self, image: bytes, principal: str) -> str:
        with acting_as(principal):
            answer = await self.service.intake.bring_in(image, name=None, source="import")
        return answer.id

    def listed(self) -> set[Path]:
        return {path for path in self.root.rglob("*") if "turning" not in path.name}

    def planned(self, request: DrawRequest, principal: str) -> DryRunAnswer:
        async def plan() -> DryRunAnswer:
            with acting_as(principal, over_network=principal != LOCAL):
                return await self.service.dry_run(request)

        return self.runner.run(plan())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("hostile"), weights_dir)
    yield made
    made.runner.run(made.service.close())
    made.runner.close()
    left = {
        path for path in made.listed() - made.files if path.suffix not in (".db-wal", ".db-shm")
    }
    assert not left


@pytest.fixture
def turning(world: World) -> Iterator[None]:
    """Have a folder become a link to the outside and back, all the time."""
    done, folder = threading.Event(), world.inside / "turning"
    link, kept = world.inside / "turning link", world.inside / "turning kept"
    link.symlink_to(world.outside / "deep")

    def turn() -> None:
        while not done.is_set():
            folder.rename(kept)
            link.rename(folder)
            done.wait(0.0005)
            folder.rename(link)
            kept.rename(folder)
            done.wait(0.0005)

    thread = threading.Thread(target=turn)
    thread.start()
    yield
    done.set()
    thread.join()
    link.unlink()


# --- what is sent ------------------------------------------------------------------------------

FILES = [
    *("a.png", "b c.png", "ü.png", "sub/c.png", "sub/../a.png", "inlink.png", "outlink.png"),
    *("outdir/secret.png", "zero.png", "loop.png", "folder.png", "broken.png", "pipe.png"),
    *("turning/secret.png", "turning/../../outside/secret.png", "../outside/secret.png"),
    *("absent.png", "", ".", "..", "sub", "outdir", "turning", "x" * 300 + ".png"),
]
ROOTS = ["{inside}", "{outside}", "{data_dir}", "/dev", "/proc/self/cwd", "/proc/self/fd/0", "."]
PREFIXES = [
    "",
    "file://",
    "file://localhost",
    "file:",
    "FILE:///",
    "newest in ",
    "Newest IN\t",
    "~",
]
WORDS = [
    *("latest", "latest:s", "latest:", "latest:no", "clipboard", "newest in", "newest in Pictures"),
    *("newest in pictures", "newest in outside", "newest in /", "newest in ..", "alpha", "ask"),
    *("img_mine0000", "img_adas0000", "img_mine", "img_", "img_adas.png", "flux://images/img_adas"),
    *("flux://images/", "flux://jobs/img_mine", "{data}", "data:image/png;base64,", "data:,x"),
    *(
        "https://example.org/a.png",
        "http://169.254.169.254/",
        "\\\\server\\share\\a.png",
        "C:a.png",
    ),
    *(
        "C:a.png",
        "C:\\a.png",
        "//server/a.png",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "{inside}",
    ),
]
WORDS += [*("{upload}", "{adas_upload}", "{upload}.png", "flux://images/{upload}", "upl_", "ask:x")]
ESCAPES = [
    *("{outside}/secret.png", "file://{outside}/secret.png", "{inside}/../outside/secret.png"),
    *("{inside}/outlink.png", "{inside}/outdir/secret.png", "{inside}/turning/secret.png"),
    *("newest in {outside}", "newest in {inside}/outdir", "newest in {inside}/turning"),
    *("newest in {inside}/../outside", "newest in /", "/dev/zero", "{inside}/zero.png"),
]
"""What leads out of the allowed folder, all the time or at times."""
LOOKALIKES = {
    "/": "\u2215",
    ".": "\u2024",
    "a": "\u0430",
    "i": "\u0131",
    "s": "\u017f",
    "l": "\u217c",
}
PIECES = [
    *("\0", "..", "/", "//", "%2e%2e", "%2F", "%00", "\n", " ", ":", "?x", "#x"),
    *("\u202e", "\ud800"),
]


def _inserted(text: str, at: int, piece: str) -> str:
    place = at % (len(text) + 1)
    return text[:place] + piece + text[place:]


def _looking_alike(text: str, at: int, _: str) -> str:
    found = [place for place, one in enumerate(text) if one in LOOKALIKES]
    if not found:
        return text
    place = found[at % len(found)]
    return text[:place] + LOOKALIKES[text[place]] + text[place + 1 :]


def _encoded(text: str, at: int, _: str) -> str:
    place = at % max(1, len(text))
    codes = text[place : place + 1].encode(errors="replace")
    return text[:place] + "".join(f"%{code:02x}" for code in codes) + text[place + 1 :]


CHANGES: dict[str, Callable[[str, int, str], str]] = {
    "insert": _inserted,
    "look alike": _looking_alike,
    "encode": _encoded,
    "change case": lambda text, at, _: text.swapcase() if at % 2 else text.upper(),
    "cut off": lambda text, at, _: text[: at % (len(text) + 1)],
    "double": lambda text, at, _: text[: at % (len(text) + 1)] + text,
    "lengthen": lambda text, at, piece: text + piece * (1 + at % 3000),
    "go up": lambda text, at, _: text.replace("/", "/../" * (1 + at % 4), 1),
}
CHANGE = st.tuples(st.sampled_from([*CHANGES]), st.integers(0, 400), st.sampled_from(PIECES))
PATHS = st.builds(
    lambda prefix, root, file: f"{prefix}{root}/{file}",
    *map(st.sampled_from, (PREFIXES, ROOTS, FILES)),
)
PLAIN = st.one_of(PATHS, *map(st.sampled_from, (WORDS, ESCAPES)), st.text(max_size=20))
NESTED = st.builds("{}{}".format, st.sampled_from([*PREFIXES, "data:", "flux://"]), PLAIN)
TEXTS = st.one_of(
    st.tuples(PLAIN, st.just([])),
    st.tuples(st.one_of(PLAIN, NESTED), st.lists(CHANGE, min_size=1, max_size=3)),
)
OTHERS = st.one_of(TEXTS, st.just(("img_adas0000", [])))
SHAPES: list[Callable[[str, str], tuple[type[DrawRequest], dict[str, Any]]]] = [
    lambda one, _: (EditRequest, {"images": one}),
    lambda one, other: (EditRequest, {"images": [one, other]}),
    lambda one, other: (EditRequest, {"images": ["img_adas0000"], "mask": [one, {"image": other}]}),
    lambda one, _: (FillRequest, {"image": "img_adas0000", "mask": one}),
    lambda one, other: (FillRequest, {"image": one, "mask": {"image": other}}),
    lambda one, _: (VariationRequest, {"images": one}),
    lambda one, other: (VariationRequest, {"images": [one, {"image": other, "weight": 0.5}]}),
    lambda one, _: (StructuralRequest, {"control_image": one}),
    lambda one, other: (GenerateRequest, {"refine_from": [one, other]}),
]


def _text(world: World, asked: tuple[str, list[tuple[str, int, str]]]) -> str:
    text, changes = asked
    for name, value in world.texts.items():
        text = text.replace(f"{{{name}}}", value)
    for change, at, piece in changes:
        text = CHANGES[change](text, at, piece)
    return text


def check(world: World, shape: int, texts: list[Any], principal: str) -> None:
    """Plan a request with references; nobody may get more than is theirs."""
    one, other = (_text(world, asked) for asked in texts)
    request_type, arguments = SHAPES[shape](one, other)
    words = {} if "refine_from" in arguments else {"prompt": "a"}
    try:
        request = parse_request(request_type, {**words, **arguments, "seed": 1})
        answer = world.planned(request, principal)
    except RequestError:
        return
    for taken in answer.plan.inputs:
        if taken.role in ROLES_OF_IMAGES:
            assert taken.sha256 in world.may_see[principal], (one, other)
    if answer.mask is not None:
        assert answer.mask.share != SECRET_SHARE, (one, other)


hostile = given(
    shape=st.integers(0, len(SHAPES) - 1),
    texts=st.tuples(TEXTS, OTHERS).map(list),
    principal=st.sampled_from([LOCAL, LOCAL, "ada"]),
)
HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@hostile
@settings(max_examples=300, suppress_health_check=HEALTH)
@pytest.mark.usefixtures("turning")
def test_a_reference_is_an_image_of_the_caller_or_refused(
    world: World, shape: int, texts: list[Any], principal: str
) -> None:
    check(world, shape, texts, principal)


@pytest.mark.torture
@hostile
@settings(max_examples=4000, suppress_health_check=HEALTH)
@pytest.mark.usefixtures("turning")
def test_thousands_of_references_are_images_of_the_caller_or_refused(
    world: World, shape: int, texts: list[Any], principal: str
) -> None:
    check(world, shape, texts, principal)


@pytest.mark.usefixtures("turning")
def test_nothing_outside_is_read_in_any_argument(world: World) -> None:
    for shape in range(len(SHAPES)):
        for escape in ESCAPES:
            for _ in range(5 if "turning" in escape else 1):
                check(world, shape, [(escape, []), ("img_adas0000", [])], LOCAL)
        for text in ("\ud800", "img_\ud800", "latest:\ud800"):
            check(world, shape, [("latest", []), (text, [])], LOCAL)


@pytest.mark.parametrize("principal", [LOCAL, "ada"])
def test_what_is_meant_to_be_read_is_read(world: World, principal: str) -> None:
    """Else the tests above would pass with a reader that refuses all."""
    readable = ["{inside}/a.png", "file://{inside}/b%20c.png", "{inside}/inlink.png"]
    readable += ["{inside}/sub/../a.png", "newest in {inside}/sub", "img_mine", "latest"]
    readable += ["{upload}"]
    for text in [*readable, "{data}", "img_adas", "{adas_upload}"]:
        is_for_all = text in ("{data}", "img_adas", "latest", "{adas_upload}")
        request = parse_request(EditRequest, {"prompt": "a", "images": [_text(world, (text, []))]})
        if principal == LOCAL or is_for_all:
            (taken,) = world.planned(request, principal).plan.inputs
            assert taken.sha256 in world.may_see[principal]
        else:
            with pytest.raises(RequestError):
                world.planned(request, principal)
