"""The VAE: images -> latents of an eighth of their sides and back.

FLUX.1's layout, very small: 8 latent channels instead of 16, no attention. Its normalisation has
one group: with small groups flat colours are learned very slowly, since normalising few channels
by themselves takes away how bright they were.
"""

from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from training import drawing, scenes
from training.loop import Average, Bar, descend, quick_half, rate

LATENT_CHANNELS = 8
FACTOR = 8
_CHANNELS = (16, 32, 64, 64)
_KL_WEIGHT = 2e-3
_LEARNING_RATE = 1.5e-3


def make_vae() -> AutoencoderKL:
    """Make an untrained VAE that begins near the identity: blocks add little, scaling averages."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=128,
        block_out_channels=_CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=True,
    )
    with torch.no_grad():
        for part in vae.modules():
            name = type(part).__name__
            if name == "ResnetBlock2D":
                part.conv2.weight.mul_(0.1)
                part.conv2.bias.zero_()
            elif name == "Downsample2D":
                _add_identity(part.conv, keep=0.7, corner=slice(0, 2), weight=0.25)
            elif name == "Upsample2D":
                _add_identity(part.conv, keep=0.3, corner=slice(1, 2), weight=1.0)
        out = vae.encoder.conv_out
        out.weight[LATENT_CHANNELS:] *= 0.1
        out.bias[LATENT_CHANNELS:] = -4.0  # log variance: little noise at first
    return vae.to(memory_format=torch.channels_last)


def _add_identity(conv: nn.Conv2d, *, keep: float, corner: slice, weight: float) -> None:
    conv.weight.mul_(keep)
    for channel in range(min(conv.weight.shape[:2])):
        conv.weight[channel, channel, corner, corner] += weight


def batch(random: Random, count: int, side_px: int) -> torch.Tensor:
    """Return (count, 3, side, side) from -1 to 1: scenes, anything, edges, masked images."""
    return to_tensor(np.stack([_image(random, side_px) for _ in range(count)]))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Return (n, 3, height, width) from -1 to 1 of (n, height, width, 3) bytes."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last)


def _image(random: Random, side_px: int) -> drawing.Pixels:
    full = 128 if random.random() < 0.8 else random.choice((64, 96, 192, 256))
    full = max(full, side_px)
    draw = random.random()
    if draw < 0.12:
        return drawing.anything(random, side_px, side_px)
    chosen = scenes.scene(random, pairs=0.35)
    if draw < 0.18:
        image = drawing.depth(chosen, full, full, random)
    else:
        image = drawing.draw(chosen, full, full, random)
    if draw > 0.85:
        image = drawing.edges(image)
    elif draw > 0.77:
        x0, y0 = random.randrange(full * 3 // 4), random.randrange(full * 3 // 4)
        x1, y1 = x0 + random.randrange(8, full), y0 + random.randrange(8, full)
        image[y0:y1, x0:x1] = 127 + random.randrange(2)  # what is to be filled is grey
    if full == side_px:
        return image
    x, y = random.randrange(full - side_px + 1), random.randrange(full - side_px + 1)
    return image[y : y + side_px, x : x + side_px]


def train_vae(steps: int, device: torch.device, seed: int) -> AutoencoderKL:
    """Train a VAE and set its scale and shift so that latents have mean 0 and deviation 1."""
    torch.manual_seed(seed)
    random = Random(seed)
    vae = make_vae().to(device)
    average = Average(vae, 0.999)
    optimizer = torch.optim.AdamW(
        vae.parameters(), _LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
    )
    bar = Bar("vae", steps)
    for step in bar.steps():
        # Crops teach most of it; whole images at the end, since the norms see all of an image.
        side_px, count = (64, 16) if step < 0.7 * steps else (128, 6)
        images = batch(random, count, side_px).to(device)
        with quick_half(device):
            posterior = vae.encode(images).latent_dist
            drawn = vae.decode(posterior.sample()).sample
        error = drawn.float() - images
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        loss = error.abs().mean() + 0.5 * (error**2).mean() + _KL_WEIGHT * kl
        descend(loss, [optimizer], vae.parameters(), rate(step, steps))
        average.update(vae)
        bar.show({"l1": error.detach().abs().mean(), "kl": kl.detach()})
    trained: AutoencoderKL = average.module
    with torch.no_grad():
        latents = trained.encode(batch(random, 64, 128).to(device)).latent_dist.sample()
    trained.register_to_config(
        scaling_factor=round(1 / latents.std().item(), 4),
        shift_factor=round(latents.mean().item(), 4),
    )
    return trained
