"""Pictures inside a request for a drawing: how one is named, a mask, a share. Pure."""

from typing import Annotated

from pydantic import Field, model_validator

from flux_mcp.requests.fields import MistakeError, Real, Request

ImageReference = Annotated[
    str,
    Field(
        min_length=1,
        description="A gallery image id, a flux://images/{id} URI, an absolute path inside an "
        "allowed folder, or a data: URI (PNG, JPEG or WebP).",
    ),
]


class Box(Request):
    """A rectangle in the picture's own pixels; (0, 0) is the top left corner."""

    x: int = Field(ge=0, description="Left edge.")
    y: int = Field(ge=0, description="Top edge.")
    width: int = Field(ge=1, description="Width of the box.")
    height: int = Field(ge=1, description="Height of the box.")


class Mask(Request):
    """Where to draw: exactly one of `image` and `box`."""

    image: ImageReference | None = Field(
        None, description="A picture of the same size: white is drawn anew, black is kept."
    )
    box: Box | None = Field(None, description="A rectangle that is drawn anew.")

    @model_validator(mode="after")
    def _is_given_one_way(self) -> "Mask":
        if (self.image is None) == (self.box is None):
            raise MistakeError(
                "give exactly one of image and box", "A box is {x, y, width, height} in pixels."
            )
        return self


class WeightedImage(Request):
    """A picture with its share in a variation."""

    image: ImageReference
    weight: Real = Field(1.0, ge=0, le=2, description="Its share against the other pictures.")
