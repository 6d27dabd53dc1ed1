"""Is the image what was asked for? Over MCP, drawn by micro, judged by plain image analysis.

Each question is asked several times and must be answered well more often than chance, and less
often than micro was measured to (docs/models/micro.md): a change of prompt handling, mask polarity,
adapter or sampler is seen, one unlucky seed is not.
"""

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from mcp import Client
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.server.app import build_server
from flux_mcp.service.answers import ImageAnswer
from flux_mcp.service.service import Service
from training import drawing
from training.finding import background_of, found_thing, place_of
from training.judge import edge_f1
from training.scenes import Scene, Thing

from .calls import job

pytestmark = pytest.mark.anyio

Pixels = NDArray[np.uint8]
SEEDS = (11, 12, 13)
SQUARE = {"width": 128, "height": 128, "preview": "none", "wait_s": 200}


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


def scene(background: str, shape: str, colour: str, **where: float) -> Scene:
    thing = Thing(shape, colour, where.get("x", 0.5), where.get("y", 0.5), where.get("radius", 0.3))
    return Scene(background, (thing,))


def given(picture: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawn_by_us(chosen: Scene) -> Pixels:
    return drawing.draw(chosen, 128, 128)


def pixels(image: ImageAnswer) -> Pixels:
    with Image.open(image.path) as picture:
        return np.asarray(picture.convert("RGB"))


async def draw(client: Client, tool: str, **arguments: Any) -> list[Pixels]:
    """Draw with each of the seeds."""
    drawn = []
    for seed in SEEDS:
        answer = await job(client, tool, **SQUARE, **arguments, seed=seed)
        drawn += [pixels(image) for image in answer.images]
    return drawn


def colour(picture: Pixels) -> str | None:
    thing = found_thing(picture)
    return None if thing is None else thing.colour


def shape(picture: Pixels) -> str | None:
    thing = found_thing(picture)
    return None if thing is None else thing.shape


def mostly(answers: list[bool]) -> bool:
    """All but one in three."""
    return sum(answers) >= len(answers) * 2 / 3


@pytest.mark.parametrize(
    ("background", "wanted", "place"),
    [
        ("blue", "red", "left"),
        ("white", "green", "top right"),
        pytest.param("black", "yellow", "bottom", marks=pytest.mark.torture),
    ],
)
async def test_colours_and_place_are_drawn_as_asked(
    client: Client, background: str, wanted: str, place: str
) -> None:
    where = f"in the {place} corner" if " " in place else f"at the {place}"
    prompt = f"a {wanted} circle {where} on a {background} background"
    for picture in await draw(client, "flux_generate", prompt=prompt):
        assert background_of(picture) == background
        assert colour(picture) == wanted
        thing = found_thing(picture)
        assert thing is not None
        assert place_of(thing) == place


@pytest.mark.parametrize(
    "wanted",
    [
        *("square", "ring"),
        *(pytest.param(shape, marks=pytest.mark.torture) for shape in ("circle", "triangle")),
    ],
)
async def test_the_shape_is_drawn_as_asked(client: Client, wanted: str) -> None:
    prompt = f"a large purple {wanted} on a white background"
    found = [shape(picture) for picture in await draw(client, "flux_generate", prompt=prompt)]
    assert mostly([name == wanted for name in found]), found


async def test_a_telegram_is_understood(client: Client) -> None:
    for prompt in ("blue ring pink background", "pink backdrop, ring blue"):
        drawn = await draw(client, "flux_generate", prompt=prompt)
        assert mostly([background_of(picture) == "pink" for picture in drawn]), prompt
        found = [(colour(picture), shape(picture)) for picture in drawn]
        assert mostly([one == ("blue", "ring") for one in found]), found


@pytest.mark.torture
async def test_a_wide_image_holds_the_same_scene(client: Client) -> None:
    answer = await job(
        client, "flux_generate", prompt="a red circle on a cyan background", seed=5,
        width=192, height=80, preview="none", wait_s=200,
    )  # fmt: skip
    picture = pixels(answer.images[0])
    assert picture.shape == (80, 192, 3)
    assert (background_of(picture), colour(picture)) == ("cyan", "red")


async def test_an_edit_changes_the_colour_it_names_and_nothing_else(client: Client) -> None:
    before = drawn_by_us(scene("blue", "circle", "red"))
    edited = await draw(client, "flux_edit", prompt="make the circle green", images=[given(before)])
    thing = drawing.coverage(scene("blue", "circle", "red").things[0], 128, 128)
    around = thing == 0
    assert mostly([colour(picture) == "green" for picture in edited])
    for picture in edited:
        assert background_of(picture) == "blue"
        moved = np.abs(picture[around].astype(int) - before[around]).mean(axis=1)
        assert (moved < 24).mean() > 0.85


async def test_it_is_the_only_thing_there(client: Client) -> None:
    before = given(drawn_by_us(scene("white", "circle", "red", radius=0.2)))
    removed = await draw(client, "flux_edit", prompt="remove it", images=[before])
    assert mostly([found_thing(picture) is None for picture in removed])
    assert mostly([background_of(picture) == "white" for picture in removed])


@pytest.mark.torture
async def test_an_edit_of_the_background_keeps_the_thing(client: Client) -> None:
    before = drawn_by_us(scene("blue", "square", "yellow"))
    edited = await draw(
        client, "flux_edit", prompt="change the background to black", images=[given(before)]
    )
    assert mostly([background_of(picture) == "black" for picture in edited])
    assert mostly([colour(picture) == "yellow" for picture in edited])


@pytest.mark.parametrize(
    ("invert", "prompt"), [(False, "a blue square"), (True, "a blue square on a white background")]
)
async def test_a_mask_says_where_to_draw_and_invert_where_not(
    client: Client, prompt: str, *, invert: bool
) -> None:
    """The box is drawn again; inverted, all but the box is. What is kept is kept to the byte."""
    before = drawn_by_us(scene("white", "circle", "red", x=0.25, y=0.25, radius=0.18))
    box = {"x": 64, "y": 64, "width": 64, "height": 64}
    inside = np.zeros((128, 128), bool)
    inside[64:, 64:] = True
    anew = ~inside if invert else inside
    filled = await draw(
        client, "flux_fill", prompt=prompt, image=given(before), mask={"box": box}, invert=invert,
        feather_px=0,
    )  # fmt: skip
    for picture in filled:
        assert np.array_equal(picture[~anew], before[~anew])
    blue = [
        (np.abs(picture[anew].astype(int) - (38, 78, 220)).sum(axis=1) < 120).mean()
        for picture in filled
    ]
    assert mostly([share > 0.05 for share in blue]), blue


async def test_edges_are_followed_and_colours_come_from_the_words(client: Client) -> None:
    structure = drawn_by_us(scene("white", "star", "black", radius=0.37))
    along = await draw(
        client, "flux_structural", prompt="a yellow star on a purple background",
        structure="canny", image=given(structure),
    )  # fmt: skip
    edges = drawing.edges(structure)
    assert mostly([edge_f1(picture, edges, 3) > 0.6 for picture in along])
    assert mostly([background_of(picture) == "purple" for picture in along])
    assert mostly([colour(picture) == "yellow" for picture in along])


async def test_a_variation_keeps_the_colours(client: Client) -> None:
    reference = drawn_by_us(scene("green", "heart", "pink"))
    varied = await draw(client, "flux_variation", images=[{"image": given(reference)}])
    assert mostly([background_of(picture) == "green" for picture in varied])
    assert mostly([colour(picture) == "pink" for picture in varied])


@pytest.mark.torture
async def test_the_heavier_of_two_images_shows_more(client: Client) -> None:
    first = given(drawn_by_us(scene("green", "circle", "white")))
    second = given(drawn_by_us(scene("black", "circle", "orange")))
    backgrounds = {}
    for weight in (2.0, 0.1):
        mixed = await draw(
            client, "flux_variation",
            images=[{"image": first, "weight": weight}, {"image": second, "weight": 2.1 - weight}],
        )  # fmt: skip
        backgrounds[weight] = [background_of(picture) for picture in mixed]
    assert mostly([name == "green" for name in backgrounds[2.0]]), backgrounds
    assert mostly([name == "black" for name in backgrounds[0.1]]), backgrounds


async def test_a_seed_is_an_image_and_another_seed_another(client: Client) -> None:
    arguments = {**SQUARE, "width": 64, "height": 64, "prompt": "a green heart"}
    first, again, other = [
        pixels((await job(client, "flux_generate", **arguments, seed=seed)).images[0])
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 1


@pytest.mark.torture
async def test_a_batch_draws_what_single_images_draw(client: Client) -> None:
    """One pass for several seeds rounds differently, but each is its seed's image."""
    arguments = {**SQUARE, "prompt": "a cyan star on a red background", "seed": 21, "count": 3}
    alone = await job(client, "flux_generate", **arguments)
    together = await job(client, "flux_generate", **arguments, batched=True)
    assert [image.seed for image in alone.images] == [image.seed for image in together.images]
    for one, other in zip(alone.images, together.images, strict=True):
        assert np.abs(pixels(one).astype(int) - pixels(other)).mean() < 1.5


@pytest.mark.torture
async def test_a_negative_prompt_pushes_away(client: Client) -> None:
    """Nothing is said of the colour but what it must not be."""
    plain = await draw(client, "flux_generate", prompt="a circle", negative_prompt="")
    pushed = await draw(
        client, "flux_generate", prompt="a circle", negative_prompt="a white background"
    )
    assert any(not np.array_equal(a, b) for a, b in zip(plain, pushed, strict=True))
    assert all(background_of(picture) != "white" for picture in pushed)
