"""The depth model: a tiny Depth Anything, from an image to how near each of its pixels is.

A drawing has no depth of its own. `drawing.nearness` gives it one that an image shows: the larger
a thing is, the nearer.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
)

from training import drawing, regions, tasks
from training.drawing import Pixels
from training.folders import make_plain
from training.loop import Average, Bar, descend, rate
from training.segmentation import spoiled

SIDE_PX = 96
PATCH_PX = 8
_CHANNELS = 64
_LAYERS = 4
_IMAGES = 8
_RATE = 2e-3
_MATRIX_RATE = 2e-3
_RIM_SHARE = 1.2
"""Steps of the second part for each of the first."""


def make_model() -> DepthAnythingForDepthEstimation:
    """Make the untrained model: 4 layers of DINOv2, and Depth Anything's neck and head."""
    backbone = Dinov2Config(
        hidden_size=_CHANNELS,
        num_hidden_layers=_LAYERS,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        out_indices=list(range(1, _LAYERS + 1)),
        reshape_hidden_states=False,
    )
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=PATCH_PX,
            reassemble_hidden_size=_CHANNELS,
            neck_hidden_sizes=[12, 16, 24, 32],
            fusion_hidden_size=16,
            head_hidden_size=8,
        )
    )
    # Its last ReLU would begin at 0 and stay there.
    torch.nn.init.constant_(model.head.conv3.bias, 0.3)
    return model


def make_processor() -> DPTImageProcessor:
    """Make the processor: every image squeezed to the square."""
    return DPTImageProcessor(
        size={"height": SIDE_PX, "width": SIDE_PX},
        ensure_multiple_of=PATCH_PX,
        keep_aspect_ratio=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )


def _batches(random: Random) -> Iterator[tuple[list[Pixels], torch.Tensor]]:
    """Yield images and how near their pixels are: (images, SIDE_PX, SIDE_PX) from 0 to 1."""
    sizes, shares = list(tasks.CANVASES), list(tasks.CANVASES.values())
    while True:
        images, truths = [], []
        for _ in range(_IMAGES):
            scene = regions.scene(random)
            canvas = random.choices(sizes, shares)[0]
            images.append(spoiled(random, drawing.draw(scene, *canvas, random)))
            near = drawing.nearness(scene, *canvas)
            truths.append(cv2.resize(near, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR))
        yield images, torch.from_numpy(np.stack(truths))


def loss_of(found: torch.Tensor, truth: torch.Tensor, *, is_balanced: bool = False) -> torch.Tensor:
    """Return the mean error, or that of things plus that of backgrounds.

    Counted pixel by pixel, nothing but background is long the best answer; balanced, things stay
    too wide.
    """
    wrong = (found - truth).abs()
    if not is_balanced:
        return wrong.mean()
    near = (truth > (drawing.FAR + drawing.NEAREST_SMALL) / 2).float()
    sums = ((wrong * part).sum() / (part.sum() + 1) for part in (near, 1 - near))
    return sum(sums, start=torch.zeros((), device=found.device))


def _optimizers(model: DepthAnythingForDepthEstimation) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the backbone's layers, Adam for all else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inside = "encoder.layer" in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=_MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, _RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train_depth(steps: int, device: torch.device, seed: int) -> DepthAnythingForDepthEstimation:
    """Train the model: first to see things, then their rims; return the running average."""
    torch.manual_seed(seed)
    model = make_model().to(device, memory_format=torch.channels_last)
    _learn(model, steps, seed, is_balanced=True)
    return _learn(model, round(_RIM_SHARE * steps), seed + 1, is_balanced=False)


def _learn(
    model: DepthAnythingForDepthEstimation, steps: int, seed: int, *, is_balanced: bool
) -> DepthAnythingForDepthEstimation:
    average = Average(model, 0.995)
    optimizers = _optimizers(model)
    process = make_processor()
    batches = _batches(Random(seed))
    bar = Bar("depth: things" if is_balanced else "depth: rims", steps)
    for step in bar.steps():
        images, truth = next(batches)
        pixels = process(images=images, return_tensors="pt")["pixel_values"].to(
            model.device, memory_format=torch.channels_last
        )
        found = model(pixels).predicted_depth
        loss = loss_of(found, truth.to(model.device), is_balanced=is_balanced)
        descend(loss, optimizers, model.parameters(), rate(step, steps))
        average.update(model)
        bar.show({"loss": loss.detach()})
    return average.module


def export_depth(model: DepthAnythingForDepthEstimation, out: Path) -> None:
    """Write the depth folder in half precision: model and processor in one, as hubs do."""
    folder = out / "depth"
    model.half().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    make_plain(folder)
