"""What the adapters of all families share: decoded inputs, embeddings, size, steps and guidance.

An adapter turns a plan and its images into the arguments of a stock pipeline's call. It keeps the
pipelines of diffusers 0.42.1 from changing sizes that were asked for, stretching images and mixing
up batches. The passes themselves are run by engine.py.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flux_mcp.errors import InvalidImageError, InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.formats import format_of
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.requests.plan import InputRole, RenderPlan

REFERENCE_MULTIPLE_PX = 16
"""VAE factor 8 times packing 2: what the pipelines cut a reference's sides to."""

Pixels = NDArray[np.uint8]
Embeddings = dict[str, Any]
"""By the pipelines' arguments: `prompt_embeds` (1, tokens, channels); in FLUX.1
`pooled_prompt_embeds` (1, channels) too; with true CFG the same with `negative_` before them."""


class EncodedTexts(Protocol):
    """The embeddings of a plan's texts."""

    @property
    def negative(self) -> str | None:
        """The text that the plan is steered away from, if any."""
        ...

    def __getitem__(self, text: str, /) -> Mapping[str, Any]:
        """Return the embeddings of a text, on the CPU; not to be changed."""
        ...


@dataclass(frozen=True)
class PlanImage:
    """An input of the plan, decoded."""

    role: InputRole
    image: Image.Image
    """RGB; L for a mask."""
    weight: float


def open_images(plan: RenderPlan, blobs: Mapping[str, bytes]) -> tuple[PlanImage, ...]:
    """Decode the plan's inputs in their order.

    Raises:
        InvalidImageError: an image is missing or cannot be read.
    """
    return tuple(
        PlanImage(item.role, _open(blobs.get(item.sha256), item.role), item.weight)
        for item in plan.inputs
    )


def _open(data: bytes | None, role: InputRole) -> Image.Image:
    if data is None:
        raise InvalidImageError(f"The {role} image did not reach the worker.")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            return opened.convert("L" if role == "mask" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidImageError(f"The {role} image cannot be read: {error}.") from error


class Adapter:
    """The call of one kind's pipeline, and what all kinds have in common.

    Args:
        plan: What is drawn.
        images: Its inputs, decoded.
        resident: The pipeline that draws it.
        texts: Its texts; looked up when `embeddings` is called.

    Raises:
        UnsupportedOptionError: it has a negative prompt, which this kind's pipeline does not take.
    """

    def __init__(
        self,
        plan: RenderPlan,
        images: Sequence[PlanImage],
        resident: Resident,
        texts: EncodedTexts,
    ) -> None:
        family = resident.spec.family_spec
        if plan.negative_prompt is not None and plan.kind not in family.negative_prompt_kinds:
            raise UnsupportedOptionError(
                f"{plan.model} cannot use a negative prompt for {plan.kind}.",
                "Say in the prompt what should be there instead.",
            )
        self.plan = plan
        self.images = images
        self.resident = resident
        self.texts = texts

    def embeddings(self, prompt: str) -> Embeddings:
        """Return the embeddings of a prompt of the plan, and of the one it is steered away from."""
        encoded = self._on_device(prompt)
        if self.texts.negative is not None:
            negative = self._on_device(self.texts.negative)
            encoded |= {f"negative_{name}": tensor for name, tensor in negative.items()}
        return encoded

    def arguments(self, count: int) -> dict[str, Any]:
        """Return the call's arguments for `count` images in one pass, without the prompts."""
        plan = self.plan
        common: dict[str, Any] = {
            "width": plan.width,
            "height": plan.height,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
            "max_sequence_length": plan.max_sequence_length,
        }
        if plan.negative_prompt is not None:
            common["true_cfg_scale"] = plan.true_cfg_scale
        return common | self.own_arguments(count)

    def own_arguments(self, _count: int) -> dict[str, Any]:
        """Return what only this kind's call has."""
        return {}

    def finish(self, drawn: Pixels) -> Pixels:
        """Turn what the pipeline drew, (height, width, 3), into the image."""
        return drawn

    def only(self, role: InputRole) -> Image.Image:
        """Return the plan's one image of a role.

        Raises:
            InvalidRequestError: there is none, or more than one.
        """
        found = [item.image for item in self.images if item.role == role]
        if len(found) != 1:
            raise InvalidRequestError(f"{self.plan.kind} needs one {role}, not {len(found)}.")
        return found[0]

    def fitted(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        """Cut and scale an image to the plan's size: the pipelines themselves would stretch it."""
        return ImageOps.fit(image, (self.plan.width, self.plan.height), method)

    def _on_device(self, text: str) -> Embeddings:
        device = self.resident.pipe._execution_device  # noqa: SLF001 - where hooks put the parts
        # In what the transformer computes in, which may not be the encoder's. A copy on the CPU
        # too: a pipeline must not change what the cache keeps.
        dtype = compute_dtype(format_of(self.resident.spec.precision).compute)
        return {name: t.to(device, dtype, copy=True) for name, t in self.texts[text].items()}


def reference_size(width: int, height: int, max_area: int) -> tuple[int, int]:
    """Return the size a reference is encoded at, in pixels.

    Its shape in multiples of 16, within `max_area`. Never enlarged beyond the rounding: a small
    reference has no more to tell than its pixels.
    """
    shrink = min(1.0, math.sqrt(max_area / (width * height)))
    multiple = REFERENCE_MULTIPLE_PX
    sides = [max(1, round(side * shrink / multiple)) for side in (width, height)]
    while sides[0] * sides[1] * multiple**2 > max_area and max(sides) > 1:
        sides[sides.index(max(sides))] -= 1
    return sides[0] * multiple, sides[1] * multiple
