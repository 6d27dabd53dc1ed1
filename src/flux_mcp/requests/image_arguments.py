"""Arguments that are images: references, alone or with a weight.

Several requests take them. What a reference refers to is found out in images/references.py; masks
are in mask_arguments.py.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from flux_mcp.requests.validation import MistakeError, Real, Request, brief, parse_json_text

_BASE64_OF: Mapping[str, str] = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "UklGR": "image/webp",
}
"""What base64 of each type of image begins with."""
_LEAST_BASE64 = 64
"""Shorter text is no image; a path may begin with /9j/."""


_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""What SQLite, which keeps requests, cannot hold."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(=\s*){0,2}")
UPLOAD_ID = r"upl_[0-9a-f]{32}"
"""A pattern for the id of an image that was brought in (gallery/uploads.py)."""
_FILE_OF_AN_IMAGE = re.compile(
    rf"((?:flux://images/)?(?:img_[A-Za-z0-9_-]{{1,64}}|{UPLOAD_ID}))\.png", re.IGNORECASE
)
"""An image by the name of its file, which is its id and the suffix."""


def _as_reference(given: object) -> object:
    """Accept an image by the name of its file, as base64 without `data:`, and `{"image": ...}`."""
    if isinstance(given, dict) and given.keys() == {"image"}:
        given = given["image"]
    if not isinstance(given, str):
        return given
    given = given.strip()
    if not given.isascii() and _HALF_A_CHARACTER.search(given):
        raise MistakeError(
            "contains half a character (a lone surrogate)", "Send whole Unicode characters."
        )
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
        description="A gallery image id or the beginning of one, a flux://images/{id} URI, "
        "'latest' (your newest image; 'latest:NAME' that of a session), an absolute path inside an "
        "allowed folder, 'newest in FOLDER' for one of these, 'clipboard' where the setting allows "
        "it, or a data: URI.",
        json_schema_extra=brief(
            "Gallery id or its beginning, 'latest', absolute path, 'newest in FOLDER', 'clipboard' "
            "or data: URI."
        ),
    ),
]


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
