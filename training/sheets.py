"""Contact sheets of examples, with captions."""

import textwrap
from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.answers import Panel

MOST_PANELS = 24
COLUMNS = 9
IMAGE_PX = 128
GAP_PX = 8
CAPTION_LINES = 4
LINE_PX = 13
LETTER_PX = 6
"""About the width of a letter of Pillow's own font at its own size."""
PAPER, INK = (255, 255, 255), (30, 30, 30)
RIGHT, WRONG = (40, 160, 60), (222, 38, 38)


def sheet(panels: Sequence[Panel], seed: int, title: str = "") -> Image.Image:
    """Put a random sample on one sheet; a green line marks right images, a red one wrong ones.

    The sample depends on the seed only, never on the results.
    """
    lot = Random(seed).sample(range(len(panels)), min(MOST_PANELS, len(panels)))
    chosen = [panels[i] for i in sorted(lot)]
    most = max((len(panel.images) for panel in chosen), default=1)
    columns = max(1, COLUMNS // most)
    cell_width = most * IMAGE_PX + (most - 1) * 2 + GAP_PX
    cell_height = IMAGE_PX + 4 + CAPTION_LINES * LINE_PX + GAP_PX
    top = LINE_PX + GAP_PX
    rows = -(-len(chosen) // columns)
    paper = Image.new("RGB", (GAP_PX + columns * cell_width, top + rows * cell_height), PAPER)
    pen = ImageDraw.Draw(paper)
    font = ImageFont.load_default()
    pen.text((GAP_PX, 2), title, INK, font)
    for index, panel in enumerate(chosen):
        x = GAP_PX + index % columns * cell_width
        y = top + index // columns * cell_height
        for image in panel.images:
            paper.paste(_fitted(Image.fromarray(image)), (x, y))
            x += IMAGE_PX + 2
        x = GAP_PX + index % columns * cell_width
        y += IMAGE_PX + 1
        pen.line((x, y, x + cell_width - GAP_PX, y), RIGHT if panel.right else WRONG, 2)
        lines = textwrap.wrap(panel.caption, (cell_width - GAP_PX) // LETTER_PX)[:CAPTION_LINES]
        pen.multiline_text((x, y + 2), "\n".join(lines), INK, font, spacing=1)
    return paper


def _fitted(image: Image.Image) -> Image.Image:
    """Return a square with the whole image in it, never enlarged between pixels."""
    scale = IMAGE_PX / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    square = Image.fromarray(np.full((IMAGE_PX, IMAGE_PX, 3), 225, np.uint8))
    corner = ((IMAGE_PX - size[0]) // 2, (IMAGE_PX - size[1]) // 2)
    square.paste(image.resize((size[0], size[1]), Image.Resampling.BOX), corner)
    return square
