"""Synthetic gallery rows: a made-up gallery of any size, the same one each time."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from flux_mcp.gallery.store import ImageRecord
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.plan import make_plan
from flux_mcp.requests.schemas import GenerateRequest

COMMON_WORD = "light"
"""In every second prompt."""
RARE_WORD = "quokka"
"""In one prompt of each `RARE_EVERY`."""
RARE_EVERY = 400

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


def records(first: int, last: int, *, picture: str | None = None) -> Iterator[ImageRecord]:
    """Make the rows number `first` to `last - 1`, a minute apart.

    Args:
        first: Where to begin; the rows are the same whatever was made before.
        last: Where to end.
        picture: The files' path below the data folder without its suffix, the same for all rows;
            else each row names files of its own, which are not there.
    """
    spec = load_registry().find("text2img", "micro")
    plan = make_plan(GenerateRequest(prompt="a"), spec, revision=None, seed=7)
    for number in range(first, last):
        choose = random.Random(number)  # noqa: S311 - made-up prompts
        words = [*choose.choices(_WORDS, k=12)]
        words += [COMMON_WORD] if number % 2 else []
        words += [RARE_WORD] if number % RARE_EVERY == 0 else []
        prompt = f"a picture of {' '.join(words)}"
        image_id = f"img_{number:012d}"
        stem = picture or f"images/{image_id}"
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
