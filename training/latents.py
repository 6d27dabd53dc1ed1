"""Examples as latents, encoded once and sampled many times: encoding costs as much as a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from tqdm import tqdm

from training.loop import quick_half
from training.tasks import CANVASES, TASKS, Example
from training.vae import FACTOR, to_tensor

_AT_ONCE = 32
_DTYPE = torch.float16


@dataclass(frozen=True)
class Store:
    """Examples of one canvas."""

    width_px: int
    height_px: int
    targets: torch.Tensor
    """(n, tokens, 32) packed latents, scaled; fp16."""
    given: torch.Tensor | None
    """(n, tokens, channels) of what the kind is given, as its pipeline packs it; fp16."""
    prompts: tuple[tuple[str, ...], ...]

    @property
    def tokens(self) -> int:
        """Image tokens of one example."""
        return self.targets.shape[1]


@dataclass(frozen=True)
class Batch:
    """Some examples of one canvas."""

    width_px: int
    height_px: int
    targets: torch.Tensor
    given: torch.Tensor | None
    prompts: list[str]


def encode(vae: AutoencoderKL, images: np.ndarray, *, sampled: bool = False) -> torch.Tensor:
    """Return (n, channels, height/8, width/8): the scaled latents of (n, height, width, 3) bytes.

    Their modes, or sampled from what the VAE thinks they may be.
    """
    tensor = to_tensor(images).to(vae.device)
    with torch.no_grad(), quick_half(tensor.device):
        posterior = vae.encode(tensor).latent_dist
    latents = posterior.sample() if sampled else posterior.mode()
    return (latents.float() - vae.config.shift_factor) * vae.config.scaling_factor


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return (n, tokens, 4 * channels) as the pipelines pack latents."""
    packed: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def pack_masks(masks: np.ndarray) -> torch.Tensor:
    """Return (n, tokens, 256) of (n, height, width): 8 by 8 px become channels, then packed."""
    tensor = torch.from_numpy((masks >= 128).astype(np.float32))
    count, height, width = tensor.shape
    folded = tensor.view(count, height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    folded = folded.permute(0, 2, 4, 1, 3).reshape(
        count, FACTOR**2, height // FACTOR, width // FACTOR
    )
    return pack(folded)


def given_tokens(vae: AutoencoderKL, examples: list[Example]) -> torch.Tensor | None:
    """Return what the transformer is given besides noise and words: (n, tokens, channels).

    FluxKontextPipeline takes the modes of its image, the fill and control pipelines sample.
    """
    if examples[0].given is None:
        return None
    images = np.stack([example.given for example in examples if example.given is not None])
    if examples[0].mask is None:
        return pack(encode(vae, images, sampled=examples[0].before is None)).cpu()
    masks = np.stack([example.mask for example in examples if example.mask is not None])
    # FluxFillPipeline multiplies by 1 - mask between -1 and 1: the part to inpaint is grey.
    hidden = np.where(masks[..., None] >= 128, np.uint8(128), images)
    return torch.cat([pack(encode(vae, hidden, sampled=True)).cpu(), pack_masks(masks)], dim=2)


def make_stores(
    kind: str,
    vae: AutoencoderKL,
    count: int,
    seed: int,
    canvases: Mapping[tuple[int, int], float] = CANVASES,
) -> list[Store]:
    """Draw and encode about `count` examples of a kind, on every canvas by its share."""
    random = Random(seed)
    torch.manual_seed(seed)  # for the sampled latents
    stores = []
    with tqdm(total=count, desc=f"{kind}: examples", unit="image") as bar:
        for (width, height), share in canvases.items():
            batches = []
            for _ in range(max(1, round(count * share / _AT_ONCE))):
                examples = [TASKS[kind](random, width, height) for _ in range(_AT_ONCE)]
                targets = np.stack([example.target for example in examples])
                given = given_tokens(vae, examples)
                batches.append(
                    (
                        pack(encode(vae, targets)).cpu().to(_DTYPE),
                        None if given is None else given.to(_DTYPE),
                        [example.prompts for example in examples],
                    )
                )
                bar.update(_AT_ONCE)
            given_all = [given for _, given, _ in batches if given is not None]
            stores.append(
                Store(
                    width,
                    height,
                    torch.cat([targets for targets, _, _ in batches]),
                    torch.cat(given_all) if given_all else None,
                    tuple(prompts for _, _, many in batches for prompts in many),
                )
            )
    return stores


def choose(stores: list[Store], tokens: int, random: Random, device: torch.device) -> Batch:
    """Choose a batch of about so many image tokens from one canvas, canvases by their shares."""
    store = random.choices(stores, [store.targets.shape[0] for store in stores])[0]
    count = max(1, min(tokens // store.tokens, store.targets.shape[0]))
    rows = [random.randrange(store.targets.shape[0]) for _ in range(count)]
    return Batch(
        store.width_px,
        store.height_px,
        store.targets[rows].to(device, torch.float32),
        None if store.given is None else store.given[rows].to(device, torch.float32),
        [random.choice(store.prompts[row]) for row in rows],
    )
