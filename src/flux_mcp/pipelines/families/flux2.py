"""FLUX.2: the calls of Flux2KleinPipeline and Flux2Pipeline (diffusers 0.42.1), and their latents.

Both draw and edit with one transformer, and image to image as well: diffusers has no pipeline for
that, so the latents to begin with and the steps that are left are made here. Their VAE has a batch
normalisation where FLUX.1's has a shift and a scale.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_mcp.models.formats import format_of
from flux_mcp.pipelines.families.adapter import Adapter
from flux_mcp.pipelines.families.family import FamilyPipelines
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.requests.render_plan import RenderPlan


class Flux2Text2Img(Adapter):
    """An image from words."""


class Flux2Edit(Adapter):
    """An image from words and one or several references, in the order the prompt counts them."""

    def own_arguments(self, _numbers: range) -> dict[str, Any]:
        """Add the references, each in a size that the pipeline leaves as it is.

        Raises:
            InvalidRequestError: there is none.
        """
        return {"image": [self.as_reference(image) for image in self.references()]}


class Flux2Img2Img(Adapter):
    """An image drawn again in part, as FluxImg2ImgPipeline does it for FLUX.1."""

    def own_arguments(self, numbers: range) -> dict[str, Any]:
        """Add the images' latents with the noise of the first step that is drawn, and the steps.

        The noise of a seed is what text2img begins with: at strength 1 the pixels are the same.
        """
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        plan, pipe = self.plan, self.resident.pipe
        device = pipe._execution_device  # noqa: SLF001 - where hooks put the parts
        images = pipe.image_processor.preprocess(
            self.drawn_from(numbers), height=plan.height, width=plan.width
        ).to(device=device, dtype=pipe.vae.dtype)
        with torch.no_grad():
            # One at a time: in a batch they would be rounded otherwise.
            latents = torch.cat(
                [pipe._encode_vae_image(one[None], generator=None) for one in images]  # noqa: SLF001
            )
        generators = [torch.Generator("cpu").manual_seed(plan.seeds[number]) for number in numbers]
        dtype = compute_dtype(format_of(self.resident.spec.precision).compute)
        noise = randn_tensor(latents.shape, generator=generators, device=device, dtype=dtype)
        sigmas = np.linspace(1.0, 1 / plan.steps, plan.steps)[plan.steps - plan.steps_drawn :]
        share = self._noise_share(sigmas, latents.shape[-2] * latents.shape[-1])
        return {
            "latents": share * noise + (1 - share) * latents.to(dtype),
            "sigmas": sigmas.tolist(),
        }

    def _noise_share(self, sigmas: NDArray[np.float64], tokens: int) -> float:
        """Return how much of what the first step begins with is noise, as its call will shift it.

        Args:
            sigmas: Of the steps that are drawn, before the shift.
            tokens: Of one image.
        """
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        scheduler = self.resident.pipe.scheduler
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=self.plan.steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=mu)
        return float(scheduler.sigmas[0])


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
    adapters=MappingProxyType(
        {"text2img": Flux2Text2Img, "kontext": Flux2Edit, "img2img": Flux2Img2Img}
    ),
    steered_from=_steered_from,
    encode_image=_encode_image,
    unpack_latents=_unpack_latents,
)
