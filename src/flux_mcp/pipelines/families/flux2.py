"""Adapters of FLUX.2: Flux2KleinPipeline and Flux2Pipeline draw and edit with one transformer.

Knows what diffusers 0.42.1 wants of references; prompts are encoded by texts.py.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PIL import Image

from flux_mcp.errors import InvalidImageError, InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.registry import Kind, ModelSpec
from flux_mcp.pipelines.families.flux1 import ADAPTERS, Adapter, reference_size

REFERENCE_MAX_PIXELS = 1024 * 1024
REFERENCE_MIN_SIDE_PX = 64
REFERENCE_MAX_RATIO = 8
"""What Flux2ImageProcessor.check_image_input takes; a larger reference the pipeline would scale
itself, and cut (diffusers 0.42.1)."""


class Flux2Text2Img(Adapter):
    """An image from words."""


class Flux2Edit(Adapter):
    """An image from words and one or several references, in the order the prompt counts them."""

    def own_arguments(self, _count: int) -> dict[str, Any]:
        """Add the references, each in a size that the pipeline leaves as it is.

        Raises:
            InvalidRequestError: there is none.
            InvalidImageError: one is too small or too narrow.
        """
        references = [item.image for item in self.images if item.role == "reference"]
        if not references:
            raise InvalidRequestError(f"{self.plan.kind} needs a reference.")
        return {"image": [_as_reference(image) for image in references]}


def _as_reference(image: Image.Image) -> Image.Image:
    size = reference_size(image.width, image.height, REFERENCE_MAX_PIXELS)
    if min(size) < REFERENCE_MIN_SIDE_PX or max(size) > REFERENCE_MAX_RATIO * min(size):
        raise InvalidImageError(
            f"A reference of {image.width}x{image.height} is too small or too narrow for FLUX.2.",
            f"Give one of at least {REFERENCE_MIN_SIDE_PX} px a side, "
            f"at most {REFERENCE_MAX_RATIO} times as long as wide.",
        )
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


_BY_FAMILY: Mapping[str, Mapping[Kind, type[Adapter]]] = MappingProxyType(
    {
        "flux1": ADAPTERS,
        "micro": ADAPTERS,
        "flux2": MappingProxyType({"text2img": Flux2Text2Img, "kontext": Flux2Edit}),
    }
)


def adapter_for(spec: ModelSpec) -> type[Adapter]:
    """Return what draws a row's kind with its family.

    Raises:
        UnsupportedOptionError: the family has no such kind.
    """
    kinds = _BY_FAMILY[spec.family]
    if spec.kind not in kinds:
        raise UnsupportedOptionError(
            f"{spec.id} cannot draw {spec.kind}: its family has {', '.join(kinds)}.",
            "Choose another model for this.",
        )
    return kinds[spec.kind]
