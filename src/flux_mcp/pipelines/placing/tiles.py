"""A VAE that works in tiles for as long as a plan asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_STATE = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
"""Attributes of AutoencoderKL and AutoencoderKLFlux2 (diffusers 0.42.1); neither takes them as
arguments. Tiles overlap by a quarter and are blended; a picture no larger than one is not cut."""


@contextmanager
def tiled(vae: Any, tile_px: int | None) -> Iterator[None]:
    """Let a VAE decode and encode in tiles; afterwards it is as it was.

    Args:
        vae: The model, which other pipelines share.
        tile_px: Side of a tile in pixels of the picture; `None` changes nothing.
    """
    if tile_px is None:
        yield
        return
    before = {name: getattr(vae, name) for name in _STATE}
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size = tile_px
    vae.tile_latent_min_size = tile_px // pixels_per_latent
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
