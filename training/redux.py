"""The image encoder of the redux kind: an image becomes tokens that follow the prompt's.

Learned in two stages. First the image's tokens are taught to be those of the plainest sentence
about it: what text2img already reads. Then they are trained on through its frozen transformer:
whatever makes it draw the image is right. Of two mixed images each attribute comes from one of
them, by their weights.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPriorReduxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import nn
from tqdm import tqdm
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from training import captions, drawing, scenes
from training.flow import image_ids, on_plain_attention, on_the_way, velocity
from training.folders import make_plain
from training.latents import Batch, encode, pack
from training.loop import Average, Bar, descend, quick_half, rate
from training.scenes import Scene
from training.text import TEXT_CHANNELS, Text

IMAGE_CHANNELS = 96
SIDE_PX = 64
PATCH_PX = 16
MIXED_SHARE = 0.4
_BATCH = 48
_AT_ONCE = 64
_READING_RATE = 1.5e-3
_LEARNING_RATE = 6e-4
TOKENS = (SIDE_PX // PATCH_PX) ** 2
READING_STEPS = 4
"""Steps on sentences for each through the transformer, which takes twenty times as long."""


class ImageEncoder(nn.Module):
    """SigLIP's tower (16 tokens; FLUX.1's has 729) and the projection into T5's space."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=IMAGE_CHANNELS,
                intermediate_size=2 * IMAGE_CHANNELS,
                num_hidden_layers=3,
                num_attention_heads=3,
                image_size=SIDE_PX,
                patch_size=PATCH_PX,
                vision_use_head=False,
            )
        )
        self.embedder = ReduxImageEncoder(redux_dim=IMAGE_CHANNELS, txt_in_features=TEXT_CHANNELS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 16, 128) of (n, 3, 64, 64) from -1 to 1."""
        tokens: torch.Tensor = self.embedder(self.tower(images).last_hidden_state).image_embeds
        return tokens


def processor() -> SiglipImageProcessor:
    """Make the image processor: 64 by 64 px, from -1 to 1."""
    return SiglipImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})


def moved(random: Random, scene: Scene) -> Scene:
    """Return the scene as a variation may show it: things moved a little, a little larger."""
    things = tuple(
        replace(
            thing,
            x=thing.x + random.uniform(-0.04, 0.04),
            y=thing.y + random.uniform(-0.04, 0.04),
            radius=thing.radius * random.uniform(0.92, 1.08),
        )
        for thing in scene.things
    )
    return replace(scene, things=things)


def mixed(random: Random, first: Scene, second: Scene, weight: float) -> Scene:
    """Take each attribute from the first scene with the probability of its weight."""

    def one_of() -> Scene:
        return first if random.random() < weight else second

    where = one_of()
    shape, colour = one_of().things[0].shape, one_of().things[0].colour
    background = one_of().background
    if colour == background:
        background = where.background
        colour = where.things[0].colour
    return Scene(background, (replace(where.things[0], shape=shape, colour=colour),))


def _reference(random: Random, scene: Scene, process: SiglipImageProcessor) -> np.ndarray:
    image = drawing.draw(scene, 128, 128, random)
    array: np.ndarray = process(images=image, return_tensors="np")["pixel_values"][0]
    return array


@dataclass(frozen=True)
class Examples:
    """Reference images, and the images to generate from them."""

    first: torch.Tensor
    """(n, 3, 64, 64) from -1 to 1; so is `second`, which is the first again for most."""
    second: torch.Tensor
    weight: torch.Tensor
    """(n,): share of the first."""
    latents: torch.Tensor
    """(n, tokens, channels) of an image that shows the mix of both."""
    words: list[str]
    """The plainest sentence about the first."""


def make_examples(vae: AutoencoderKL, count: int, seed: int) -> Examples:
    """Draw and encode about so many examples."""
    random = Random(seed)
    process = processor()
    made = []
    words = []
    for _ in tqdm(range(max(1, count // _AT_ONCE)), desc="redux: examples", unit="batch"):
        firsts, seconds, weights, targets = [], [], [], []
        for _ in range(_AT_ONCE):
            first = second = scenes.scene(random, pairs=0.2, empties=0.02)
            weight = 1.0
            if random.random() < MIXED_SHARE:
                first, second = _lone(random), _lone(random)
                weight = random.uniform(0.3, 1.0)
            result = first if weight == 1.0 else mixed(random, first, second, weight)
            firsts.append(_reference(random, first, process))
            seconds.append(firsts[-1] if weight == 1.0 else _reference(random, second, process))
            weights.append(weight)
            words.append(captions.plainly(first))
            targets.append(drawing.draw(moved(random, result), 128, 128, random))
        latents = pack(encode(vae, np.stack(targets))).cpu()
        stacked = (torch.from_numpy(np.stack(part)) for part in (firsts, seconds))
        made.append((*stacked, torch.tensor(weights), latents))
    return Examples(*(torch.cat(parts) for parts in zip(*made, strict=True)), words)


def _lone(random: Random) -> Scene:
    while True:
        scene = scenes.single(random)
        if not scenes.has_held_out(scene):
            return scene


def train_redux(
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    text: Text,
    *,
    steps: int,
    examples: int,
    device: torch.device,
    seed: int,
) -> ImageEncoder:
    """Train an image encoder: on sentences, then on the frozen transformer (without guidance)."""
    torch.manual_seed(seed)
    random = Random(seed)
    made = make_examples(vae, examples, seed)
    encoder = ImageEncoder().to(device)
    _read(encoder, made, text, random, READING_STEPS * steps, device)
    return _draw(encoder, made, transformer, text, random, steps, seed)


def _read(
    encoder: ImageEncoder,
    made: Examples,
    text: Text,
    random: Random,
    steps: int,
    device: torch.device,
) -> None:
    """Teach the tokens to be those of the sentence about the image."""
    wanted = torch.cat(
        [
            text.encode(made.words[start : start + _AT_ONCE])[0][:, :TOKENS].cpu()
            for start in range(0, len(made.words), _AT_ONCE)
        ]
    )
    scale = wanted.std()
    optimizer = torch.optim.AdamW(
        encoder.parameters(), _READING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    bar = Bar("redux: reading", steps)
    for step in bar.steps():
        rows = [random.randrange(len(made.words)) for _ in range(_AT_ONCE)]
        tokens = encoder(made.first[rows].to(device))
        loss = (((tokens - wanted[rows].to(device)) / scale) ** 2).mean()
        descend(loss, [optimizer], encoder.parameters(), rate(step, steps))
        bar.show({"loss": loss.detach()})


def _draw(
    encoder: ImageEncoder,
    made: Examples,
    transformer: FluxTransformer2DModel,
    text: Text,
    random: Random,
    steps: int,
    seed: int,
) -> ImageEncoder:
    """Train the tokens on through the transformer; return the running average."""
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    transformer.eval().requires_grad_(requires_grad=False)
    average = Average(encoder, 0.999)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), _LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
    )
    embeds, pooled = (part.expand(_BATCH, *part.shape[1:]) for part in text.encode([""]))
    bar = Bar("redux", steps)
    for step in bar.steps():
        rows = [random.randrange(len(made.words)) for _ in range(_BATCH)]
        targets, share = made.latents[rows].to(device), made.weight[rows, None, None].to(device)
        noisy, target, sigma, guidance = on_the_way(targets, generator)
        ids = image_ids(Batch(128, 128, targets, None, []), device)
        with on_plain_attention(device), quick_half(device):
            tokens = share * encoder(made.first[rows].to(device))
            tokens = tokens + (1 - share) * encoder(made.second[rows].to(device))
            words = (torch.cat([embeds, tokens], dim=1), pooled)
            predicted = velocity(transformer, noisy, None, words, sigma, guidance, ids)
        loss = ((predicted.float() - target) ** 2).mean()
        descend(loss, [optimizer], encoder.parameters(), rate(step, steps))
        average.update(encoder)
        bar.show({"loss": loss.detach()})
    return average.module


def export_redux(encoder: ImageEncoder, out: Path) -> None:
    """Write the redux folder in half precision."""
    pipeline = FluxPriorReduxPipeline(
        image_encoder=encoder.tower.half(),
        feature_extractor=processor(),
        image_embedder=encoder.embedder.half(),
    )
    pipeline.save_pretrained(out / "redux")
    make_plain(out / "redux")


def load_redux(exported: Path) -> ImageEncoder:
    """Read the image encoder of exported folders."""
    pipeline = FluxPriorReduxPipeline.from_pretrained(
        exported / "redux", dtype=torch.float32, local_files_only=True
    )
    encoder = ImageEncoder()
    encoder.tower, encoder.embedder = pipeline.image_encoder, pipeline.image_embedder
    return encoder
