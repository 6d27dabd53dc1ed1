"""Small images of what is being drawn: latents -> RGB by a linear map, then WebP.

The map is measured for each VAE with a few images of its own making (least squares), so no
constants are needed and any VAE works. Knows nothing of jobs or steps.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch

PREVIEW_SIDE_PX = 256
_WEBP_QUALITY = 70
_CALIBRATION_IMAGES = 6
_CALIBRATION_SIDE_PX = 96
"""Together about the pixels of one 235 px image: milliseconds on a GPU, seconds on a CPU."""


@dataclass(frozen=True)
class LatentColours:
    """A linear map from scaled latents to colours."""

    weights: NDArray[np.float64]
    """(latent channels + 1, 3): the last row is the constant; colours are 0 to 1."""

    def image(self, latents: NDArray[np.float32]) -> Image.Image:
        """Return the RGB image of (channels, height, width) latents, one pixel for each place."""
        channels = np.moveaxis(latents, 0, -1)
        colours = channels @ self.weights[:-1] + self.weights[-1]
        return Image.fromarray((np.clip(colours, 0, 1) * 255).round().astype(np.uint8))


def calibrate(pipe: Any) -> LatentColours:
    """Measure the map of a pipeline's VAE: encode a few images and fit their colours."""
    import torch

    vae = pipe.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    images = _calibration_images(factor)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        batch = batch.to(device=pipe._execution_device, dtype=vae.dtype)  # noqa: SLF001
        latents = vae.encode(batch).latent_dist.mode()
    if not _is_normalised_by_batch(vae):
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    rows = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    count, side = len(images), _CALIBRATION_SIDE_PX // factor
    blocks = images.reshape(count, side, factor, side, factor, 3)
    colours = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(-1, 3)
    return fit_colours(rows, colours)


def fit_colours(latents: NDArray[np.float64], colours: NDArray[np.float64]) -> LatentColours:
    """Return the least-squares map from (n, channels) latents to (n, 3) colours."""
    rows = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(rows, colours)
    return LatentColours(weights)


def _calibration_images(factor: int) -> NDArray[np.float32]:
    """Return (count, side, side, 3) from 0 to 1: patches of flat colour, softened by ramps."""
    random = np.random.default_rng(0)
    side = _CALIBRATION_SIDE_PX
    patch = 2 * factor
    shape = (_CALIBRATION_IMAGES, -(-side // patch), -(-side // patch), 3)
    patches = random.random(shape).repeat(patch, axis=1).repeat(patch, axis=2)
    patches = patches[:, :side, :side]
    across = np.linspace(0, 1, side)[None, None, :, None]
    down = np.linspace(0, 1, side)[None, :, None, None]
    start, right, bottom = random.random((3, _CALIBRATION_IMAGES, 1, 1, 3))
    ramps = start + (right - start) * across + (bottom - start) * down
    images: NDArray[np.float32] = (0.5 * patches + 0.5 * ramps).astype(np.float32)
    return images


def unpack(pipe: Any, latents: "torch.Tensor", width: int, height: int) -> NDArray[np.float32]:
    """Return the first image of packed (n, tokens, 4 * channels) latents.

    As (channels, height / VAE factor, width / VAE factor), for any VAE, and as `calibrate` saw
    them: scaled in FLUX.1, as the VAE encodes in FLUX.2.
    """
    if _is_normalised_by_batch(pipe.vae):
        first = _without_normalisation(pipe, latents[:1], width, height)
    else:
        factor = pipe.vae_scale_factor
        first = pipe._unpack_latents(latents[:1], height, width, factor)  # noqa: SLF001
    array: NDArray[np.float32] = first[0].float().cpu().numpy()
    return array


def _is_normalised_by_batch(vae: Any) -> bool:
    """Whether the statistics of FLUX.2's VAE take the place of a shift and a scale."""
    return hasattr(vae, "bn")


def _without_normalisation(
    pipe: Any, latents: "torch.Tensor", width: int, height: int
) -> "torch.Tensor":
    """Undo what FLUX.2 does between VAE and transformer, as its pipelines do before decoding.

    Tokens come row by row, each with the four latents of a square of 2x2.
    """
    import torch

    vae, side = pipe.vae, 2 * pipe.vae_scale_factor
    rows, columns = height // side, width // side
    grid = latents.float().cpu().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    mean = vae.bn.running_mean.float().cpu().view(1, -1, 1, 1)
    variance = vae.bn.running_var.float().cpu().view(1, -1, 1, 1)
    grid = grid * torch.sqrt(variance + vae.config.batch_norm_eps) + mean
    unpatched: torch.Tensor = pipe._unpatchify_latents(grid)  # noqa: SLF001
    return unpatched


def encode_webp(small: Image.Image, width: int, height: int) -> tuple[bytes, tuple[int, int]]:
    """Return WebP bytes and their (width, height): the image's shape, at most 256 px long."""
    scale = min(1.0, PREVIEW_SIDE_PX / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = io.BytesIO()
    # Method 0 takes a third of the default's time for a tenth more bytes; the step waits for it.
    small.resize(size, Image.Resampling.BICUBIC).save(
        buffer, "WEBP", quality=_WEBP_QUALITY, method=0
    )
    return buffer.getvalue(), size
