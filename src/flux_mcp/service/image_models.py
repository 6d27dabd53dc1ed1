"""ImageModels: what models say of images: of those of a request, and of finished ones.

The models run in a process of their own (jobs/analysis.py). Every method blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from flux_mcp.errors import InternalError, NothingFoundError
from flux_mcp.images.decoding import InputImage, encode_image
from flux_mcp.jobs.analysis import AnalysisProcess
from flux_mcp.models.hub.helpers import InstalledHelper, require_helper, usable_helper
from flux_mcp.models.registry import Registry
from flux_mcp.requests.geometry import Rectangle
from flux_mcp.requests.mask_arguments import Pick, whole_mask
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.analysis import (
    AnalysisAnswer,
    AnalysisModel,
    AnalysisRequest,
    Caption,
    CaptionMessage,
    DepthMessage,
    FindMessage,
    Found,
    Region,
)

MAX_NAMED = 8
"""Of the things that were found, named one by one in a notice or a hint."""


@dataclass(frozen=True)
class FoundWords:
    """What words found in an image."""

    mask: Image.Image
    """L, of the image's size: 255 in what was picked."""
    box: Rectangle
    """What it touches."""
    notice: str


class ImageModels:
    """Asks the models that look at images.

    Args:
        settings: Where weights lie.
        registry: Its helpers are the models.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._process = AnalysisProcess(settings)

    def close(self) -> None:
        """End the process; what is asked afterwards is refused."""
        self._process.close()

    def find(
        self,
        image: InputImage,
        words: str,
        *,
        threshold: float | None,
        pick: Pick | None,
        for_demonstration: bool,
    ) -> FoundWords:
        """Find what words say in an RGB image.

        Args:
            image: Where.
            words: What.
            threshold: How sure the model must be; `None` for its own.
            pick: Which of what is found; `None` for all.
            for_demonstration: Whether the image is for the demonstration model.

        Raises:
            NothingFoundError: nothing, or not so many.
            WeightsMissingError: no model for it is on this disk.
            EngineError: the model cannot be used.
        """
        helper = require_helper(
            self._registry, "segmentation", self._settings, for_demonstration=for_demonstration
        )
        least = helper.spec.threshold if threshold is None else threshold
        if least is None:
            raise InternalError(f"{helper.spec.id} has no threshold.")
        message = FindMessage(
            model=_files(helper), words=words, threshold=least, pick="all" if pick is None else pick
        )
        found, blobs = self._ask(message, image)
        if not isinstance(found, Found):
            raise InternalError("Words were answered by something else than what they find.")
        model = helper.spec.title
        if not found.regions:
            lower = f"a lower threshold, or a box: {whole_mask(0.25, 0.25, 0.5, 0.5)}"
            raise NothingFoundError(
                f"{model} finds nothing in the image for '{words}': it is sure by "
                f"{found.surest:.2f} at most, and the threshold is {least:g}.",
                f"Give the plain name of a thing, {lower}.",
            )
        if not found.picked:
            raise NothingFoundError(
                f"pick is {pick}, and {model} finds {len(found.regions)} for '{words}'.",
                f"From left to right: {_named(found.regions)}.",
            )
        picked = [found.regions[one] for one in found.picked]
        taken = ""
        if len(found.regions) > 1 and pick is None:
            taken = " All are taken; pick takes one by its number, or the largest."
        elif len(picked) < len(found.regions):
            numbers = ", ".join(str(one + 1) for one in found.picked)
            taken = f" Taken: {numbers}."
        return FoundWords(
            _grey(image, blobs["mask"]),
            _around(picked),
            f"'{words}', found by {model} (threshold {least:g}), from left to right: "
            f"{_named(found.regions)}.{taken}",
        )

    def depth(self, image: InputImage, *, for_demonstration: bool) -> InputImage:
        """Return the depth of an RGB image, in RGB of its size: what is near is bright.

        Raises:
            WeightsMissingError: no model for it is on this disk.
            EngineError: the model cannot be used.
        """
        helper = require_helper(
            self._registry, "depth", self._settings, for_demonstration=for_demonstration
        )
        _, blobs = self._ask(DepthMessage(model=_files(helper)), image)
        notice = f"The depth of the image was estimated by {helper.spec.title}."
        return encode_image(_grey(image, blobs["map"]).convert("RGB"), notices=(notice,))

    def captioner(self) -> InstalledHelper | None:
        """Return the model that says what images show, if one can be used here.

        One for the demonstration's images alone is none: it knows no others.
        """
        return usable_helper(self._registry, "caption", self._settings, for_demonstration=False)

    def caption(self, captioner: InstalledHelper, image: InputImage) -> str:
        """Return what a model says that an RGB image shows: one line, perhaps empty.

        Raises:
            EngineError: the model cannot be used.
        """
        answer, _ = self._ask(CaptionMessage(model=_files(captioner)), image)
        if not isinstance(answer, Caption):
            raise InternalError("An image was answered by something else than a caption.")
        return answer.text

    def _ask(
        self, message: AnalysisRequest, image: InputImage
    ) -> tuple[AnalysisAnswer, Mapping[str, bytes]]:
        return self._process.ask(message, image.png)


def _files(helper: InstalledHelper) -> AnalysisModel:
    return AnalysisModel(
        model_class=helper.spec.model_class,
        folder=helper.folder,
        outlines=None if helper.needed is None else _files(helper.needed),
    )


def _grey(image: InputImage, pixels: bytes) -> Image.Image:
    return Image.frombytes("L", (image.width, image.height), pixels)


def _around(regions: list[Region]) -> Rectangle:
    left, top = min(one.left for one in regions), min(one.top for one in regions)
    right, bottom = max(one.right for one in regions), max(one.bottom for one in regions)
    return Rectangle(left, top, right - left, bottom - top)


def _named(regions: tuple[Region, ...]) -> str:
    named = [
        f"{number}. ({one.left}, {one.top}) to ({one.right}, {one.bottom}), sure {one.score:.2f}"
        for number, one in enumerate(regions[:MAX_NAMED], start=1)
    ]
    left = len(regions) - len(named)
    return "; ".join([*named, f"and {left} more"] if left else named)
