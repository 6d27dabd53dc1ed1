"""Images in the terminal: the finished ones, and the preview of one that is being generated.

textual-image draws them. Its import asks the terminal what it can, so it is imported only where
images are to be shown, and before anything else is written.
"""

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from flux_mcp.cli.common import complain, console
from flux_mcp.settings.environment import all_variables

if TYPE_CHECKING:
    from rich.console import RenderableType

logger = logging.getLogger(__name__)

MOST_COLUMNS, MOST_PREVIEW_COLUMNS = 80, 40
"""Of the terminal, that an image takes."""
_PROGRAMS = frozenset({"iTerm.app", "WezTerm", "ghostty", "rio", "mintty", "contour", "vscode"})
_TERMS = ("xterm-kitty", "xterm-ghostty", "foot", "mlterm", "contour", "wezterm", "rio")
"""TERM_PROGRAM and TERM of terminals with pixels, in kitty's protocol or as sixels: from
arewesixelyet.com and sw.kovidgoyal.net/kitty/graphics-protocol. Others are not asked unless the
user does: what a terminal answers would be read as typed where it does not know the question."""


class TerminalImages:
    """Shows images on stdout. Made by `terminal_images`."""

    def __init__(self, drawn_by: ModuleType) -> None:
        self._drawn_by = drawn_by

    def show(self, paths: Iterable[Path]) -> None:
        """Print images, in pixels where the terminal can, else in coloured half cells."""
        out = console()
        columns = min(MOST_COLUMNS, out.width)
        try:
            for path in paths:
                image = self._drawn_by.Image(path, width=columns, height="auto")
                out.print(image, soft_wrap=False)
        except Exception as error:  # noqa: BLE001 - the images are made, whatever a terminal says
            complain(f"The terminal does not show images: {type(error).__name__}: {error}.")

    def preview(self, path: Path) -> "RenderableType | None":
        """Return a preview as coloured half cells, which can be printed again in their place.

        `None` where there is none yet. Pixels of a terminal would flicker.
        """
        from PIL import Image  # noqa: PLC0415 - few commands show one

        try:
            with Image.open(path, formats=("WEBP",)) as opened:
                opened.load()
        except OSError:
            return None
        drawn: RenderableType = self._drawn_by.HalfcellImage(
            opened, width=MOST_PREVIEW_COLUMNS, height="auto"
        )
        return drawn


def terminal_images(asked: bool | None) -> TerminalImages | None:  # noqa: FBT001 - a flag's value
    """Return what shows images on stdout; `None` where none are shown.

    Args:
        asked: By a flag; `None` for where the terminal is known to have pixels.
    """
    if not _shows_images(asked):
        return None
    try:
        from textual_image import renderable  # noqa: PLC0415 - asks the terminal
    except Exception as error:  # noqa: BLE001 - a terminal that answers oddly stops no command
        logger.info("the terminal does not show images", extra={"reason": str(error)})
        return None
    return TerminalImages(renderable)


def _shows_images(asked: bool | None) -> bool:  # noqa: FBT001 - as above
    if asked is False or not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    if not os.get_terminal_size(sys.stdout.fileno()).columns:
        return False  # as programs make them that only record what is written
    if asked:
        return True
    environment = all_variables()
    # Inside tmux and screen, pixels need settings of theirs.
    if "TMUX" in environment or "STY" in environment:
        return False
    term = environment.get("TERM", "")
    return environment.get("TERM_PROGRAM") in _PROGRAMS or term.startswith(_TERMS)
