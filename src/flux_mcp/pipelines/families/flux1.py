"""FLUX.1 and micro: the calls of their six pipelines (diffusers 0.42.1), and their latents."""

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.errors import InternalError, InvalidRequestError, UnsupportedOptionError
from flux_mcp.pipelines.families.adapter import Adapter, Embeddings, side_by_side
from flux_mcp.pipelines.families.family import FamilyPipelines
from flux_mcp.requests.render_plan import RenderPlan

CANNY_LOW = 50
CANNY_HIGH = 200
"""Thresholds of the edges the FLUX.1 canny weights learned from: `CannyImageEncoder(min_t=50,
max_t=200)` in black-forest-labs/flux, and the docstring of FluxControlPipeline in diffusers
0.42.1. Only for plans that hold no edges yet."""


# --- kinds ---------------------------------------------------------------------------------------


class Text2ImgAdapter(Adapter):
    """FluxPipeline: an image from words."""


class Img2ImgAdapter(Adapter):
    """FluxImg2ImgPipeline: an image drawn again in part."""

    def own_arguments(self, numbers: range) -> dict[str, Any]:
        """Add the images, one for each seed: one for all would take the first seed's noise."""
        return {"image": self.drawn_from(numbers), "strength": self.plan.strength}


class KontextAdapter(Adapter):
    """FluxKontextPipeline: an image changed as the prompt says."""

    def own_arguments(self, _numbers: range) -> dict[str, Any]:
        """Add the reference, and keep the pipeline from changing the size that was asked for.

        Several are joined: the pipeline takes a list for a batch, one image for each result.
        """
        reference = self.as_reference(side_by_side(self.references()))
        max_area = self.plan.width * self.plan.height
        return {"image": reference, "max_area": max_area, "_auto_resize": False}


class FillAdapter(Adapter):
    """FluxFillPipeline: the masked part drawn again; it is pasted back elsewhere (images/)."""

    def own_arguments(self, numbers: range) -> dict[str, Any]:
        """Add image and mask, a copy for each seed: one would take the first seed's noise."""
        count = len(numbers)
        image = self.fitted(self.only("image"), Image.Resampling.LANCZOS)
        # Bilinear does not ring: what is far from the mask stays 0.
        mask = self.fitted(self.only("mask"), Image.Resampling.BILINEAR)
        return {"image": [image] * count, "mask_image": [mask] * count}


class ControlAdapter(Adapter):
    """FluxControlPipeline: an image along edges or depth."""

    def own_arguments(self, _numbers: range) -> dict[str, Any]:
        """Add the structure image.

        A plan that was stored before its edges were made with it (images/structure.py) has only
        the image: its edges are taken here as they were then, so that it draws the same pixels.
        """
        if any(item.role == "control" for item in self.images):
            return {"control_image": self.fitted(self.only("control"), Image.Resampling.LANCZOS)}
        if self.plan.structure != "canny":
            raise UnsupportedOptionError(
                f"The plan has no {self.plan.structure} map.",
                "Ask again with image or control_image.",
            )
        # Edges are taken after scaling, as they are drawn: one pixel wide.
        image = self.fitted(self.only("image"), Image.Resampling.LANCZOS)
        return {"control_image": canny(image)}


def canny(image: Image.Image) -> Image.Image:
    """Return the edges of an RGB image: RGB of the same size, white lines on black."""
    import cv2

    edges = cv2.Canny(np.asarray(image.convert("RGB")), CANNY_LOW, CANNY_HIGH)
    return Image.fromarray(np.asarray(edges, dtype=np.uint8)).convert("RGB")


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
        references = [item for item in self.images if item.role == "reference"]
        total = sum(item.weight for item in references)
        if not references or not total > 0:
            raise InvalidRequestError("redux needs a reference with a weight above 0.")
        mixed: Any = 0
        for item in references:
            mixed = mixed + (item.weight / total) * self._tokens(item.image)
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


# --- the family ----------------------------------------------------------------------------------


def _steered_from(plan: RenderPlan, _pipe: Any) -> str | None:
    return plan.negative_prompt


def _encode_image(vae: Any, images: Any) -> Any:
    latents = vae.encode(images).latent_dist.mode()
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def _unpack_latents(pipe: Any, latents: Any, width: int, height: int) -> NDArray[np.float32]:
    factor = pipe.vae_scale_factor
    first = pipe._unpack_latents(latents[:1], height, width, factor)  # noqa: SLF001
    array: NDArray[np.float32] = first[0].float().cpu().numpy()
    return array


FAMILY = FamilyPipelines(
    adapters=MappingProxyType(
        {
            "text2img": Text2ImgAdapter,
            "kontext": KontextAdapter,
            "fill": FillAdapter,
            "control": ControlAdapter,
            "redux": ReduxAdapter,
            "img2img": Img2ImgAdapter,
        }
    ),
    steered_from=_steered_from,
    encode_image=_encode_image,
    unpack_latents=_unpack_latents,
)
