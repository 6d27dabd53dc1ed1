"""What was drawn is put back into the image, and nothing else of it changes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.images.decoding import encode_image, store_image
from flux_mcp.images.masks import draw_shapes, finish_mask
from flux_mcp.images.pasting import Canvas, finisher, in_folder
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import Area
from flux_mcp.requests.render_plan import PlanInput, RenderPlan

REGISTRY = load_registry()


def photograph(width: int, height: int) -> Image.Image:
    """Smooth light with grain: no pixel is like its neighbour."""
    across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    grain = np.random.default_rng(0).integers(0, 40, (height, width))
    colours = np.stack([across + grain, down + grain, 220 - across + grain], axis=-1)
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def make(kind: str, inputs: dict[str, Image.Image], folder: Path, **changes: object) -> RenderPlan:
    """Return a plan whose inputs are in a folder."""
    items = []
    for role, image in inputs.items():
        stored = encode_image(image)
        store_image(folder, stored)
        size = {"width": image.width, "height": image.height}
        items.append(PlanInput.model_validate({"role": role, "sha256": stored.sha256, **size}))
    values = {
        "kind": kind, "model": "micro", "revision": None, "quality": "low", "precision": "fp32",
        "prompt": "x", "steps": 4, "guidance": 1.0, "seeds": (7,), "max_sequence_length": 32,
        "width": 64, "height": 64, "inputs": items,
    }  # fmt: skip
    return RenderPlan.model_validate(values | changes)


def grown(size: int, image: np.ndarray) -> np.ndarray:
    """Where a mask is not 0, and what lies within `size` pixels of that."""
    for axis in (0, 1):
        image = np.max([np.roll(image, step, axis) for step in range(-size, size + 1)], axis=0)
    return image


def test_mirrored_edges_around_an_image_are_cut_off_again() -> None:
    image = Image.new("RGB", (50, 30), "white")
    drawn = Image.new("RGB", (64, 32), "green")
    drawn.paste("red", (7, 1, 57, 31))
    pasted = Canvas(image, None, Rectangle(-7, -1, 64, 32)).paste(drawn)
    assert pasted.size == (50, 30)
    assert pasted.getcolors() == [(1500, (255, 0, 0))]


def test_only_what_the_mask_takes_changes_and_the_image_keeps_its_size(tmp_path: Path) -> None:
    before = photograph(400, 300)
    (box,) = draw_shapes(Area(box=[200, 100, 260, 140]), Size(400, 300))
    soft = finish_mask(box.mask, feather_px=6).image
    (tmp_path / "mask.png").write_bytes(soft.png)
    with Image.open(tmp_path / "mask.png") as opened:
        mask = opened.convert("L")
    plan = make(
        "fill", {"image": before, "mask": mask}, tmp_path, region=Rectangle(160, 60, 128, 128)
    )
    after = np.asarray(finisher(plan, in_folder(tmp_path))(bytes(3 * 64 * 64)))
    assert after.shape == (300, 400, 3)
    hard = np.zeros((300, 400), bool)
    hard[100:140, 200:260] = True
    outside = ~grown(6, hard)
    assert np.array_equal(after[outside], np.asarray(before)[outside])
    assert (after[108:132, 208:252] == 0).all(), "drawn in black, beyond the feather"


@settings(max_examples=30)
@given(st.integers(0, 255), st.integers(0, 40), st.integers(0, 30))
def test_the_feather_fades_evenly_from_the_image_to_what_was_drawn(
    grey: int, x: int, y: int
) -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
    mask = Image.new("L", (120, 100), 0)
    mask.paste(ramp, (x, y))
    before = Image.new("RGB", (120, 100), (10, 200, 90))
    canvas = Canvas(before.copy(), mask, Rectangle(x, y, 64, 64))
    after = np.asarray(canvas.paste(Image.new("RGB", (64, 64), (grey,) * 3))).astype(float)
    share = np.asarray(mask)[..., None] / 255
    expected = np.asarray(before) * (1 - share) + grey * share
    assert np.abs(after - expected).max() <= 1
    kept = np.asarray(mask) == 0
    assert np.array_equal(after[kept], np.asarray(before)[kept])


def test_several_images_of_one_job_do_not_show_each_other(tmp_path: Path) -> None:
    before = photograph(200, 100)
    mask = Image.new("L", before.size, 0)
    mask.paste(128, (40, 20, 90, 70))
    plan = make("fill", {"image": before, "mask": mask}, tmp_path, region=Rectangle(30, 10, 64, 64))
    drawings = [bytes([grey]) * (3 * 64 * 64) for grey in (0, 200, 90)]
    together = finisher(plan, in_folder(tmp_path))
    for drawing in drawings:
        alone = finisher(plan, in_folder(tmp_path))(drawing)
        assert together(drawing).tobytes() == alone.tobytes()


def test_a_whole_edit_is_scaled_to_the_size_of_its_image(tmp_path: Path) -> None:
    before = photograph(1000, 700)
    plan = make("kontext", {"reference": before}, tmp_path, region=Rectangle(0, 0, 1000, 700))
    after = finisher(plan, in_folder(tmp_path))(bytes([77]) * (3 * 64 * 64))
    assert after.size == (1000, 700)
    assert after.getextrema() == ((77, 77),) * 3


def test_what_no_region_says_is_the_image_itself(tmp_path: Path) -> None:
    plan = make("kontext", {"reference": photograph(1000, 700)}, tmp_path)
    assert finisher(plan, in_folder(tmp_path / "nowhere"))(bytes(3 * 64 * 64)).size == (64, 64)


def test_a_stored_plan_without_a_region_gives_the_image_it_gave(tmp_path: Path) -> None:
    """Fill cut and scaled the image to the plan's size; files that were made so say that size."""
    before, mask = photograph(200, 100), Image.new("L", (200, 100), 0)
    mask.paste(255, (90, 40, 110, 60))
    plan = make("fill", {"image": before, "mask": mask}, tmp_path)
    after = np.asarray(finisher(plan, in_folder(tmp_path))(bytes(3 * 64 * 64)))
    kept = before.crop((50, 0, 150, 100)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.abs(after[:20].astype(int) - np.asarray(kept)[:20]).mean() < 1
    assert (after[28:36, 28:36] == 0).all()


def test_a_lost_input_and_a_wrong_number_of_pixels_are_errors(tmp_path: Path) -> None:
    before, mask = photograph(100, 100), Image.new("L", (100, 100), 255)
    plan = make("fill", {"image": before, "mask": mask}, tmp_path, region=Rectangle(0, 0, 64, 64))
    with pytest.raises(InternalError):
        finisher(plan, in_folder(tmp_path))(b"123")
    (tmp_path / f"{plan.inputs[0].sha256}.png").write_bytes(b"no PNG")
    with pytest.raises(StorageError):
        finisher(plan, in_folder(tmp_path))
    with pytest.raises(StorageError):
        finisher(plan, in_folder(tmp_path / "nowhere"))
