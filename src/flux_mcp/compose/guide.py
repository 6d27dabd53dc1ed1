"""The prompting guide: `guide.md` beside this file, whole or for one model family."""

import re
from pathlib import Path

from flux_mcp.compose.problems import nearest
from flux_mcp.errors import InvalidRequestError

GUIDE = Path(__file__).with_name("guide.md")

_FAMILY = re.compile(r"^## (?P<title>.+?) \{(?P<family>[a-z0-9-]+)\}$", re.MULTILINE)


def families() -> tuple[str, ...]:
    """Return the families the guide has a section for."""
    return tuple(found["family"] for found in _FAMILY.finditer(_text()))


def guide(family: str | None = None) -> str:
    """Return the guide as Markdown: the general part, then the sections of the families.

    Args:
        family: One of `families()`, for its section only; `None` for all.

    Raises:
        InvalidRequestError: there is no such family.
    """
    known = families()
    if family is not None and family not in known:
        raise InvalidRequestError(
            f"The guide has no family '{family}'.", nearest(family, known, what="Families")
        )
    sections = re.split(r"(?m)^(?=## )", _text())
    kept = []
    for section in sections:
        found = _FAMILY.match(section)
        if found is None or family in (None, found["family"]):
            kept.append(_FAMILY.sub(r"## \g<title>", section))
    return "".join(kept).strip() + "\n"


def _text() -> str:
    return GUIDE.read_text(encoding="utf-8")
