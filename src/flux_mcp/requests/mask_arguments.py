"""Masks as arguments: the shapes that together say which part of an image changes.

A coordinate is a pixel, or a fraction of the image: a model that reads coordinates off a preview
does not know how many pixels the image has. Which of the two is read off a shape's numbers
(`are_fractions`). Here shapes are only read; images/masks.py draws them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from flux_mcp.requests.image_arguments import ImageReference
from flux_mcp.requests.validation import (
    MistakeError,
    Real,
    Request,
    Words,
    brief,
    parse_json_text,
)

MAX_POINTS = 1000
"""Of a polygon: what has more is better given as an image."""
MAX_AREAS = 16
"""Of one mask, beside the first."""
MAX_GROW_PX = 256
SOURCE_ALPHA = "alpha"
"""What names the transparency of the image itself where an image is named."""
_MAX_PX = 1_000_000
"""Beyond every image; larger numbers need no arithmetic to be refused."""
_NUMBERS = WithJsonSchema({"type": "array", "items": {"type": "number"}})
_POINTS = WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
_UNITS = "Pixels are whole numbers; fractions of the image lie between 0 and 1."


def are_fractions(numbers: Iterable[float]) -> bool:
    """Whether the numbers of a shape are fractions of the image: all lie between 0 and 1."""
    return all(0 <= number <= 1 for number in numbers)


def are_ambiguous(numbers: Iterable[float]) -> bool:
    """Whether they could be pixels as well: all are 0 or 1."""
    return all(number in (0, 1) for number in numbers)


def _in_one_unit(numbers: Sequence[float]) -> None:
    """Refuse numbers that are neither all fractions nor all pixels.

    Raises:
        MistakeError: they are mixed, no whole pixels, or no numbers.
    """
    if not are_fractions(numbers) and any(number % 1 != 0 for number in numbers):
        raise MistakeError("its numbers are neither all pixels nor all fractions", _UNITS)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(is_number, values))


# --- boxes ---------------------------------------------------------------------------------------

_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
)
_SIDES = (("left", "top", "width", "height"), ("x", "y", "w", "h"))
"""Names of a box's numbers elsewhere: two corners, or a corner and the sides."""
_CENTRE = ("cx", "cy", "rx", "ry")
"""Names of an ellipse's numbers elsewhere."""
_EXAMPLE_BOX = '{"box": [0.25, 0.25, 0.75, 0.75]}'


class Box(Request):
    """A rectangle; (0, 0) is the top left corner of the image. `[x0, y0, x1, y1]` is two corners.

    All four numbers are pixels, or all are fractions of the image.
    """

    named: ClassVar[str] = "box"

    x: Real = Field(ge=0, le=_MAX_PX, description="Left edge, in pixels or as a fraction.")
    y: Real = Field(ge=0, le=_MAX_PX, description="Top edge, in pixels or as a fraction.")
    width: Real = Field(
        gt=0, le=_MAX_PX, description="Width of the box, in pixels or as a fraction."
    )
    height: Real = Field(
        gt=0, le=_MAX_PX, description="Height of the box, in pixels or as a fraction."
    )

    @model_validator(mode="before")
    @classmethod
    def _other_forms(cls, data: Any) -> Any:
        """Accept two corners as a list or by their names, and sides by other names."""
        data = parse_json_text(data)
        if _are_numbers(data, 4):
            return cls._of_corners(data)
        if isinstance(data, list):
            raise MistakeError(
                "takes four numbers", f"[x0, y0, x1, y1], two corners of the {cls.named}. {_UNITS}"
            )
        if not isinstance(data, dict) or not all(map(is_number, data.values())):
            return data
        for names in _CORNERS:
            if data.keys() == set(names):
                return cls._of_corners([data[name] for name in names])
        for names in _SIDES:
            if data.keys() == set(names):
                return dict(zip(("x", "y", "width", "height"), map(data.get, names), strict=True))
        return data

    @classmethod
    def _of_corners(cls, numbers: list[Any]) -> dict[str, Any]:
        left, top, right, bottom = numbers
        if right <= left or bottom <= top:
            hint = "Give the top left corner first: [x0, y0, x1, y1]."
            if left >= 0 and top >= 0 and right > 0 and bottom > 0:
                sides = whole_mask(left, top, right, bottom, named=cls.named)
                hint += f" For [x, y, width, height] give {sides}."
            raise MistakeError("its second corner is not to the right of and below the first", hint)
        _in_one_unit(numbers)
        return {"x": left, "y": top, "width": right - left, "height": bottom - top}

    @model_validator(mode="after")
    def _one_unit(self) -> "Box":
        if self.is_fraction:
            return self
        numbers = (self.x, self.y, self.width, self.height)
        if are_fractions(numbers) and not are_ambiguous(numbers):
            raise MistakeError("it reaches outside the image, whose sides are 1", _UNITS)
        _in_one_unit(numbers)
        return self

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        # Without the last bits of an addition: 0.1 + 0.2 is 0.3.
        right, bottom = round(self.x + self.width, 9), round(self.y + self.height, 9)
        return self.x, self.y, right, bottom

    @property
    def is_fraction(self) -> bool:
        """Whether its numbers are fractions of the image."""
        return are_fractions(self.corners)


