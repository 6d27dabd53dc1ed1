"""Upscaling: finished images made larger, tile by tile.

Tiles overlap and are blended, so that no seam is seen; an image no larger than a tile is not cut.
The weights wait in host memory and are on the device only while they work: they are small, and
what draws needs its memory for more.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.errors import UnsupportedOptionError, WeightsInvalidError
from flux_mcp.models.file_hashes import FileHashes
from flux_mcp.models.registry import LANCZOS, Registry
from flux_mcp.models.upscalers import file_of_upscaler, sha256_of_weights
from flux_mcp.pipelines.device import Device, free_caches
from flux_mcp.pipelines.families.adapter import Pixels
from flux_mcp.pipelines.loading.esrgan import load_own_upscaler
from flux_mcp.pipelines.memory.store import PartStore
from flux_mcp.pipelines.steps import Reporter
from flux_mcp.requests.geometry import Size, tile_starts, tiles_of
from flux_mcp.requests.render_plan import PlanUpscale
from flux_mcp.settings.settings import Settings

WORKING_BYTES_PER_PIXEL = 24 * 2**10
"""What a tile takes beside weights, by its pixels before it is made larger: 1.6 GB at 256x256. On a
CPU, in fp32, swin2sr-x2 took 16 KiB and an ESRGAN of 23 blocks that makes 4 of 1 took 13 KiB
(random weights, 128x128, growth of the process's peak; 2026-12-01)."""
_WINDOW_PX = 8
"""Sides that Swin2SR takes are multiples of its windows; overlaps are as well, so that windows lie
in a tile as they lie in the whole image."""

Colours = NDArray[np.float32]
"""(height, width, 3) from 0 to 1."""


class LoadedUpscaler(Protocol):
    """A model that makes a tile larger."""

    @property
    def factor(self) -> int:
        """Of one pass."""
        ...

    @property
    def module(self) -> Any:
        """A module of torch, which is moved."""
        ...

    def __call__(self, tile: Any) -> Any:
        """Return (1, 3, height, width) from 0 to 1, `factor` times as wide and high."""
        ...


class Upscalers:
    """Loads upscalers, keeps the one that was used last, and makes images larger.

    Args:
        registry: The rows of helpers.
        settings: Where weights lie.
        device: Where to work.
        store: What else is on the device: it makes room.
    """

    def __init__(
        self, registry: Registry, settings: Settings, device: Device, store: PartStore
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._device = device
        self._store = store
        self._hashes = FileHashes()
        self._loaded: tuple[str, LoadedUpscaler] | None = None
        """The SHA-256 of its file, and what was loaded of that."""

    def clear(self) -> None:
        """Forget what is loaded."""
        self._loaded = None

    def load(self, plan: PlanUpscale, report: Callable[[str], None]) -> None:
        """Load what a plan upscales with, so that it is refused before anything is drawn.

        Raises:
            WeightsMissingError: it is no longer on this disk.
            WeightsInvalidError: its file is another one than the plan's, or no such model.
            UnsupportedOptionError: it does not make images as much larger as the plan asks.
            ExtraMissingError: the package that loads it is missing.
        """
        if plan.upscaler == LANCZOS or (self._loaded and self._loaded[0] == plan.sha256):
            self._check_factor(plan)
            return
        report(f"loading {plan.upscaler}")
        self._loaded = None
        file = file_of_upscaler(self._registry, self._settings, plan.upscaler, plan.revision)
        if (found := sha256_of_weights(file, self._hashes)) != plan.sha256:
            raise WeightsInvalidError(
                f"The file of the upscaler '{plan.upscaler}' has changed since this was planned: "
                f"its SHA-256 is {found}.",
                "Submit the request again.",
            )
        is_helper = plan.upscaler in self._registry.helpers
        loaded: LoadedUpscaler = (
            _load_swin2sr(file.parent) if is_helper else load_own_upscaler(file)
        )
        self._loaded = (found, loaded)
        self._check_factor(plan)

    def _check_factor(self, plan: PlanUpscale) -> None:
        if plan.upscaler == LANCZOS or self._loaded is None:
            return
        factor = self._loaded[1].factor
        if factor not in (2, 4) or plan.model_factor not in (None, factor):
            raise UnsupportedOptionError(
                f"The upscaler '{plan.upscaler}' makes images {factor} times as wide and high; "
                "upscale takes one that makes them 2 or 4 times so.",
                "Name another in the setting 'upscaler'.",
            )

    @contextmanager
    def on_device(self, plan: PlanUpscale) -> Iterator[None]:
        """Have the weights of a plan's upscaler on the device inside the block."""
        if self._loaded is None or plan.upscaler == LANCZOS:
            yield
            return
        module = self._loaded[1].module
        weights = sum(one.numel() * one.element_size() for one in module.parameters())
        # What it takes is given back at the end: nothing else is loaded meanwhile.
        self._store.make_room(weights + WORKING_BYTES_PER_PIXEL * plan.tile_px**2, frozenset())
        module.to(self._device.name)
        try:
            yield
        finally:
            module.to("cpu")
            if self._device.kind != "cpu":
                free_caches(self._device)

    def upscale(self, image: Pixels, plan: PlanUpscale, watch: "TileWatch") -> Pixels:
        """Return an image made larger; inside `on_device`.

        Raises:
            JobCancelledError: the job was cancelled.
            WeightsInvalidError: the weights gave numbers that are no colours.
        """
        if plan.upscaler == LANCZOS or self._loaded is None:
            watch.begin(1)
            height, width, _ = image.shape
            size = (width * plan.factor, height * plan.factor)
            larger = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
            watch.end_tile()
            return np.asarray(larger)
        model = self._loaded[1]
        # A model of 4 for a plan of 2: each tile is halved again; of 2 for 4: twice.
        halved = max(1, model.factor // plan.factor)
        by, reached, sizes = model.factor // halved, 1, []
        while reached < plan.factor:
            sizes.append(Size(image.shape[1] * reached, image.shape[0] * reached))
            reached *= by
        watch.begin(sum(len(tiles_of(size, plan.tile_px, plan.overlap_px)) for size in sizes))
        run = partial(_run, model, self._device.name, halved)
        for _ in sizes:
            image = upscale_tiled(image, by, plan.tile_px, plan.overlap_px, run, watch.end_tile)
        return image


class TileWatch:
    """Counts tiles: progress, time left, cancellation.

    Args:
        reporter: Receives progress.
        check: Raises where the job was cancelled.
        steps_before: Steps of the job that were done before.
        planned: Tiles of each image that count as steps; 0 where they do not.
        images: How many images are upscaled.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        reporter: Reporter,
        check: Callable[[], None],
        *,
        steps_before: int,
        planned: int = 0,
        images: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._reporter = reporter
        self._check = check
        self._steps_before = steps_before
        self._planned = planned
        self._images = images
        self._now = clock
        self._started = clock()
        self._image = 0
        self._tiles = 1
        self._done = 0

    def begin(self, tiles: int) -> None:
        """Begin an image of so many tiles."""
        self._image += 1
        self._tiles, self._done = tiles, 0
        self._report()

    def end_tile(self) -> None:
        """Note that a tile is done."""
        self._done += 1
        self._report()

    def _report(self) -> None:
        self._check()
        done = (self._image - 1) + self._done / self._tiles
        left_s = None
        if done:
            left_s = (self._now() - self._started) / done * (self._images - done)
        which = f" of image {self._image} of {self._images}" if self._images > 1 else ""
        self._reporter.progress(
            "upscaling",
            # A file may need more tiles than were planned before it was loaded.
            self._steps_before + self._planned * self._done // self._tiles,
            eta_s=left_s,
            message=f"tile {min(self._done + 1, self._tiles)} of {self._tiles}{which}",
        )


# --- tiles ---------------------------------------------------------------------------------------


def upscale_tiled(
    image: Pixels,
    factor: int,
    tile_px: int,
    overlap_px: int,
    run: Callable[[Pixels], Colours],
    end_tile: Callable[[], None],
) -> Pixels:
    """Return an image made larger in tiles.

    Args:
        image: What is made larger.
        factor: What `run` makes of width and height.
        tile_px: Side of a tile, before.
        overlap_px: How far one reaches into the next, before.
        run: Makes a tile larger.
        end_tile: Called after each; may raise to stop.
    """
    height, width, _ = image.shape
    larger = np.empty((height * factor, width * factor, 3), np.uint8)
    rows = tile_starts(height, tile_px, overlap_px)
    above: Colours | None = None
    for number, y in enumerate(rows):
        band: Colours = np.zeros((min(tile_px, height - y) * factor, width * factor, 3), np.float32)
        for x in tile_starts(width, tile_px, overlap_px):
            tile = run(image[y : y + tile_px, x : x + tile_px])
            if x:
                left = band[:, x * factor : (x + overlap_px) * factor]
                _blend(left, tile, axis=1)
            band[:, x * factor : x * factor + tile.shape[1]] = tile
            end_tile()
        if above is not None:
            _blend(above, band, axis=0)
        # The rows that the next band reaches into wait for it.
        is_last = number + 1 == len(rows)
        kept = len(band) if is_last else (rows[number + 1] - y) * factor
        larger[y * factor : y * factor + kept] = (band[:kept] * 255).round()
        above = band[kept:]
    return larger


def _blend(before: Colours, tile: Colours, axis: int) -> None:
    """Fade from what is there to a tile, in place, where the tile begins along an axis.

    The outer quarters are of one alone: what a model draws at an edge it cannot look beyond.
    """
    length = before.shape[axis]
    ramp = np.clip((np.arange(length, dtype=np.float32) + 0.5) / length * 2 - 0.5, 0, 1)
    share = ramp[:, None, None] if axis == 0 else ramp[None, :, None]
    begins = tile[:length] if axis == 0 else tile[:, :length]
    begins *= share
    begins += before * (1 - share)


def _run(model: LoadedUpscaler, device: str, halved: int, tile: Pixels) -> Colours:
    """Return a tile made larger by a model, and made smaller again by `halved`.

    Raises:
        WeightsInvalidError: the model gave numbers that are no colours.
    """
    import torch

    height, width, _ = tile.shape
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(tile)).to(device)
        drawn = model(pixels.permute(2, 0, 1)[None].float() / 255)
        if halved > 1:
            drawn = torch.nn.functional.avg_pool2d(drawn, halved)
        drawn = drawn[0, :, : height * model.factor // halved, : width * model.factor // halved]
        if not bool(torch.isfinite(drawn).all()):
            raise WeightsInvalidError(
                "The upscaler drew numbers that are no colours (NaN or infinite).",
                "Name another in the setting 'upscaler'.",
            )
        colours: Colours = drawn.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
    return colours.copy()


# --- models --------------------------------------------------------------------------------------


@dataclass
class _Swin2SR:
    """Swin2SR of transformers. Its own image processor, which needs torchvision, is not used."""

    module: Any
    factor: int

    def __call__(self, tile: Any) -> Any:
        """Return a tile made larger."""
        import torch

        height, width = tile.shape[-2:]
        # Repeated edges: mirrored ones need more pixels than a narrow image has.
        padding = (0, -width % _WINDOW_PX, 0, -height % _WINDOW_PX)
        padded = torch.nn.functional.pad(tile, padding, mode="replicate")
        return self.module(pixel_values=padded).reconstruction


def _load_swin2sr(folder: Path) -> LoadedUpscaler:
    """Load a Swin2SR of transformers, in fp32.

    Raises:
        WeightsInvalidError: the files hold something else.
    """
    import torch
    from transformers import Swin2SRForImageSuperResolution

    try:
        model, told = Swin2SRForImageSuperResolution.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsInvalidError(
            f"The upscaler in {folder.name} cannot be loaded: {str(error)[:200]}",
            "Verify its files: flux-mcp models verify.",
        ) from error
    missing = sorted({*told["missing_keys"], *(one[0] for one in told["mismatched_keys"])})
    if missing or model.config.window_size != _WINDOW_PX:
        what = f"lacks {missing[0]}" if missing else "has windows of another size"
        raise WeightsInvalidError(
            f"The upscaler in {folder.name} {what}.", "Verify its files: flux-mcp models verify."
        )
    return _Swin2SR(model.eval(), int(model.config.upscale))
