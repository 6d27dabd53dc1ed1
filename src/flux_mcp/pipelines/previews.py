"""Small images of what is being drawn: latents -> RGB by a linear map, then WebP.

The map is measured for each VAE with a few made-up images (least squares): it needs no constants
and works for any VAE. How a family packs and scales its latents is said by its module in families/.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.families.family import family_of

PREVIEW_SIDE_PX = 256
_WEBP_QUALITY = 70
_CALIBRATION_IMAGES = 6
_CALIBRATION_SIDE_PX = 96
"""Together about the pixels of one 235 px image: milliseconds on a GPU, seconds on a CPU."""


Unpack = Callable[[Any, Any, int, int], NDArray[np.float32]]
"""`unpack_latents` of a family (families/family.py)."""


@dataclass(frozen=True)
class LatentColours:
    """A linear map from the latents of a VAE to colours."""

    weights: NDArray[np.float64]
    """(latent channels + 1, 3): the last row is the constant; colours are 0 to 1."""
    unpack: Unpack

    def image(self, pipe: Any, latents: Any, width: int, height: int) -> Image.Image:
        """Return a small RGB image of what packed latents show, one pixel for each of their places.

        Args:
            pipe: The pipeline that draws.
            latents: Its latents between two steps, (n, tokens, 4 * channels); the first image's
                are shown.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
        """
        channels = np.moveaxis(self.unpack(pipe, latents, width, height), 0, -1)
        colours = channels @ self.weights[:-1] + self.weights[-1]
        return Image.fromarray((np.clip(colours, 0, 1) * 255).round().astype(np.uint8))


def calibrate(spec: ModelSpec, pipe: Any) -> LatentColours:
    """Measure the map of a pipeline's VAE: encode a few images and fit their colours."""
    import torch

    vae = pipe.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    images = _calibration_images(factor)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        batch = batch.to(device=pipe._execution_device, dtype=vae.dtype)  # noqa: SLF001
        latents = family_of(spec).encode_image(vae, batch)
    rows = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    count, side = len(images), _CALIBRATION_SIDE_PX // factor
    blocks = images.reshape(count, side, factor, side, factor, 3)
    colours = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(-1, 3)
    return fit_colours(rows, colours, family_of(spec).unpack_latents)


def fit_colours(
    latents: NDArray[np.float64], colours: NDArray[np.float64], unpack: Unpack
) -> LatentColours:
    """Return the least-squares map from (n, channels) latents to (n, 3) colours."""
    rows = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(rows, colours)
    return LatentColours(weights, unpack)


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
