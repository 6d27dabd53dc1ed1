"""The segmentation model: a tiny CLIPSeg, from an image and words to the mask of what they name.

Its text encoder begins as the CLIP encoder of text2img, which reads the same words. The stock
`forward` freezes CLIP; here everything learns, so the parts are called one by one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    ViTImageProcessor,
)

from training import drawing, regions, scenes, tasks
from training.drawing import Pixels
from training.folders import make_plain
from training.loop import Average, Bar, descend, quick_half, rate
from training.scenes import Scene
from training.text import Text
from training.tokenizers import copied_clip

SIDE_PX = 96
PATCH_PX = 8
_CHANNELS = 128
_LAYERS = 5
_EXTRACTED = (1, 3, 4)
"""Layers the decoder sees: the last is asked by the words, the first knows where edges are."""
_REDUCED = 64
_HEADS = 2
_IMAGES = 8
_PHRASES = 6
"""Phrases for each image of a step: what the image encoder costs is shared."""
_MATRIX_RATE = 2e-3
_OTHER_RATE = 1e-3
_READING_RATE = 5e-3
READING_SHARE = 0.5
"""Steps of reading for each of marking."""
_READING = 0.3
"""Weight of what the readers misread."""


def make_model(text: Text) -> CLIPSegForImageSegmentation:
    """Make the untrained model around the text encoder of text2img."""
    clip = text.text_encoder.config
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "max_position_embeddings", "hidden_act",
        "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={name: getattr(clip, name) for name in same},
            vision_config={
                "hidden_size": _CHANNELS,
                "intermediate_size": 2 * _CHANNELS,
                "num_hidden_layers": _LAYERS,
                "num_attention_heads": _HEADS,
                "image_size": SIDE_PX,
                "patch_size": PATCH_PX,
            },
            projection_dim=clip.hidden_size,
            extract_layers=list(_EXTRACTED),
            reduce_dim=_REDUCED,
            decoder_num_attention_heads=_HEADS,
            decoder_intermediate_size=2 * _REDUCED,
        )
    )
    weights = {
        name.removeprefix("text_model."): weight
        for name, weight in text.text_encoder.state_dict().items()
    }
    model.clip.text_model.load_state_dict(weights)
    decoder = model.decoder
    # The library begins these with a deviation of 1, at which nothing is learned.
    for layer in (
        *decoder.reduces, decoder.film_mul, decoder.film_add, decoder.transposed_convolution
    ):  # fmt: skip
        layer.reset_parameters()
    return model


def make_processor(tokenizer: CLIPTokenizer) -> CLIPSegProcessor:
    """Make the processor: every image squeezed to the square, as the original's is."""
    images = ViTImageProcessor(
        size={"height": SIDE_PX, "width": SIDE_PX},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
    return CLIPSegProcessor(images, copied_clip(tokenizer))


SEEN: dict[str, tuple[str | None, ...]] = {
    "shape": (None, *scenes.SHAPES),
    "colour": tuple(scenes.COLOURS),
    "size": (None, *scenes.RADII),
    "place": (None, *scenes.PLACES),
}
"""What a patch may show of the thing that covers it; without one, only the background's colour."""
SAID: dict[str, tuple[str | None, ...]] = SEEN | {
    "colour": (None, *scenes.COLOURS),
    "what": ("things", "ground", "colour", "nobody"),
}
"""What words may ask for."""


class Readers(nn.ModuleDict):
    """One linear reader for each attribute; only for the training.

    Without them the model marks every thing and does not begin to read for hundreds of steps.
    """

    def __init__(self, channels: int, labels: dict[str, tuple[str | None, ...]]) -> None:
        super().__init__(
            {name: nn.Linear(channels, len(values)) for name, values in labels.items()}
        )

    def loss(self, states: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy; `truth` (..., attributes) in the order of the labels."""
        losses = [
            functional.cross_entropy(reader(states).flatten(0, -2), truth[..., i].flatten())
            for i, reader in enumerate(self.values())
        ]
        return torch.stack(losses).mean()

    def balanced_loss(self, states: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Return the same for patches, those of things and of backgrounds counted alike.

        Things cover a sixth of the patches. Counted one by one, what shape they have was not worth
        learning: a quarter of the patches was read right after 1300 steps.
        """
        is_thing = truth[..., 0] > 0
        return sum(
            (self.loss(states[where], truth[where]) for where in (is_thing, ~is_thing)),
            start=torch.zeros((), device=states.device),
        )


@dataclass(frozen=True)
class Batch:
    """Images, phrases about them, and the masks they mean."""

    images: list[Pixels]
    phrases: list[str]
    """As many for each image, image by image."""
    masks: torch.Tensor
    """(phrases, SIDE_PX, SIDE_PX) from 0 to 1."""
    seen: torch.Tensor
    """(images, patches, len(SEEN)): what each patch shows."""
    said: torch.Tensor
    """(phrases, len(SAID)): what each phrase asks for."""


def _batches(random: Random, count: int, phrases_each: int) -> Iterator[Batch]:
    sizes, shares = list(tasks.CANVASES), list(tasks.CANVASES.values())
    while True:
        images, phrases, masks, seen, said = [], [], [], [], []
        for _ in range(count):
            scene = regions.scene(random)
            width_px, height_px = random.choices(sizes, shares)[0]
            images.append(spoiled(random, drawing.draw(scene, width_px, height_px, random)))
            parts = regions.covers(scene, width_px, height_px)
            seen.append(_patches(scene, parts))
            for _ in range(phrases_each):
                asked = regions.region(random, scene)
                phrases.append(regions.words(random, asked))
                said.append([SAID[name].index(getattr(asked, name)) for name in SAID])
                masks.append(
                    cv2.resize(
                        regions.mask(asked, scene, parts),
                        (SIDE_PX, SIDE_PX),
                        interpolation=cv2.INTER_LINEAR,
                    )
                )
        yield Batch(
            images,
            phrases,
            torch.from_numpy(np.stack(masks)),
            torch.from_numpy(np.stack(seen)),
            torch.tensor(said),
        )


def _patches(scene: Scene, parts: Sequence[regions.Cover]) -> NDArray[np.int64]:
    """Return (patches, attributes): what most of each patch belongs to."""
    side = SIDE_PX // PATCH_PX
    small = np.stack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in parts])
    owner = small.argmax(axis=0).ravel()
    kinds = [
        (thing.shape, thing.colour, regions.size_of(thing), regions.place_of(thing))
        for thing in scene.things
    ] + [(None, scene.background, None, None)]
    labels = np.array(
        [[SEEN[name].index(v) for name, v in zip(SEEN, kind, strict=True)] for kind in kinds]
    )
    found: NDArray[np.int64] = labels[owner]
    return found