class Ellipse(Box):
    """The ellipse that touches the four sides of a box."""

    named: ClassVar[str] = "ellipse"

    @model_validator(mode="before")
    @classmethod
    def _of_centre(cls, data: Any) -> Any:
        """Accept a centre and two radii: `{cx, cy, rx, ry}`."""
        data = parse_json_text(data)
        if not isinstance(data, dict) or data.keys() != set(_CENTRE):
            return data
        if not all(map(is_number, data.values())):
            return data
        x, y, across, down = (data[name] for name in _CENTRE)
        _in_one_unit((x, y, across, down))
        sides = {"x": x - across, "y": y - down, "width": 2 * across, "height": 2 * down}
        return {name: round(number, 9) for name, number in sides.items()}


def whole_mask(x: float, y: float, width: float, height: float, *, named: str = "box") -> str:
    """Return the whole argument `mask` with a box, for a hint."""
    box = {"x": x, "y": y, "width": width, "height": height}
    return f'"mask": {json.dumps({named: box})}'


# --- polygons ------------------------------------------------------------------------------------

Point = tuple[Real, Real]


def _as_points(given: object) -> object:
    """Accept points as `{x, y}`, and all their numbers in one list."""
    given = parse_json_text(given)
    if not isinstance(given, list):
        return given
    if len(given) > 2 * MAX_POINTS:
        raise MistakeError(
            f"has more than {MAX_POINTS:,} points", "Leave some out, or send the mask as an image."
        )
    if given and all(map(is_number, given)) and len(given) % 2 == 0:
        return list(zip(given[::2], given[1::2], strict=True))
    points = [
        [point["x"], point["y"]]
        if isinstance(point, dict) and point.keys() == {"x", "y"}
        else point
        for point in given
    ]
    if any(isinstance(one, bool) for point in points if isinstance(point, list) for one in point):
        raise MistakeError("has true or false for a number", "Give each corner as [x, y].")
    return points


def _points_fit(points: list[Point]) -> list[Point]:
    numbers = [number for point in points for number in point]
    if any(not 0 <= number <= _MAX_PX for number in numbers):
        raise MistakeError("has a point outside every image", _UNITS)
    _in_one_unit(numbers)
    return points


Polygon = Annotated[
    list[Point],
    BeforeValidator(_as_points),
    Field(min_length=3, max_length=MAX_POINTS),
    AfterValidator(_points_fit),
    _POINTS,
]


# --- outpainting ---------------------------------------------------------------------------------

Anchor = Literal["center", "left", "right", "top", "bottom"]
_RATIO = re.compile(r"[1-9]\d{0,2}:[1-9]\d{0,2}")
_MARGINS = ("left", "top", "right", "bottom")
_EXAMPLE_OUTPAINT = (
    '"mask": {"outpaint": {"aspect_ratio": "16:9"}}, or "mask": {"outpaint": {"left": 128}}'
)


