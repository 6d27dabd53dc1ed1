"""FLUX.2: the calls of Flux2KleinPipeline and Flux2Pipeline (diffusers 0.42.1), and their latents.

Both draw and edit with one transformer. Their VAE has a batch normalisation where FLUX.1's has a
shift and a scale.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import InvalidRequestError
from flux_mcp.pipelines.families.adapter import Adapter
from flux_mcp.pipelines.families.family import FamilyPipelines
from flux_mcp.requests.render_plan import RenderPlan


class Flux2Text2Img(Adapter):
    """An image from words."""


class Flux2Edit(Adapter):
    """An image from words and one or several references, in the order the prompt counts them."""

    def own_arguments(self, _count: int) -> dict[str, Any]:
        """Add the references, each in a size that the pipeline leaves as it is.

        Raises:
            InvalidRequestError: there is none.
        """
        references = [item.image for item in self.images if item.role == "reference"]
        if not references:
            raise InvalidRequestError(f"{self.plan.kind} needs a reference.")
        return {"image": [self.as_reference(image) for image in references]}


def _steered_from(plan: RenderPlan, pipe: Any) -> str | None:
    """Return the empty prompt for klein's base models where guidance is above 1.

    They compare each step with it. Distilled models, and dev, take guidance as a number or not at
    all.
    """
    if plan.negative_prompt is not None:
        return plan.negative_prompt
    compares = not pipe.config.get("is_distilled", True) and plan.guidance > 1
    return "" if compares else None


def _encode_image(vae: Any, images: Any) -> Any:
    return vae.encode(images).latent_dist.mode()


def _unpack_latents(pipe: Any, latents: Any, width: int, height: int) -> NDArray[np.float32]:
    """Undo the normalisation between VAE and transformer, as the pipelines do before decoding.

    Tokens come row by row, each with the four latents of a square of 2x2.
    """
    import torch

    vae, side = pipe.vae, 2 * pipe.vae_scale_factor
    rows, columns = height // side, width // side
    grid = latents[:1].float().cpu().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    mean = vae.bn.running_mean.float().cpu().view(1, -1, 1, 1)
    variance = vae.bn.running_var.float().cpu().view(1, -1, 1, 1)
    grid = grid * torch.sqrt(variance + vae.config.batch_norm_eps) + mean
    array: NDArray[np.float32] = pipe._unpatchify_latents(grid)[0].numpy()  # noqa: SLF001
    return array


FAMILY = FamilyPipelines(
    adapters=MappingProxyType({"text2img": Flux2Text2Img, "kontext": Flux2Edit}),
    steered_from=_steered_from,
    encode_image=_encode_image,
    unpack_latents=_unpack_latents,
)
