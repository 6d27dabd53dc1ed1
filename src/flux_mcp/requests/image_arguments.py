"""Arguments that are images or parts of one: references, boxes, masks, weighted images.

Several requests take them. What a reference refers to is found out in images/references.py.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from flux_mcp.requests.validation import MistakeError, Real, Request, brief, parse_json_text

_BASE64_OF: Mapping[str, str] = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "UklGR": "image/webp",
}
"""What base64 of each type of image begins with."""
_LEAST_BASE64 = 64
"""Shorter text is no image; a path may begin with /9j/."""


_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(=\s*){0,2}")
_FILE_OF_AN_IMAGE = re.compile(r"((?:flux://images/)?img_[A-Za-z0-9_-]{1,64})\.png", re.IGNORECASE)
"""An image by the name of its file, which is its id and the suffix."""


def _as_reference(given: object) -> object:
    """Accept an image by the name of its file, as base64 without `data:`, and `{"image": ...}`."""
    if isinstance(given, dict) and given.keys() == {"image"}:
        given = given["image"]
    if not isinstance(given, str):
        return given
    given = given.strip()
    if (file := _FILE_OF_AN_IMAGE.fullmatch(given)) is not None:
        return file[1]
    if len(given) >= _LEAST_BASE64:
        media_type = next((one for head, one in _BASE64_OF.items() if given.startswith(head)), None)
        if media_type is not None and _BASE64.fullmatch(given):
            return f"data:{media_type};base64,{''.join(given.split())}"
    return given


ImageReference = Annotated[
    str,
    BeforeValidator(_as_reference, json_schema_input_type=str),
    Field(
        min_length=1,
        description="A gallery image id, a flux://images/{id} URI, an absolute path inside an "
        "allowed folder, or a data: URI (PNG, JPEG or WebP).",
        json_schema_extra=brief("Gallery id, flux://images/{id}, absolute path or data: URI."),
    ),
]


_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
)
_SIDES = (("left", "top", "width", "height"), ("x", "y", "w", "h"))
"""Names of a box's numbers elsewhere: two corners, or a corner and the sides."""
_EXAMPLE_BOX = '{"box": {"x": 0, "y": 0, "width": 256, "height": 256}}'


class Box(Request):
    """A rectangle in the image's own pixels; (0, 0) is the top left corner."""

    x: int = Field(ge=0, description="Left edge, in pixels.", json_schema_extra=brief(""))
    y: int = Field(ge=0, description="Top edge, in pixels.", json_schema_extra=brief(""))
    width: int = Field(
        ge=1, description="Width of the box, in pixels.", json_schema_extra=brief("")
    )
    height: int = Field(
        ge=1, description="Height of the box, in pixels.", json_schema_extra=brief("")
    )

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, data: Any) -> Any:
        """Accept corners and sides by their names; four bare numbers could be either."""
        data = parse_json_text(data)
        if isinstance(data, list) and len(data) == 4 and all(map(_is_number, data)):  # noqa: PLR2004
            raise MistakeError(
                "four numbers could be two corners or a corner and a size", _either_box(data)
            )
        if not isinstance(data, dict) or not all(map(_is_number, data.values())):
            return data
        for names in _CORNERS:
            if data.keys() == set(names):
                return _box_of_corners([data[name] for name in names])
        for names in _SIDES:
            if data.keys() == set(names):
                return dict(zip(("x", "y", "width", "height"), map(data.get, names), strict=True))
        return data


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _either_box(numbers: list[Any]) -> str:
    x, y, third, fourth = numbers
    sides = whole_mask(x, y, third, fourth)
    if third <= x or fourth <= y:
        return f"For [x, y, width, height] give {sides}."
    corners = whole_mask(x, y, third - x, fourth - y)
    return f"For [x0, y0, x1, y1] give {corners}. For [x, y, width, height] give {sides}."


def whole_mask(x: float, y: float, width: float, height: float) -> str:
    """Return the whole argument `mask` with a box, for a hint."""
    box = {"x": x, "y": y, "width": width, "height": height}
    return f'"mask": {json.dumps({"box": box})}'


def _box_of_corners(numbers: list[Any]) -> dict[str, Any]:
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        raise MistakeError(
            "its second corner is not to the right of and below the first",
            "Give the top left corner first.",
        )
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


class Mask(Request):
    """The area to generate again: exactly one of `image` and `box`."""

    example: ClassVar[str] = f'{_EXAMPLE_BOX}, or {{"image": "img_..."}}'

    image: ImageReference | None = Field(
        None,
        description="An image of the same size: white is changed, black is kept.",
        json_schema_extra=brief("Same size: white is changed, black kept."),
    )
    box: Box | None = Field(
        None,
        description="A rectangle that is changed: {x, y, width, height} in pixels from the top "
        "left.",
        json_schema_extra=brief("In pixels from the top left."),
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Accept the image's reference alone, and the box alone."""
        if isinstance(data, str) and data.lstrip()[:1] not in ("[", "{"):
            return {"image": data}
        is_box = isinstance(data, list) or (
            isinstance(data, dict)
            and any(data.keys() == set(names) for names in (*_CORNERS, *_SIDES, Box.model_fields))
        )
        return {"box": data} if is_box else data

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield that it is given both ways, or neither."""
        if ("image" in given) == ("box" in given):
            yield MistakeError(
                "give exactly one of image and box", "A box is {x, y, width, height} in pixels."
            )


class WeightedImage(Request):
    """An image with its share in a variation."""

    example: ClassVar[str] = '[{"image": "img_...", "weight": 1}]'

    image: ImageReference
    weight: Real = Field(
        1,
        ge=0,
        le=2,
        description="Its share against the other images.",
        json_schema_extra=brief("Share against the others."),
    )


def _from_one(given: object) -> object:
    """Accept a list of one image for the image."""
    given = parse_json_text(given)
    if isinstance(given, list) and len(given) > 1:
        raise MistakeError("takes one image", "flux_edit and flux_variation take several.")
    return given[0] if isinstance(given, list) and given else given


OneImage = Annotated[ImageReference, BeforeValidator(_from_one, json_schema_input_type=str)]
