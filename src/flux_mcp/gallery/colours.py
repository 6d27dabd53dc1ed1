"""The main colours of an image in words, for models that are shown no image."""

from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image

from flux_mcp.errors import StorageError
from flux_mcp.gallery.pngs import UNREADABLE

NAMED: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("black", (0, 0, 0)),
    ("grey", (128, 128, 128)),
    ("light grey", (211, 211, 211)),
    ("white", (255, 255, 255)),
    ("red", (255, 0, 0)),
    ("dark red", (139, 0, 0)),
    ("orange", (255, 165, 0)),
    ("brown", (139, 69, 19)),
    ("beige", (245, 245, 220)),
    ("yellow", (255, 255, 0)),
    ("green", (0, 128, 0)),
    ("light green", (144, 238, 144)),
    ("cyan", (0, 255, 255)),
    ("teal", (0, 128, 128)),
    ("light blue", (173, 216, 230)),
    ("blue", (0, 0, 255)),
    ("dark blue", (0, 0, 139)),
    ("purple", (128, 0, 128)),
    ("magenta", (255, 0, 255)),
    ("pink", (255, 192, 203)),
)
"""Names of CSS and their values (W3C, CSS Color Module Level 4, section 6.1); `brown` is there
saddlebrown, as its brown is a red."""
MOST_NAMED = 3
_LEAST_PERCENT = 5
_SIDE_PX = 32
_STEP = 8
"""Shades that differ by less are one: a photograph has few more than names then."""


def main_colours(path: Path) -> tuple[tuple[str, int], ...]:
    """Return the colours that cover most of an image, and how many percent: the largest first.

    At most `MOST_NAMED`, and none that covers less than a twentieth.

    Args:
        path: An image file; its thumbnail is enough.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    except UNREADABLE as error:
        raise StorageError(
            f"{path} cannot be read.", "Restore the file, or generate it again."
        ) from error
    covered: Counter[str] = Counter()
    for count, shade in small.getcolors(_SIDE_PX**2) or ():
        assert isinstance(shade, tuple)  # noqa: S101 - an RGB image
        red, green, blue = (part // _STEP * _STEP + _STEP // 2 for part in shade)
        covered[_name(red, green, blue)] += count
    shares = [(name, round(100 * count / _SIDE_PX**2)) for name, count in covered.most_common()]
    return tuple(one for one in shares[:MOST_NAMED] if one[1] >= _LEAST_PERCENT)


@cache
def _name(red: int, green: int, blue: int) -> str:
    """Return the nearest name. Source of the distance: compuphase.com/cmetric.htm ("redmean")."""

    def distance(value: tuple[int, int, int]) -> float:
        mean = (red + value[0]) / 2
        return (
            (2 + mean / 256) * (red - value[0]) ** 2
            + 4 * (green - value[1]) ** 2
            + (2 + (255 - mean) / 256) * (blue - value[2]) ** 2
        )

    return min(NAMED, key=lambda one: distance(one[1]))[0]
