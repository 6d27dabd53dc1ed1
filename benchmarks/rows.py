"""Synthetic gallery rows: a made-up gallery of any size, the same one each time."""

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image, ImageFilter

from flux_mcp.gallery.previews import thumbnail_webp
from flux_mcp.gallery.store import Gallery, ImageRecord, migrate
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.plan import PlanParts, make_plan
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.settings.paths import Paths, ensure_dirs
from flux_mcp.storage.database import open_database

COMMON_WORD = "light"
"""In every second prompt."""
RARE_WORD = "quokka"
"""In one prompt of each `RARE_EVERY`."""
RARE_EVERY = 400
IMAGE = "images/image"
"""The one image that `fill` makes, for rows that share it."""

_VOCABULARY = (
    "amber ancient autumn balcony barn bird blue boat bridge brick bronze cat castle cloud copper "
    "dawn desert dog door dress dust eagle evening field fire fog forest fox garden glass gold "
    "green hill horse house ice island kitchen lake lamp leaf letter lighthouse lion marble market "
    "meadow mist moon morning mountain oak ocean orange paper path pearl pine portrait purple rain "
    "red river road robot rose ruin sail sand ship silver sky snow stone storm street sunset table "
    "temple tiger tower train tree umbrella valley velvet village violet water wheat white window "
    "winter wolf wood yellow"
)
_WORDS = _VOCABULARY.split()
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ENVIRONMENT = {"torch": "2.13.0", "diffusers": "0.42.1", "device": "cpu", "threads": 1}


def records(first: int, last: int, *, image: str | None = None) -> Iterator[ImageRecord]:
    """Make the rows number `first` to `last - 1`, a minute apart.

    Args:
        first: Where to begin; the rows are the same whatever was made before.
        last: Where to end.
        image: The files' path below the data folder without its suffix, the same for all rows;
            else each row names files of its own, which are not there.
    """
    spec = load_registry().find("text2img", "micro")
    plan = make_plan(GenerateRequest(prompt="a"), spec, PlanParts(revision=None, seed=7))
    for number in range(first, last):
        choose = random.Random(number)  # noqa: S311 - made-up prompts
        words = [*choose.choices(_WORDS, k=12)]
        words += [COMMON_WORD] if number % 2 else []
        words += [RARE_WORD] if number % RARE_EVERY == 0 else []
        prompt = f"an image of {' '.join(words)}"
        image_id = f"img_{number:012d}"
        stem = image or f"images/{image_id}"
        yield ImageRecord(
            id=image_id,
            job_id=f"job_{number:012d}",
            index=0,
            kind="text2img" if number % 3 else "kontext",
            prompt=prompt,
            model="micro" if number % 5 else "flux1-dev",
            weights_sha256="0" * 64,
            precision="fp32",
            seed=choose.randrange(2**32),
            plan=plan.model_copy(update={"prompt": prompt}).model_dump(mode="json"),
            width=128,
            height=128,
            session=f"session {number // 50}",
            licence="apache-2.0",
            environment=_ENVIRONMENT,
            seconds=1.5,
            created_at=(_START + timedelta(minutes=number)).isoformat(timespec="microseconds"),
            file=f"{stem}.png",
            thumbnail=f"{stem}.webp",
            sha256="1" * 64,
            pixels_sha256="2" * 64,
            size_bytes=1000,
        )


def fill(data_dir: Path, made: Iterable[ImageRecord]) -> None:
    """Make a gallery of rows, and the image `IMAGE` for them to name."""
    paths = Paths(data_dir)
    ensure_dirs(paths)
    stem = paths.root / IMAGE
    image = _scene(512)
    image.save(stem.with_suffix(".png"))
    stem.with_suffix(".webp").write_bytes(thumbnail_webp(image))
    database = open_database(paths.database)
    migrate(database)
    gallery = Gallery(database)
    for record in made:
        gallery.add(record)
    database.close()


def _scene(side_px: int) -> Image.Image:
    """Return soft shapes with some grain: a thumbnail of about 20 kB, as FLUX's images have."""
    size = (side_px, side_px)
    coarse = Image.effect_noise((side_px // 16, side_px // 16), 90)
    shapes = coarse.resize(size, Image.Resampling.BICUBIC)
    turned = shapes.transpose(Image.Transpose.ROTATE_90)
    flipped = shapes.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    grain = Image.effect_noise(size, 14).filter(ImageFilter.GaussianBlur(1))
    colours = Image.merge("RGB", (shapes, turned, flipped))
    return Image.blend(colours, Image.merge("RGB", (grain, grain, grain)), 0.3)
