"""Upscaling: the request for it alone, its plan, and what is said about it."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from flux_mcp.errors import InvalidSizeError
from flux_mcp.models.registry import LANCZOS, Kind
from flux_mcp.models.upscalers import Upscaler
from flux_mcp.requests.geometry import Size
from flux_mcp.requests.image_arguments import ImageReference
from flux_mcp.requests.render_plan import PlanInput, PlanUpscale, RenderPlan
from flux_mcp.requests.validation import Key, Name, Request

TILE_PX = 256
OVERLAP_PX = 32
"""Of which the outer quarters are not used: 8 px on each side, in which a model draws what it
cannot look beyond; a window of Swin2SR is 8 px as well."""
MOST_PIXELS = 2**30 // 3
"""An image reaches the server in one frame of at most 1 GiB (worker_protocol/frames.py)."""


def _as_factor(given: object) -> object:
    """Accept `"2"`, `"x2"`, `"2x"` and `2.0` for 2."""
    if isinstance(given, str):
        given = given.strip().lower().strip("x")
        return int(given) if given.isdecimal() else given
    return int(given) if isinstance(given, float) and given.is_integer() else given


# Without its two values: an enum holds texts alone in the schemas of Gemini.
Factor = Annotated[Literal[2, 4], BeforeValidator(_as_factor), WithJsonSchema({"type": "integer"})]


class UpscaleRequest(Request):
    """Make one image larger."""

    kind: ClassVar[Kind] = "upscale"
    count: ClassVar[int] = 1
    words_of: ClassVar[tuple[str, ...]] = ()

    image: ImageReference = Field(description="The image to make larger.")
    upscale: Factor = Field(2, description="What becomes of width and height: 2 or 4 times.")
    session: Name | None = Field(None, description="Any name that groups images.")
    dry_run: bool = Field(default=False, description="Return the plan; queue nothing.")
    idempotency_key: Key | None = Field(
        None, description="Repeating a call with the same key returns the same job."
    )


def plan_upscale(upscaler: Upscaler, sha256: str | None, factor: Literal[2, 4]) -> PlanUpscale:
    """Return how images are made larger.

    Args:
        upscaler: By what.
        sha256: Of its file; `None` for Lanczos.
        factor: What becomes of width and height.
    """
    return PlanUpscale(
        upscaler=upscaler.name,
        revision=upscaler.revision,
        sha256=sha256,
        factor=factor,
        model_factor=upscaler.factor,
        tile_px=TILE_PX,
        overlap_px=OVERLAP_PX,
    )


def upscale_plan(how: PlanUpscale, image: PlanInput, *, prompt: str, seed: int) -> RenderPlan:
    """Return the plan that makes one image larger, and nothing else.

    Args:
        how: By what, and how much.
        image: What is made larger.
        prompt: What it shows, if that is known.
        seed: It was drawn from; decides nothing here.
    """
    size = how.size_of(image.size)
    return RenderPlan(
        kind="upscale",
        model=how.upscaler,
        revision=how.revision,
        quality="standard",
        precision="fp32",
        prompt=prompt,
        width=size.width,
        height=size.height,
        steps=1,
        guidance=0.0,
        seeds=(seed,),
        max_sequence_length=1,
        inputs=(image,),
        upscale=how,
    )


def refuse_too_large(how: PlanUpscale, size: Size, max_pixels: int) -> None:
    """Refuse what becomes larger than an image may be.

    Raises:
        InvalidSizeError: it does.
    """
    larger, most = how.size_of(size), min(max_pixels, MOST_PIXELS)
    if larger.pixels > most:
        smaller = (
            "Ask for upscale 2."
            if how.factor > 2 and size.pixels * 4 <= most  # noqa: PLR2004 - twice both sides
            else "Ask for a smaller image."
        )
        raise InvalidSizeError(
            f"Upscaled {how.factor} times, {size} becomes {larger}: "
            f"{larger.pixels / 1e6:.0f} megapixels, and {most / 1e6:.0f} are allowed "
            "(max_image_pixels).",
            smaller,
        )


def upscale_notices(
    how: PlanUpscale, upscaler: Upscaler, size: Size, *, is_drawn: bool
) -> tuple[str, ...]:
    """Say how an image is made larger.

    Args:
        how: By what, and how much.
        upscaler: The same, as it was found.
        size: Of the image.
        is_drawn: Whether it is drawn first.
    """
    what = "Each image is kept as drawn, and" if is_drawn else f"The image of {size} is"
    passes = ""
    if upscaler.is_own_file:
        passes = (
            " A model that upscales twice runs two times for 4; of one that upscales 4 times, 2 is "
            "made by halving."
        )
    elif upscaler.factor is not None and upscaler.factor < how.factor:
        passes = f" In two passes: it upscales {upscaler.factor} times."
    elif upscaler.factor is not None and upscaler.factor > how.factor:
        passes = f" It upscales {upscaler.factor} times; the result is halved."
    only = " It only interpolates, and adds no detail." if how.upscaler == LANCZOS else ""
    told = f"{what} upscaled {how.factor} times to {how.size_of(size)} by {how.upscaler}."
    notices = [f"{told}{passes}{only}"]
    if upscaler.is_demonstration:
        notices.append(
            f"{upscaler.name} is a demo, taught on coloured shapes; a real one is pulled with "
            "'models pull swin2sr-x2'."
        )
    if is_drawn:
        notices.append("Estimated times are of drawing, without upscaling.")
    return tuple(notices)
