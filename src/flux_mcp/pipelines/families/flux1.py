"""One adapter for each kind: plan and images -> the arguments of the stock pipeline's call.

Knows what each diffusers 0.42.1 pipeline wants and where it must be held: sizes it would change,
images it would stretch, batches it would mix up. The passes themselves are drawing.py's.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flux_mcp.errors import (
    InternalError,
    InvalidImageError,
    InvalidRequestError,
    UnsupportedOptionError,
)
from flux_mcp.models.formats import format_of
from flux_mcp.models.registry import Kind
from flux_mcp.pipelines.families import flux1 as conditioning
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.pipelines.texts import PlanTexts, steered_from
from flux_mcp.requests.plan import InputRole, RenderPlan

REFERENCE_MULTIPLE_PX = 16
"""VAE factor 8 times packing 2: what FluxKontextPipeline cuts a reference's sides to."""

Pixels = NDArray[np.uint8]
Embeddings = dict[str, Any]
"""`prompt_embeds` (1, tokens, channels), `pooled_prompt_embeds` (1, channels), and with true CFG
the same two with `negative_` before them."""


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
    """What all kinds share: the prompt's embeddings, size, steps and guidance."""

    takes_negative_prompt = False

    def __init__(
        self,
        plan: RenderPlan,
        images: Sequence[PlanImage],
        resident: Resident,
        texts: PlanTexts,
    ) -> None:
        if plan.negative_prompt is not None and not self.takes_negative_prompt:
            raise UnsupportedOptionError(
                f"{plan.model} cannot use a negative prompt for {plan.kind}.",
                "Say in the prompt what should be there instead.",
            )
        self.plan = plan
        self.images = images
        self.resident = resident
        self.texts = texts

    def embeddings(self, prompt: str) -> Embeddings:
        """Return a prompt of the plan and what it steers away from, both encoded before."""
        encoded = self._on_device(prompt)
        if (away := steered_from(self.plan, self.resident)) is not None:
            negative = self._on_device(away)
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
        found = [picture.image for picture in self.images if picture.role == role]
        if len(found) != 1:
            raise InvalidRequestError(f"{self.plan.kind} needs one {role}, not {len(found)}.")
        return found[0]

    def fitted(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        """Cut and scale an image to the plan's size: the pipelines themselves would stretch it."""
        return ImageOps.fit(image, (self.plan.width, self.plan.height), method)

    def _on_device(self, text: str) -> Embeddings:
        device = self.resident.pipe._execution_device  # noqa: SLF001 - where hooks put the parts
        # In what the transformer works with, which the encoder need not. A copy on the CPU too:
        # what the cache holds must not be changed by a pipeline.
        dtype = compute_dtype(format_of(self.resident.spec.precision).compute)
        return {name: t.to(device, dtype, copy=True) for name, t in self.texts[text].items()}


class Text2ImgAdapter(Adapter):
    """FluxPipeline: an image from words."""

    takes_negative_prompt = True


class KontextAdapter(Adapter):
    """FluxKontextPipeline: an image changed as the prompt says."""

    takes_negative_prompt = True

    def own_arguments(self, _count: int) -> dict[str, Any]:
        """Add the reference, and keep the pipeline from changing the size that was asked for."""
        plan = self.plan
        reference = self.only("reference")
        size = reference_size(reference.width, reference.height, plan.width * plan.height)
        if size != reference.size:
            reference = reference.resize(size, Image.Resampling.LANCZOS)
        return {"image": reference, "max_area": plan.width * plan.height, "_auto_resize": False}


def reference_size(width: int, height: int, max_area: int) -> tuple[int, int]:
    """Return the size a reference is encoded at: its shape in multiples of 16, within `max_area`.

    Never enlarged beyond the rounding: a small reference has no more to tell than its pixels.
    """
    shrink = min(1.0, math.sqrt(max_area / (width * height)))
    multiple = REFERENCE_MULTIPLE_PX
    sides = [max(1, round(side * shrink / multiple)) for side in (width, height)]
    while sides[0] * sides[1] * multiple**2 > max_area and max(sides) > 1:
        sides[sides.index(max(sides))] -= 1
    return sides[0] * multiple, sides[1] * multiple


class FillAdapter(Adapter):
    """FluxFillPipeline: the masked part drawn again."""

    def own_arguments(self, count: int) -> dict[str, Any]:
        """Add image and mask, a copy for each seed: one would take the first seed's noise."""
        return {"image": [self._image] * count, "mask_image": [self._mask] * count}

    def finish(self, drawn: Pixels) -> Pixels:
        """Put the drawn part into the original: where the mask is 0, its pixels stay exactly."""
        return np.asarray(Image.composite(Image.fromarray(drawn), self._image, self._mask))

    @property
    def _image(self) -> Image.Image:
        return self.fitted(self.only("image"), Image.Resampling.LANCZOS)

    @property
    def _mask(self) -> Image.Image:
        # Bilinear does not ring: what is far from the mask stays 0.
        return self.fitted(self.only("mask"), Image.Resampling.BILINEAR)


class ControlAdapter(Adapter):
    """FluxControlPipeline: an image along edges or depth."""

    def own_arguments(self, _count: int) -> dict[str, Any]:
        """Add the structure image, made from an ordinary one where that is what was given."""
        if any(picture.role == "control" for picture in self.images):
            return {"control_image": self.fitted(self.only("control"), Image.Resampling.LANCZOS)}
        if self.plan.structure != "canny":
            raise UnsupportedOptionError(
                f"A {self.plan.structure} image cannot be made from an ordinary one here.",
                "Give one as control_image, or use structure 'canny'.",
            )
        # Edges are taken after scaling, as they are drawn: one pixel wide.
        image = self.fitted(self.only("image"), Image.Resampling.LANCZOS)
        return {"control_image": conditioning.canny(image)}


class ReduxAdapter(Adapter):
    """FluxPriorReduxPipeline, then FluxPipeline: an image like others."""

    def embeddings(self, prompt: str) -> Embeddings:
        """Return the prompt's tokens with the images' tokens behind them.

        The images' are strength * sum(weight * tokens) / sum(weight). With one image and
        strength 1 that is what the stock prior gives; with several, the prior's plain sum would
        grow with their number.
        """
        import torch

        encoded = super().embeddings(prompt)
        references = [picture for picture in self.images if picture.role == "reference"]
        total = sum(picture.weight for picture in references)
        if not references or not total > 0:
            raise InvalidRequestError("redux needs a reference with a weight above 0.")
        mixed: Any = 0
        for picture in references:
            mixed = mixed + (picture.weight / total) * self._tokens(picture.image)
        text = encoded["prompt_embeds"]
        mixed = (self.plan.strength * mixed).to(device=text.device, dtype=text.dtype)
        return encoded | {"prompt_embeds": torch.cat([text, mixed], dim=1)}

    def _tokens(self, image: Image.Image) -> Any:
        """Return (1, tokens, channels) of one image; 729 tokens in FLUX.1."""
        import torch

        prior = self.resident.prior
        if prior is None:
            raise InternalError(f"{self.plan.model} was loaded without its prior.")
        with torch.no_grad():
            states = prior.encode_image(image, prior._execution_device, 1)  # noqa: SLF001
            return prior.image_embedder(states).image_embeds


ADAPTERS: Mapping[Kind, type[Adapter]] = MappingProxyType(
    {
        "text2img": Text2ImgAdapter,
        "kontext": KontextAdapter,
        "fill": FillAdapter,
        "control": ControlAdapter,
        "redux": ReduxAdapter,
    }
)


CANNY_LOW = 50
CANNY_HIGH = 200
"""Thresholds the FLUX.1 canny weights were made for: `CannyImageEncoder(min_t=50, max_t=200)` in
black-forest-labs/flux, and the docstring of FluxControlPipeline in diffusers 0.42.1."""


def canny(picture: Image.Image) -> Image.Image:
    """Return the edges of an RGB image: RGB of the same size, white lines on black."""
    import cv2

    edges = cv2.Canny(np.asarray(picture.convert("RGB")), CANNY_LOW, CANNY_HIGH)
    return Image.fromarray(np.asarray(edges, dtype=np.uint8)).convert("RGB")
