"""Images made larger: by micro's Swin2SR, by files that spandrel loads, by Lanczos; in tiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import (
    JobCancelledError,
    UnsupportedOptionError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.models.file_hashes import FileHashes
from flux_mcp.models.registry import load_registry
from flux_mcp.models.upscalers import find_upscaler
from flux_mcp.requests.geometry import Size, tiles_of
from flux_mcp.requests.render_plan import PlanUpscale
from flux_mcp.requests.upscaling import plan_upscale, upscale_plan
from flux_mcp.settings.settings import Settings

from .harness import Recorder, Studio, Task, make_task

REGISTRY = load_registry()
MICRO = "micro-upscaling"
SIDE = 48
"""Of tiles, in these tests."""
OVERLAP = 16


@pytest.fixture
def folder(tmp_path: Path, weights_dir: Path) -> Settings:
    (tmp_path / "upscalers").mkdir()
    return Settings(data_dir=tmp_path, weights_dir=weights_dir, device="cpu", torch_threads=1)


@pytest.fixture(scope="session")
def rrdb(torch_here: None) -> Callable[..., dict[str, Any]]:
    """Tensors of a very small ESRGAN, with random weights that keep the colours in range."""
    import torch

    from flux_mcp.pipelines.loading.esrgan import _import_spandrel

    _import_spandrel()
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    def make(scale: int = 4, channels: int = 3) -> dict[str, Any]:
        torch.manual_seed(5)
        net = RRDBNet(in_nc=channels, out_nc=channels, num_filters=8, num_blocks=1, scale=scale)
        tensors = {name: one.contiguous() for name, one in net.state_dict().items()}
        (*_, last) = (name for name in tensors if name.endswith("bias"))
        tensors[last] = tensors[last] + 0.5
        return tensors

    return make


def put(settings: Settings, name: str, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, settings.paths.upscalers / f"{name}.safetensors")


def plan_for(settings: Settings, name: str, factor: Any = 2, **changes: Any) -> PlanUpscale:
    found = find_upscaler(REGISTRY, settings, name, for_demonstration=True)
    sha256 = None if found.file is None else FileHashes().sha256(found.file)
    planned = plan_upscale(found, sha256, factor).model_dump()
    return PlanUpscale(**{**planned, "tile_px": SIDE, "overlap_px": OVERLAP, **changes})


def picture(width: int = 152, height: int = 107) -> np.ndarray:
    """Edges, ramps and some noise everywhere, of sides that are multiples of nothing."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, (x + y) % 64 * 4], axis=2)
    image[(x - 70) ** 2 + (y - 50) ** 2 < 900] = (250, 220, 40)
    image[(x // 12 + y // 12) % 3 == 0] = (30, 60, 200)
    noise = np.random.default_rng(1).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def upscaled(studio: Studio, image: np.ndarray, how: PlanUpscale, **more: Any) -> np.ndarray:
    """Run a plan that makes one image larger, and return what came of it."""
    return run(studio, image, how, **more).images[0]


def run(studio: Studio, image: np.ndarray, how: PlanUpscale, **more: Any) -> Recorder:
    task = make_task(REGISTRY.find("img2img", "micro"), inputs=[("image", Image.fromarray(image))])
    plan = upscale_plan(how, task.plan.inputs[0], prompt="", seed=3)
    return studio.draw(Task(plan, task.inputs, task.spec), **more)


@pytest.fixture
def studio(folder: Settings, torch_here: None) -> Studio:
    return Studio(folder)


# --- seams -------------------------------------------------------------------------------------


def differences(studio: Studio, how: PlanUpscale, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a tiled image is from one that was not cut: at borders, and elsewhere."""
    image = picture()
    size = Size(image.shape[1], image.shape[0])
    assert len(tiles_of(size, SIDE, OVERLAP)) > 8
    tiled = upscaled(studio, image, how).astype(int)
    whole = upscaled(studio, image, how.model_copy(update={"tile_px": 1024})).astype(int)
    assert tiled.shape == (size.height * factor, size.width * factor, 3)
    difference = np.abs(tiled - whole).max(axis=2)
    is_border = np.zeros(difference.shape, bool)
    for tile in tiles_of(size, SIDE, OVERLAP):
        left, top, right, bottom = (edge * factor for edge in tile.edges)
        for edge in {left, right} - {0, size.width * factor}:
            is_border[:, edge - 2 : edge + 2] = True
        for edge in {top, bottom} - {0, size.height * factor}:
            is_border[edge - 2 : edge + 2] = True
    return difference[is_border], difference[~is_border]


def test_tiles_of_swin2sr_leave_no_seam(studio: Studio, folder: Settings) -> None:
    at_borders, elsewhere = differences(studio, plan_for(folder, MICRO), 2)
    assert at_borders.mean() <= elsewhere.mean()
    assert np.quantile(at_borders, 0.99) <= max(1, np.quantile(elsewhere, 0.99))


def test_tiles_of_an_esrgan_leave_no_seam(studio: Studio, folder: Settings, rrdb: Any) -> None:
    put(folder, "own", rrdb(scale=4))
    at_borders, elsewhere = differences(studio, plan_for(folder, "own", 4), 4)
    assert at_borders.mean() <= elsewhere.mean()
    assert np.quantile(at_borders, 0.99) <= max(1, np.quantile(elsewhere, 0.99))


@pytest.mark.parametrize("size", [Size(1, 1), Size(48, 48), Size(49, 48), Size(63, 200)])
def test_tiles_cover_an_image_and_overlap(size: Size) -> None:
    covered = np.zeros((size.height, size.width), int)
    tiles = tiles_of(size, SIDE, OVERLAP)
    for tile in tiles:
        left, top, right, bottom = tile.edges
        assert (right <= size.width, bottom <= size.height) == (True, True)
        assert tile.size == size or (left or top or right < size.width or bottom < size.height)
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert len(tiles) == len(set(tiles))


# --- what an image becomes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "factor", "passes"), [(2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 2, 1)]
)
def test_a_file_makes_what_is_asked_for_whatever_one_pass_of_it_makes(
    studio: Studio, folder: Settings, rrdb: Any, scale: int, factor: int, passes: int
) -> None:
    put(folder, "own", rrdb(scale=scale))
    image = picture(40, 30)
    told = run(studio, image, plan_for(folder, "own", factor))
    assert told.images[0].shape == (30 * factor, 40 * factor, 3)
    tiles = 1 if passes == 1 else 1 + len(tiles_of(Size(80, 60), SIDE, OVERLAP))
    assert f"tile {tiles} of {tiles}" in told.messages
    assert told.figures.weights_sha256 == FileHashes().sha256(
        folder.paths.upscalers / "own.safetensors"
    )


def test_four_times_is_two_passes_of_a_model_that_makes_two(
    studio: Studio, folder: Settings
) -> None:
    image = picture(40, 30)
    once = upscaled(studio, image, plan_for(folder, MICRO, 2))
    twice = upscaled(studio, once, plan_for(folder, MICRO, 2))
    assert np.array_equal(upscaled(studio, image, plan_for(folder, MICRO, 4)), twice)


def test_the_smallest_image_becomes_larger_too(studio: Studio, folder: Settings) -> None:
    pixel = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    assert upscaled(studio, pixel, plan_for(folder, MICRO, 4)).shape == (4, 4, 3)


def test_lanczos_is_pillows(studio: Studio, folder: Settings) -> None:
    image = picture()
    expected = Image.fromarray(image).resize((304, 214), Image.Resampling.LANCZOS)
    assert np.array_equal(upscaled(studio, image, plan_for(folder, "lanczos")), expected)


def test_the_same_plan_gives_the_same_pixels(studio: Studio, folder: Settings) -> None:
    how = plan_for(folder, MICRO)
    first = upscaled(studio, picture(), how)
    assert np.array_equal(upscaled(Studio(folder), picture(), how), first)


# --- in a job ----------------------------------------------------------------------------------


def test_each_image_of_a_job_is_drawn_and_then_upscaled_as_it_is_pasted(
    studio: Studio, folder: Settings, task_for: Callable[..., Task]
) -> None:
    from .harness import finished

    how = plan_for(folder, MICRO)
    task = task_for(REGISTRY.find("fill", "micro"), seeds=(1, 2), upscale=how)
    told = studio.draw(task)
    assert task.plan.images == len(told.images) == 4
    assert told.seeds == [1, 2, 1, 2]
    pasted = finished(task, told.images[:2])
    for image, larger in zip(pasted, told.images[2:], strict=True):
        assert np.array_equal(larger, upscaled(studio, image, how))
    plain = studio.draw(task, upscale=None)
    assert plain.pixels == told.pixels[:2]
    phases = [phase for phase in dict.fromkeys(told.phases) if phase != "loading"]
    assert phases == ["encoding", "denoising", "decoding", "upscaling"]


def test_each_tile_is_reported_and_the_job_stops_between_two(
    studio: Studio, folder: Settings
) -> None:
    def has_two(recorder: Recorder) -> bool:
        return sum(phase == "upscaling" for phase in recorder.phases) >= 3

    how = plan_for(folder, MICRO)
    tiles = len(tiles_of(Size(152, 107), SIDE, OVERLAP))
    told = run(studio, picture(), how)
    wanted = [*(f"tile {number} of {tiles}" for number in range(1, tiles + 1))]
    assert [one for one in told.messages if one.startswith("tile")] == [*wanted, wanted[-1]]
    with pytest.raises(JobCancelledError):
        run(studio, picture(), how, cancelled=has_two)
    assert sum(phase == "upscaling" for phase in studio.last.phases) == 3
    assert studio.last.images == []


def test_what_draws_makes_room_on_the_gpu_and_is_drawn_with_again(
    folder: Settings, torch_here: None
) -> None:
    how = plan_for(folder, MICRO)
    studio = Studio(folder, gpu_bytes=2**30)
    task = make_task(REGISTRY.find("text2img", "micro"), upscale=how)
    whole = studio.draw(task).pixels
    assert studio.store.gpu_bytes > 0
    studio.limit_gpu(2**24)  # less than a tile takes
    assert studio.draw(task).pixels == whole
    assert studio.store.gpu_bytes == 0


# --- refused before anything is drawn ----------------------------------------------------------


def refused(studio: Studio, how: PlanUpscale, error: type[Exception], says: str) -> None:
    task = make_task(REGISTRY.find("text2img", "micro"), upscale=how)
    with pytest.raises(error, match=says):
        studio.draw(task)
    assert set(studio.last.phases) == {"loading"}


def test_a_file_that_is_no_upscaler_or_was_changed_is_refused(
    studio: Studio, folder: Settings, rrdb: Any
) -> None:
    import torch

    put(folder, "own", {"weight": torch.zeros(3)})
    refused(studio, plan_for(folder, "own"), WeightsInvalidError, "no upscaler that can be read")
    put(folder, "own", rrdb(channels=1))
    refused(studio, plan_for(folder, "own"), WeightsInvalidError, "not make colour images")
    put(folder, "own", rrdb(scale=8))
    refused(studio, plan_for(folder, "own"), UnsupportedOptionError, "8 times as wide")
    put(folder, "own", rrdb(scale=2))
    how = plan_for(folder, "own")
    put(folder, "own", rrdb(scale=4))
    refused(studio, how, WeightsInvalidError, "has changed since this was planned")
    (folder.paths.upscalers / "own.safetensors").write_bytes(b"no header")
    refused(studio, plan_for(folder, "own"), WeightsInvalidError, "no upscaler that can be read")
    (folder.paths.upscalers / "own.safetensors").unlink()
    refused(studio, how, WeightsMissingError, "no longer on this machine")


def test_damaged_weights_of_a_model_are_refused(
    tmp_path: Path, folder: Settings, weights_dir: Path, torch_here: None
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    own = tmp_path / "weights"
    shutil.copytree(weights_dir / "micro" / "upscaling", own / "micro" / "upscaling")
    settings = folder.model_copy(update={"weights_dir": own})
    file = own / "micro" / "upscaling" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    image = picture(32, 32)
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, file)
    with pytest.raises(WeightsInvalidError, match="no colours"):
        upscaled(Studio(settings), image, plan_for(settings, MICRO))
    save_file({key: one for key, one in tensors.items() if key != name}, file)
    with pytest.raises(WeightsInvalidError, match="lacks"):
        upscaled(Studio(settings), image, plan_for(settings, MICRO))
