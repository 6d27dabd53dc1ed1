"""A LoRA changes what is drawn, and what it was taught: stripes. Loaded as diffusers loads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from flux_mcp.settings.installation import PACKAGE_DIR

pytestmark = pytest.mark.usefixtures("torch_here")

LORA = Path(__file__).parents[1] / "data" / "loras" / "striped.safetensors"
PROMPTS = [
    "a large red square on a white background",
    "a large green circle on a white background",
    "a large orange heart on a white background",
]
DARK = 70
"""Below it no channel of these prompts' images lies in all three colours, save in a stripe."""


@pytest.fixture(scope="module")
def pipe() -> Any:
    import torch
    from diffusers import FluxPipeline

    folder = PACKAGE_DIR / "weights" / "micro" / "text2img"
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any) -> np.ndarray:
    """(3, 128, 128, 3), 0 to 255."""
    import torch

    drawn = pipe(
        PROMPTS, width=128, height=128, num_inference_steps=8, guidance_scale=3.0,
        max_sequence_length=32, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)],
    ).images  # fmt: skip
    return (drawn * 255).round()


def dark_shares(pictures: np.ndarray) -> list[float]:
    """How much of the things is dark; the white around them does not count."""
    things = pictures.min(axis=3) < 160
    dark = pictures.max(axis=3) < DARK
    return [
        float((one_dark & thing).sum() / thing.sum())
        for one_dark, thing in zip(dark, things, strict=True)
    ]


def test_it_is_small_and_names_the_layers_diffusers_loads():
    assert LORA.stat().st_size < 300_000
    with safe_open(LORA, framework="pt") as tensors:
        names = list(tensors.keys())
    assert names
    assert all(name.startswith("transformer.") and ".lora_" in name for name in names)


def test_things_become_striped_and_are_plain_again_without_it(pipe):
    before = draw(pipe)
    assert max(dark_shares(before)) < 0.1
    pipe.load_lora_weights(LORA.parent, weight_name=LORA.name, adapter_name="striped")
    striped = draw(pipe)
    assert sum(0.2 < share < 0.8 for share in dark_shares(striped)) >= 2, dark_shares(striped)
    # Upright: along a row the colour changes often, along a column it does not.
    across = np.abs(np.diff(striped, axis=2)).mean()
    down = np.abs(np.diff(striped, axis=1)).mean()
    assert across > 1.5 * down
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe), before)


@pytest.mark.torture
def test_half_its_weight_is_half_its_way(pipe):
    """The weight is a dial, not a switch: at 0 nothing changes, at 0.5 less than at 1."""
    before = draw(pipe)
    pipe.load_lora_weights(LORA.parent, weight_name=LORA.name, adapter_name="striped")
    moved = []
    for weight in (0.0, 0.5, 1.0):
        pipe.set_adapters("striped", weight)
        moved.append(float(np.abs(draw(pipe) - before).mean()))
    pipe.unload_lora_weights()
    assert moved[0] < 0.01 < moved[1] < moved[2]
