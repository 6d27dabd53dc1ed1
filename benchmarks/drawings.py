"""One call of each image tool, always the same, at any size."""

import base64
import io
from typing import Any

from PIL import Image, ImageDraw


def sample_image(side_px: int) -> str:
    """Return a red circle on blue as a data: URI."""
    image = Image.new("RGB", (side_px, side_px), (40, 60, 200))
    quarter = side_px // 4
    ImageDraw.Draw(image).ellipse((quarter, quarter, 3 * quarter, 3 * quarter), fill=(220, 40, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def calls(side_px: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return for each kind the tool and its arguments, without size, steps and seed."""
    given = sample_image(side_px)
    prompt = {"prompt": "a green square in the middle of a yellow background"}
    half, quarter = side_px // 2, side_px // 4
    box = {"box": {"x": quarter, "y": quarter, "width": half, "height": half}}
    return {
        "text2img": ("flux_generate", prompt),
        "kontext": ("flux_edit", prompt | {"images": [given]}),
        "fill": ("flux_fill", prompt | {"image": given, "mask": box}),
        "control": ("flux_structural", prompt | {"image": given}),
        "redux": ("flux_variation", {"images": [given]}),
    }
