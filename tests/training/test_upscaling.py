"""The upscaler of micro: what it begins as, what it is taught on, and that it beats Lanczos."""

from random import Random

import numpy as np
import pytest
import torch

from flux_mcp.settings.installation import PACKAGE_DIR
from training import upscaling

EXPORTED = PACKAGE_DIR / "weights" / "micro" / "upscaling"


def test_it_begins_as_bilinear_interpolation() -> None:
    torch.manual_seed(0)
    source = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        drawn = upscaling.make_upscaler().eval()(pixel_values=source).reconstruction
    expected = torch.nn.functional.interpolate(source, scale_factor=2, mode="bilinear")
    # At its edges it looks at zeros.
    assert torch.allclose(drawn[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-4)


def test_an_example_is_a_drawing_and_the_same_at_half_its_size() -> None:
    random = Random(3)
    for _ in range(20):
        source, target = upscaling.example(random)
        assert target.shape == (2 * source.shape[0], 2 * source.shape[1], 3)
        halved = upscaling.halved(target, "box").astype(int)
        assert np.abs(halved - source)[2:-2, 2:-2].mean() < 12


@pytest.mark.torture
def test_a_few_steps_make_it_better() -> None:
    torch.manual_seed(1)
    before = upscaling.evaluate(upscaling.make_upscaler().eval(), 2, 5)
    after = upscaling.evaluate(upscaling.train_upscaler(12, torch.device("cpu"), seed=1), 2, 5)
    assert after["drawings", "bicubic"][0] > before["drawings", "bicubic"][0]


@pytest.mark.torture
def test_what_ships_beats_lanczos_on_what_it_has_not_seen() -> None:
    shipped = upscaling.load_upscaler(EXPORTED)
    for what, (ours, theirs) in upscaling.evaluate(shipped, 3, 20_001).items():
        assert ours > theirs + 2, what


@pytest.mark.torture
def test_the_figures_of_the_page_are_those_of_what_ships() -> None:
    page = (PACKAGE_DIR.parents[1] / "docs" / "models" / "micro.md").read_text(encoding="utf-8")
    found = upscaling.evaluate(upscaling.load_upscaler(EXPORTED), 100, 20_000)
    for (exam, name), (ours, theirs) in found.items():
        assert f"| {exam} | {name} | {ours:.1f} | {theirs:.1f} |" in page


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in EXPORTED.iterdir()) < 2**20