class Outpaint(Request):
    """A larger canvas with the image in it; what is around the image is generated."""

    left: Real = Field(
        0,
        ge=0,
        le=_MAX_PX,
        description="Margin in pixels, or as a fraction of the image's width.",
        json_schema_extra=brief("", left_out=0),
    )
    top: Real = Field(
        0,
        ge=0,
        le=_MAX_PX,
        description="Margin in pixels, or as a fraction of the image's height.",
        json_schema_extra=brief("", left_out=0),
    )
    right: Real = Field(
        0, ge=0, le=_MAX_PX, description="As left.", json_schema_extra=brief("", left_out=0)
    )
    bottom: Real = Field(
        0, ge=0, le=_MAX_PX, description="As top.", json_schema_extra=brief("", left_out=0)
    )
    aspect_ratio: str | None = Field(
        None,
        pattern=f"^{_RATIO.pattern}$",
        description="Instead of margins: the shape of the canvas, as '16:9'. It is the smallest "
        "that holds the image.",
        json_schema_extra=brief("", left_out="auto"),
    )
    anchor: Anchor = Field(
        "center",
        description="Where in a canvas of another aspect_ratio the image stands: in the middle, or "
        "at the left, right, top or bottom.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_words(cls, data: Any) -> Any:
        """Accept `"16:9"`, `"16:9 left"` and `"left=128, top=64"`."""
        data = parse_json_text(data)
        if not isinstance(data, str) or not data.strip():
            return data
        found: dict[str, Any] = {}
        for word in re.split(r"[\s,;]+", data.strip()):
            name, sign, number = word.partition("=")
            if sign and name in _MARGINS and name not in found and number:
                found[name] = number.removesuffix("px")
            elif _RATIO.fullmatch(word) and "aspect_ratio" not in found:
                found["aspect_ratio"] = word
            elif word in ("center", *_MARGINS) and "anchor" not in found:
                found["anchor"] = word
            else:
                raise MistakeError(
                    f"'{word[:20]}' is no margin and no aspect ratio", f"Give {_EXAMPLE_OUTPAINT}."
                )
        return found

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield that the canvas is given in two ways, or in none."""
        margins = [given[name] for name in _MARGINS if given.get(name)]
        if (given.get("aspect_ratio") is None) == (not margins):
            yield MistakeError(
                "outpaint takes margins, or an aspect_ratio", f"Give {_EXAMPLE_OUTPAINT}."
            )
        if given.get("anchor", "center") != "center" and margins:
            yield MistakeError(
                "anchor goes with aspect_ratio: margins say where the image stands",
                "Leave anchor out.",
            )

    @model_validator(mode="after")
    def _one_unit(self) -> "Outpaint":
        _in_one_unit(self.margins)
        return self

    @property
    def margins(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom; all 0 where an aspect ratio is given."""
        return self.left, self.top, self.right, self.bottom


# --- masks ---------------------------------------------------------------------------------------

Pick = Literal["all", "largest"] | Annotated[int, Field(ge=1, le=100)]

_IN_UNITS = "in pixels or as fractions of the image (all its numbers between 0 and 1)"


class Area(Request):
    """A part of an image. What is given in several ways is all of them together."""

    image: ImageReference | None = Field(
        None,
        description="An image of the same shape, in any size: white is changed, black is kept. "
        f"'{SOURCE_ALPHA}' for the transparent parts of the image itself.",
        json_schema_extra=brief(
            f"White is changed, black kept; '{SOURCE_ALPHA}': what is transparent."
        ),
    )
    alpha: SkipJsonSchema[bool] = Field(
        default=False, description="Whether the transparent parts of the image itself are changed."
    )
    box: Annotated[Box, _NUMBERS] | None = Field(
        None,
        description=f"A rectangle: [x0, y0, x1, y1] or {{x, y, width, height}}, {_IN_UNITS}, from "
        "the top left.",
        json_schema_extra=brief("[x0, y0, x1, y1], pixels or fractions."),
    )
    polygon: Polygon | None = Field(
        None,
        description=f"[[x, y], ...]: 3 to {MAX_POINTS:,} corners, {_IN_UNITS}.",
        json_schema_extra=brief(""),
    )
    ellipse: Annotated[Ellipse, _NUMBERS] | None = Field(
        None,
        description="The ellipse inside a box, given as box or as {cx, cy, rx, ry}.",
        json_schema_extra=brief(""),
    )
    words: Annotated[Words, Field(min_length=1, max_length=200)] | None = Field(
        None,
        description="What is to be found in the image and changed, as 'the red car'. With "
        "threshold (how sure, 0 to 1) and pick (all, largest, or a number from the left).",
        json_schema_extra=brief("What to find, as 'the red car'."),
    )
    threshold: SkipJsonSchema[Real | None] = Field(
        None,
        gt=0,
        lt=1,
        description="How sure it must be that a pixel shows what the words say, between 0 and 1.",
    )
    pick: SkipJsonSchema[Pick | None] = Field(
        None,
        description="Of what the words find: all, largest, or a number from 1, counted from the "
        "left.",
    )
    outpaint: Annotated[Outpaint, WithJsonSchema({"type": "string"})] | None = Field(
        None,
        description="A larger canvas, whose new part is generated: '16:9' or {aspect_ratio, "
        "anchor} for its shape, 'left=0.5, right=0.5' or {left, top, right, bottom} for margins in "
        "pixels or as fractions of the side.",
        json_schema_extra=brief("Canvas: '16:9' or 'left=128, top=64'."),
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Accept the image's reference alone, and a shape alone."""
        if isinstance(data, str) and data.lstrip()[:1] not in ("[", "{"):
            data = {"image": data}
        elif _are_numbers(data, 4):
            data = {"box": data}
        elif _is_polygon(data):
            data = {"polygon": data}
        elif isinstance(data, dict):
            for name, forms in _SHAPES_ALONE.items():
                if any(data.keys() == set(names) for names in forms):
                    data = {name: data}
                    break
        return _with_alpha(data)

    @classmethod
    def given(cls, data: Any) -> Any:
        """Take four zeros for no box, as a model gives them that must give every argument."""
        given = super().given(data)
        if isinstance(given, dict):
            for name in ("box", "ellipse"):
                if given.get(name) == [0, 0, 0, 0]:
                    del given[name]
            if given.get("alpha") is False:
                del given["alpha"]
        return given

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield that there is no shape, or that something is said of words and there are none."""
        if "words" not in given and not {"threshold", "pick"}.isdisjoint(given):
            yield MistakeError("threshold and pick say how words are found", "Give words as well.")
        elif not any(given.get(name) for name in _SHAPES):
            yield MistakeError(
                f"give at least one of {', '.join(_SHAPES)}", "Several in one mask are united."
            )


_SHAPES = ("image", "alpha", "box", "polygon", "ellipse", "words", "outpaint")
_SHAPES_ALONE = {"box": (*_CORNERS, *_SIDES, Box.model_fields), "ellipse": (_CENTRE,)}


def _is_polygon(data: Any) -> bool:
    """Whether it is a list of at least three pairs of numbers."""
    return isinstance(data, list) and len(data) >= 3 and all(_are_numbers(one, 2) for one in data)  # noqa: PLR2004


def _with_alpha(data: Any) -> Any:
    if isinstance(data, dict) and data.get("image") == SOURCE_ALPHA:
        return {**{name: one for name, one in data.items() if name != "image"}, "alpha": True}
    return data


class Mask(Area):
    """The area to generate again: everything that is given, united."""

    example: ClassVar[str] = f'{_EXAMPLE_BOX}, or {{"image": "img_..."}}'

    more: SkipJsonSchema[list[Area]] = Field(
        default_factory=list,
        max_length=MAX_AREAS,
        description="Further areas, united with this one: what a list of masks becomes.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_several(cls, data: Any) -> Any:
        """Accept a list of masks."""
        if not isinstance(data, list) or _are_numbers(data, 4) or _is_polygon(data):
            return data
        if len(data) > MAX_AREAS + 1:
            raise MistakeError(f"has more than {MAX_AREAS + 1} areas", "Send them as one image.")
        if not data or not all(isinstance(one, dict | list | str) for one in data):
            raise MistakeError(
                "a list is four numbers, points, or several masks", f"Give {_EXAMPLE_BOX}."
            )
        first, *rest = ({"image": one} if isinstance(one, str) else one for one in data)
        if isinstance(first, list):
            first = {"box" if _are_numbers(first, 4) else "polygon": first}
        return {**first, "more": rest} if rest else first

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield also that two canvases, or too many points, are asked for."""
        yield from super().contradictions(given)
        areas = [given, *(dict(one) for one in given.get("more", ()) if isinstance(one, Area))]
        if sum(area.get("outpaint") is not None for area in areas) > 1:
            yield MistakeError("an image has one canvas", "Give outpaint once.")
        if sum(len(area.get("polygon") or ()) for area in areas) > MAX_POINTS:
            yield MistakeError(
                f"all polygons together have more than {MAX_POINTS:,} points",
                "Leave some out, or send the mask as an image.",
            )

    @property
    def areas(self) -> tuple[Area, ...]:
        """This area and the further ones."""
        return (self, *self.more)

    @property
    def outpainted(self) -> Outpaint | None:
        """The canvas it asks for, if any."""
        return next((area.outpaint for area in self.areas if area.outpaint is not None), None)

    @property
    def takes_alpha(self) -> bool:
        """Whether the transparency of the image itself is part of it."""
        return any(area.alpha for area in self.areas)

    @property
    def images(self) -> tuple[str, ...]:
        """The references of its images."""
        return tuple(area.image for area in self.areas if area.image is not None)
