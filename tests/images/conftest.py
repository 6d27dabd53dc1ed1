"""Images made on the spot: real files in every format."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageDraw


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def drawing() -> Image.Image:
    """64x48 RGB: white, with a red square in the top left corner."""
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 15, 15), fill=(220, 20, 20))
    return image
