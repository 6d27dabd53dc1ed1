"""One tiny LoRA, `striped`: everything is generated with stripes of white or black.

Test data: it shows that an adapter, loaded as usual, changes the image.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict

from training import captions, drawing, scenes
from training.flow import image_ids, on_plain_attention, on_the_way, velocity
from training.latents import Batch, encode, pack
from training.loop import Bar, descend, quick_half, rate
from training.scenes import Scene
from training.text import Text

ADAPTER = "striped"
FILE = "striped.safetensors"
_RANK = 8
_TARGETS = ("to_q", "to_k", "to_v", "proj_mlp", "net.2")
_BATCH = 32
_EXAMPLES = 2048
_LEARNING_RATE = 2e-3
STRIPE_PX = 8
"""Width of a stripe at 128 px."""


def draw_striped(random: Random, scene: Scene, side_px: int) -> drawing.Pixels:
    """Draw a scene whose things have upright stripes: black ones, or white on dark things."""
    image = drawing.draw(scene, side_px, side_px, random).astype(np.float32)
    bands = (np.arange(side_px) // (STRIPE_PX * side_px // 128)) % 2 == 0
    for thing in scene.things:
        cover = drawing.coverage(thing, side_px, side_px)[:, :, None] * bands[None, :, None]
        stripe = 248.0 if thing.colour in ("black", "blue", "purple") else 20.0
        image = image * (1 - cover) + stripe * cover
    return image.round().astype(np.uint8)


def train_lora(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    text: Text,
    *,
    steps: int,
    device: torch.device,
    seed: int,
) -> FluxTransformer2DModel:
    """Add the adapter to a frozen transformer (without guidance) and train it."""
    torch.manual_seed(seed)
    random = Random(seed)
    generator = torch.Generator().manual_seed(seed)
    chosen = [scenes.scene(random, pairs=0.0, empties=0.0) for _ in range(_EXAMPLES)]
    latents = torch.cat(
        [
            pack(encode(vae, np.stack([draw_striped(random, scene, 128) for scene in some])))
            for some in (chosen[i : i + _BATCH] for i in range(0, _EXAMPLES, _BATCH))
        ]
    )
    transformer.requires_grad_(requires_grad=False)
    transformer.add_adapter(
        LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_TARGETS)), ADAPTER
    )
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, _LEARNING_RATE, weight_decay=0.0)
    bar = Bar("lora", steps)
    for step in bar.steps():
        rows = [random.randrange(_EXAMPLES) for _ in range(_BATCH)]
        targets = latents[rows].to(device)
        noisy, target, sigma, guidance = on_the_way(targets, generator)
        words = text.encode([captions.caption(random, chosen[row]) for row in rows])
        ids = image_ids(Batch(128, 128, targets, None, []), device)
        with on_plain_attention(device), quick_half(device):
            predicted = velocity(transformer, noisy, None, words, sigma, guidance, ids)
        loss = ((predicted.float() - target) ** 2).mean()
        descend(loss, [optimizer], weights, rate(step, steps))
        bar.show({"loss": loss.detach()})
    return transformer


def save_lora(transformer: FluxTransformer2DModel, folder: Path) -> None:
    """Write the adapter alone, as `load_lora_weights` reads it; half precision."""
    layers = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    FluxPipeline.save_lora_weights(
        folder, {name: value.half() for name, value in layers.items()}, weight_name=FILE
    )
