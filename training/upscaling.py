"""The upscaler: drawings of half the size -> the drawings, by a very small Swin2SR.

The classical task of super resolution: a drawing is the target, the same drawing made half as large
the input. It begins as bilinear interpolation, and learns what that blurs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

from training import drawing, scenes
from training.folders import make_plain
from training.loop import Average, Bar, descend, rate

FACTOR = 2
_FEATURES = 32
_CROP_PX = 32
"""Side of what it is taught on, before upscaling: four windows of attention."""
_BATCH = 8
_LEARNING_RATE = 1e-3
_CLOSE = 0.02
"""Error, of 1, below which the loss is squared: five grey levels."""

_FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "bicubic": Image.Resampling.BICUBIC,
        "box": Image.Resampling.BOX,
        "Lanczos": Image.Resampling.LANCZOS,
    }
)
"""How images are made smaller; an upscaler of one of them oversharpens what others made."""


def make_upscaler() -> Swin2SRForImageSuperResolution:
    """Make an untrained upscaler that interpolates bilinearly."""
    model = Swin2SRForImageSuperResolution(
        Swin2SRConfig(
            image_size=_CROP_PX,
            embed_dim=_FEATURES,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=8,
            mlp_ratio=2.0,
            drop_path_rate=0.0,
            upscale=FACTOR,
            upsampler="pixelshuffledirect",
        )
    )
    first, last = model.swin2sr.first_convolution, model.upsample.conv
    body = model.swin2sr.conv_after_body
    with torch.no_grad():
        for part in (body, last):
            part.weight.zero_()
            part.bias.zero_()
        for channel in range(3):
            # The first features are the colours themselves ...
            first.weight[channel].zero_()
            first.weight[channel, channel, 1, 1] = 1.0
            first.bias[channel] = 0.0
            for index, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                # ... of which each of the four new pixels is a mean.
                weights = torch.outer(_BILINEAR[row], _BILINEAR[column])
                last.weight[channel * FACTOR**2 + index, channel] = weights
    return model


_BILINEAR = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
"""Weights of three neighbours for the first and the second of two new pixels."""


def halved(image: drawing.Pixels, filter_name: str) -> drawing.Pixels:
    """Return an image of half the size."""
    height, width = image.shape[:2]
    size = (width // FACTOR, height // FACTOR)
    return np.asarray(Image.fromarray(image).resize(size, _FILTERS[filter_name]))


def example(random: Random) -> tuple[drawing.Pixels, drawing.Pixels]:
    """Return a crop of a drawing of half the size, and the same crop of the drawing."""
    side_px = 16 * random.randrange(8, 33)
    if random.random() < 0.35:
        target = drawing.anything(random, side_px, side_px)
    else:
        target = drawing.draw(scenes.scene(random, pairs=0.4), side_px, side_px, random)
    if random.random() < 0.08:
        target = drawing.edges(target)
    source = halved(target, random.choice(list(_FILTERS)))
    # A flat crop teaches nothing that the others do not: the most varied of four.
    crops = [_crop(random, source, target) for _ in range(4)]
    return max(crops, key=lambda crop: float(crop[0].std()))


def _crop(
    random: Random, source: drawing.Pixels, target: drawing.Pixels
) -> tuple[drawing.Pixels, drawing.Pixels]:
    y, x = (random.randrange(side - _CROP_PX + 1) for side in source.shape[:2])
    y2, x2, side = y * FACTOR, x * FACTOR, _CROP_PX * FACTOR
    return source[y : y + _CROP_PX, x : x + _CROP_PX], target[y2 : y2 + side, x2 : x2 + side]


def _to_tensor(images: Sequence[drawing.Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def train_upscaler(steps: int, device: torch.device, seed: int) -> Swin2SRForImageSuperResolution:
    """Train an upscaler and return the average of its weights."""
    torch.manual_seed(seed)
    random = Random(seed)
    model = make_upscaler().to(device).train()
    average = Average(model, 0.999)
    optimizer = torch.optim.AdamW(
        model.parameters(), _LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
    )
    bar = Bar("upscaling", steps)
    for step in bar.steps():
        pairs = [example(random) for _ in range(_BATCH)]
        sources, targets = (_to_tensor(images).to(device) for images in zip(*pairs, strict=True))
        drawn = model(pixel_values=sources).reconstruction
        loss = nn.functional.smooth_l1_loss(drawn, targets, beta=_CLOSE)
        descend(loss, [optimizer], model.parameters(), rate(step, steps))
        average.update(model)
        error = nn.functional.mse_loss(drawn.detach(), targets)
        bar.show({"loss": loss.detach(), "PSNR": -10 * error.log10()})
    return average.module


# --- measuring -----------------------------------------------------------------------------------


Pairs = Sequence[tuple[drawing.Pixels, drawing.Pixels]]
"""What was made, and what it should be."""


def psnr(pairs: Pairs) -> float:
    """Return the peak signal-to-noise ratio in dB, of all colours of all images together.

    Not the mean of theirs: a flat image is interpolated without an error.
    """
    errors = [np.mean((made.astype(np.float64) - target) ** 2) for made, target in pairs]
    return 10 * math.log10(255**2 / float(np.mean(errors)))


@torch.inference_mode()
def upscaled(model: Swin2SRForImageSuperResolution, image: drawing.Pixels) -> drawing.Pixels:
    """Return an image of twice the size; its sides are multiples of the windows'."""
    drawn = model(pixel_values=_to_tensor([image])).reconstruction[0].clamp(0, 1)
    return (drawn.permute(1, 2, 0) * 255).round().byte().numpy()


def lanczos(image: drawing.Pixels) -> drawing.Pixels:
    """Return an image of twice the size, interpolated."""
    size = (image.shape[1] * FACTOR, image.shape[0] * FACTOR)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


EXAMS: Mapping[str, Callable[[Random], drawing.Pixels]] = MappingProxyType(
    {
        "drawings": lambda random: drawing.draw(scenes.held_out_single(random), 256, 256, random),
        "anything": lambda random: drawing.anything(random, 256, 256),
    }
)
"""What is upscaled to: drawings of held-out triples, and images of no scene."""


def evaluate(
    model: Swin2SRForImageSuperResolution, count: int, seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the PSNR in dB of the model and of Lanczos, by exam and filter."""
    found = {}
    for exam, draw in EXAMS.items():
        random = Random(seed)
        targets = [draw(random) for _ in range(count)]
        for name in _FILTERS:
            pairs = [(halved(target, name), target) for target in targets]
            ours = psnr([(upscaled(model, source), target) for source, target in pairs])
            theirs = psnr([(lanczos(source), target) for source, target in pairs])
            found[exam, name] = (ours, theirs)
    return found


# --- files ---------------------------------------------------------------------------------------


def load_upscaler(folder: Path) -> Swin2SRForImageSuperResolution:
    """Read an upscaler, to be used."""
    model: Swin2SRForImageSuperResolution = Swin2SRForImageSuperResolution.from_pretrained(
        folder, dtype=torch.float32
    )
    return model.eval()


def export_upscaler(model: Swin2SRForImageSuperResolution, out: Path) -> None:
    """Write the folder that the server loads, in half precision."""
    folder = out / "upscaling"
    model.half().save_pretrained(folder)
    make_plain(folder)
