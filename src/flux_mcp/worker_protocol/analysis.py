"""The messages between the server and the process that looks at images; headers of frames.

Each request is answered once, in order. The image of a request is its blob `image`, a PNG in RGB.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flux_mcp.requests.mask_arguments import Pick
from flux_mcp.worker_protocol.messages import ErrorInfo

MAX_CAPTION_CHARS = 200


class _AnalysisModel(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, protected_namespaces=()
    )


class AnalysisModel(_AnalysisModel):
    """A model that looks at images, and its files."""

    model_class: str
    """Of transformers."""
    folder: Path
    outlines: "AnalysisModel | None" = None
    """Turns boxes into outlines, where the model itself finds boxes only."""


# --- requests ------------------------------------------------------------------------------------


class FindMessage(_AnalysisModel):
    """Find what words say. Answered by `Found`."""

    type: Literal["find"] = "find"
    model: AnalysisModel
    words: str
    threshold: float = Field(gt=0, lt=1)
    """How sure the model must be."""
    pick: Pick = "all"


class DepthMessage(_AnalysisModel):
    """Estimate the depth of an image. Answered by `Map`: what is near is bright."""

    type: Literal["depth"] = "depth"
    model: AnalysisModel


class CaptionMessage(_AnalysisModel):
    """Say in a sentence what an image shows. Answered by `Caption`."""

    type: Literal["caption"] = "caption"
    model: AnalysisModel


AnalysisRequest = Annotated[
    FindMessage | DepthMessage | CaptionMessage, Field(discriminator="type")
]


@cache
def _requests() -> TypeAdapter[AnalysisRequest]:
    return TypeAdapter(AnalysisRequest)


def parse_request(header: dict[str, Any]) -> AnalysisRequest:
    """Read a request's header.

    Raises:
        pydantic.ValidationError: it is no message of this protocol.
    """
    return _requests().validate_python(header)


# --- answers -------------------------------------------------------------------------------------


class Region(_AnalysisModel):
    """One thing that was found."""

    left: int
    top: int
    right: int
    """Behind its last pixel; so is `bottom`."""
    bottom: int
    pixels: int
    score: float
    """How sure the model is, from 0 to 1."""


class Found(_AnalysisModel):
    """Blob `mask`: L, 8 bits, row by row, in the image's size: 255 in the regions of `picked`."""

    type: Literal["found"] = "found"
    regions: tuple[Region, ...]
    """From left to right."""
    picked: tuple[int, ...]
    """Which of them the mask holds, from 0; none where there is none of the number picked."""
    surest: float
    """The highest score anywhere, also below the threshold."""


class Map(_AnalysisModel):
    """Blob `map`: L, 8 bits, row by row, in the image's size."""

    type: Literal["map"] = "map"


class Caption(_AnalysisModel):
    """What the model says of the image."""

    type: Literal["caption"] = "caption"
    text: str = Field(max_length=MAX_CAPTION_CHARS)
    """One line, without control characters; empty where the model says nothing."""


class NotDone(_AnalysisModel):
    """The request cannot be done; the process is fine."""

    type: Literal["not_done"] = "not_done"
    error: ErrorInfo


AnalysisAnswer = Annotated[Found | Map | Caption | NotDone, Field(discriminator="type")]


@cache
def _answers() -> TypeAdapter[AnalysisAnswer]:
    return TypeAdapter(AnalysisAnswer)


def parse_answer(header: dict[str, Any]) -> AnalysisAnswer:
    """Read an answer's header.

    Raises:
        pydantic.ValidationError: it is no message of this protocol.
    """
    return _answers().validate_python(header)
