"""Overlays: a mask shown over its image, small, to be checked before anything is drawn."""

from PIL import Image, ImageChops, ImageFilter

from flux_mcp.requests.plan import GENERATED_FROM

TINT = (255, 0, 200)
"""Magenta: rare in images, and told from both light and dark."""
_TINT_SHARE = 0.45
_INNER_LINE, _OUTER_LINE = (255, 255, 255), (0, 0, 0)
"""Of the outline: one of them is seen on any image."""


def draw_overlay(image: Image.Image, mask: Image.Image, longest_px: int) -> Image.Image:
    """Return an image whose masked part is tinted and outlined; never enlarged.

    Args:
        image: RGB; it may be changed.
        mask: L, of the same size. Where it is partly white the tint is weaker; the outline is at
            what is generated again. A pixel of the overlay is masked if any of its own is: thin
            lines are seen as well.
        longest_px: The longer side of what is returned, at most.
    """
    scale = min(1.0, longest_px / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    hard = mask.point(lambda value: 255 if value >= GENERATED_FROM else 0)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        mask = mask.resize(size, Image.Resampling.BOX)
        hard = hard.resize(size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
    weight = ImageChops.lighter(mask, hard).point(lambda value: round(value * _TINT_SHARE))
    image.paste(TINT, mask=weight)
    image.paste(_INNER_LINE, mask=ImageChops.subtract(hard, hard.filter(ImageFilter.MinFilter(3))))
    image.paste(_OUTER_LINE, mask=ImageChops.subtract(hard.filter(ImageFilter.MaxFilter(3)), hard))
    return image