def spoiled(random: Random, image: Pixels) -> Pixels:
    """Return the image a little blurred, noisy or off in colour, as generated images are."""
    if random.random() < 0.4:
        return image
    noise = np.random.default_rng(random.getrandbits(32))
    changed = image.astype(np.float32)
    if random.random() < 0.5:
        changed = cv2.GaussianBlur(changed, (0, 0), random.uniform(0.3, 1.0))
    changed = changed + noise.normal(0, 6, 3)
    changed = changed + noise.normal(0, random.uniform(0, 5), image.shape)
    return np.clip(changed, 0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class _Views:
    """What the encoders make of a batch."""

    layers: list[torch.Tensor]
    """The extracted layers, (images, 1 + patches, channels) each."""
    patches: torch.Tensor
    """What the last layer makes of each patch."""
    asked: torch.Tensor
    """(phrases, channels): the embeddings of the phrases."""


class _Learner:
    """A model with its readers, on a device: both stages teach it."""

    def __init__(self, text: Text, device: torch.device) -> None:
        self.device = device
        self.model = make_model(text).to(device)
        # The fused kernel is slow backwards on a CPU.
        self.model.set_attn_implementation("eager")
        self.eyes = Readers(_CHANNELS, SEEN).to(device)
        self.ears = Readers(self.model.config.projection_dim, SAID).to(device)
        self._process = make_processor(text.tokenizer)

    def look(self, batch: Batch) -> _Views:
        """Call the encoders as `forward` does, each image once for all its phrases."""
        inputs = self._process(
            text=batch.phrases, images=batch.images, padding=True, return_tensors="pt"
        ).to(self.device)
        clip = self.model.clip
        with quick_half(self.device):
            seen = clip.get_image_features(inputs["pixel_values"], output_hidden_states=True)
            asked = clip.get_text_features(
                inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
        layers = [seen.hidden_states[layer + 1] for layer in self.model.extract_layers]
        return _Views(layers, seen.hidden_states[-1][:, 1:], asked)

    def misread(self, views: _Views, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of what is seen and of what is said."""
        seen = self.eyes.balanced_loss(views.patches.float(), batch.seen.to(self.device))
        return seen, self.ears.loss(views.asked.float(), batch.said.to(self.device))

    def mark(self, views: _Views) -> torch.Tensor:
        """Return the logits of the masks: (phrases, SIDE_PX, SIDE_PX)."""
        each = len(views.asked) // len(views.patches)
        layers = [layer.repeat_interleave(each, dim=0) for layer in views.layers]
        with quick_half(self.device):
            logits: torch.Tensor = self.model.decoder(layers, views.asked).logits
        return logits.float()

    def weights(self) -> list[nn.Parameter]:
        """Return everything that learns."""
        return [*self.model.parameters(), *self.eyes.parameters(), *self.ears.parameters()]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the new layers, Adam for all else."""
        matrices, others = [], []
        for name, parameter in self.model.named_parameters():
            inside = "layers" in name and not name.startswith("clip.text_model")
            (matrices if inside and parameter.ndim == 2 else others).append(parameter)
        readers = [*self.eyes.parameters(), *self.ears.parameters()]
        return [
            torch.optim.Muon(
                matrices, lr=_MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, _OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.01),
            torch.optim.AdamW(readers, _READING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def loss_of(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return cross entropy of the pixels plus, of what is there, 1 - a soft IoU.

    A small thing counts as much as a large one in the second.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    there = masks.amax(dim=(1, 2)) > 0.5
    marked = logits.sigmoid()
    both = (marked * masks).sum(dim=(1, 2))
    either = (marked + masks - marked * masks).sum(dim=(1, 2))
    missed = (1 - both / (either + 1.0))[there]
    return 2 * entropy + missed.mean()


def train_segmentation(
    text: Text, steps: int, device: torch.device, seed: int
) -> CLIPSegForImageSegmentation:
    """Train the model: first its encoders to read, then all of it to mark."""
    torch.manual_seed(seed)
    learner = _Learner(text, device)
    _read(learner, max(1, round(READING_SHARE * steps)), seed)
    return _find(learner, steps, seed + 1)


def _read(learner: _Learner, steps: int, seed: int) -> None:
    """Teach the encoders to see and to hear, without masks: a step takes a third of the time."""
    batches = _batches(Random(seed), 3 * _IMAGES, 1)
    optimizers, weights = learner.optimizers(), learner.weights()
    bar = Bar("segmentation: reading", steps)
    for step in bar.steps():
        batch = next(batches)
        seen, said = learner.misread(learner.look(batch), batch)
        descend(seen + said, optimizers, weights, rate(step, steps, 100))
        bar.show({"seen": seen.detach(), "said": said.detach()})


def _find(learner: _Learner, steps: int, seed: int) -> CLIPSegForImageSegmentation:
    """Teach everything; return the running average of the model's weights."""
    average = Average(learner.model, 0.998)
    batches = _batches(Random(seed), _IMAGES, _PHRASES)
    optimizers, weights = learner.optimizers(), learner.weights()
    bar = Bar("segmentation", steps)
    for step in bar.steps():
        batch = next(batches)
        views = learner.look(batch)
        found = loss_of(learner.mark(views), batch.masks.to(learner.device))
        seen, said = learner.misread(views, batch)
        loss = found + _READING * (seen + said)
        descend(loss, optimizers, weights, rate(step, steps, 100))
        average.update(learner.model)
        bar.show({"found": found.detach(), "seen": seen.detach(), "said": said.detach()})
    return average.module


def export_segmentation(
    model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, out: Path
) -> None:
    """Write the segmentation folder in half precision: model and processor in one, as hubs do."""
    folder = out / "segmentation"
    model.half().save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    make_plain(folder)
