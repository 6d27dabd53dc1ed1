"""Rectified flow: a transformer learns the way from noise to latents as the pipelines walk it.

`x = (1 - sigma) * latents + sigma * noise`, and the transformer predicts `noise - latents`: the
convention of FlowMatchEulerDiscreteScheduler. Guidance is distilled in afterwards (FLUX.1 dev's
way): the student learns to predict in one pass what classifier-free guidance needs two for.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.fx.experimental._config
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import multiprocessing
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.latents import Batch, Store, choose
from training.loop import Average, Bar, descend, quick_half, rate
from training.text import Text
from training.transformers import TOKEN_PX

NO_PROMPT_SHARE = 0.1
"""How often all words are left out: what true CFG compares with."""
NO_POOLED_SHARE = 0.08
"""How often CLIP's vector is that of no words: so the tokens alone can lead, as in redux."""
GUIDANCE_RANGE = (1.0, 6.0)

SIGMA_SHIFT = math.exp(0.5)
"""The scheduler's dynamic shift at 16 to 256 tokens (0.46 to 0.5)."""


@dataclass(frozen=True)
class FlowSpec:
    """How one training goes."""

    name: str
    steps: int
    """Over all workers together."""
    seed: int
    tokens: int = 2048
    """Image tokens in a batch: 32 images of 128 px."""
    muon_rate: float = 2e-3
    adam_rate: float = 1e-3
    decay: float = 0.999
    distil: bool = False
    """Learn from the guided teacher (the weights it starts from) instead of the latents."""
    compiled: bool = False
    """Compile the blocks first: two minutes, then nearly twice as fast on a CPU."""
    checkpoint: Path | None = None
    """Where the averaged weights are written ten times on the way."""


def sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count,) noise levels: logit-normal, shifted as at sampling, one in ten uniform."""
    level = torch.sigmoid(torch.randn(count, generator=generator))
    shifted = SIGMA_SHIFT * level / (1 + (SIGMA_SHIFT - 1) * level)
    flat = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.1, flat, shifted)


def on_the_way(
    latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return latents somewhere on their way from noise: (noisy, velocity, sigma, guidance).

    The velocity is the target of the prediction; sigma and guidance are (n,), chosen at random.
    """
    count, device = latents.shape[0], latents.device
    sigma = sigmas(count, generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    level = sigma[:, None, None]
    low, high = GUIDANCE_RANGE
    guidance = (low + (high - low) * torch.rand(count, generator=generator)).to(device)
    return (1 - level) * latents + level * noise, noise - latents, sigma, guidance


def image_ids(batch: Batch, device: torch.device) -> torch.Tensor:
    """Return (tokens, 3): row and column of each token, as FluxPipeline makes them."""
    ids: torch.Tensor = FluxPipeline._prepare_latent_image_ids(
        1, batch.height_px // TOKEN_PX, batch.width_px // TOKEN_PX, device, torch.float32
    )
    return ids


def velocity(
    model: FluxTransformer2DModel,
    noisy: torch.Tensor,
    given: torch.Tensor | None,
    words: tuple[torch.Tensor, torch.Tensor],
    sigma: torch.Tensor,
    guidance: torch.Tensor,
    ids: torch.Tensor,
) -> torch.Tensor:
    """Return (n, tokens, 32): what the transformer predicts, fed as its kind's pipeline does.

    Where the given tokens have the channels of images and the transformer takes no more, they
    follow the noisy ones (kontext); else they are concatenated as channels (fill, control).
    """
    states, all_ids = noisy, ids
    if given is not None:
        if model.config.in_channels == noisy.shape[2]:
            reference_ids = ids.clone()
            reference_ids[:, 0] = 1
            states, all_ids = torch.cat([noisy, given], 1), torch.cat([ids, reference_ids])
        else:
            states = torch.cat([noisy, given], 2)
    embeds, pooled = words
    predicted: torch.Tensor = model(
        hidden_states=states,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=guidance,
        img_ids=all_ids,
        txt_ids=ids.new_zeros(embeds.shape[1], 3),
        return_dict=False,
    )[0]
    return predicted[:, : noisy.shape[1]]


def optimizers(model: FluxTransformer2DModel, spec: FlowSpec) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that mix a token's channels, Adam for all else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inside = "blocks" in name and ".norm" not in name  # modulations are fed by one vector
        (matrices if inside and parameter.ndim == 2 else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=spec.muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=spec.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train_flow(
    model: FluxTransformer2DModel, stores: list[Store], text: Text, spec: FlowSpec, *, workers: int
) -> FluxTransformer2DModel:
    """Train a transformer and return the running average of its weights.

    On a CPU several workers of one thread each write the same weights without waiting for each
    other (Hogwild); on a busy machine that is far quicker than one worker of several threads. One
    worker repeats to the bit on the same machine, more do not.
    """
    average = Average(model, spec.decay)
    if workers == 1:
        _work(0, 1, model, average, stores, text, spec)
        return average.module
    model.share_memory()
    average.module.share_memory()
    multiprocessing.spawn(
        _work_alone, (workers, model, average, stores, text, spec), nprocs=workers
    )
    return average.module


def _work_alone(rank: int, *arguments: object) -> None:
    torch.set_num_threads(1)
    _work(rank, *arguments)  # type: ignore[arg-type]


def _work(
    rank: int,
    workers: int,
    model: FluxTransformer2DModel,
    average: Average,
    stores: list[Store],
    text: Text,
    spec: FlowSpec,
) -> None:
    device = next(model.parameters()).device
    random = Random(spec.seed * 100 + rank)
    generator = torch.Generator().manual_seed(spec.seed * 100 + rank)
    teacher = deepcopy(average.module) if spec.distil else None
    steps = spec.steps // workers
    optimizers_ = optimizers(model, spec)
    if spec.compiled:
        for module in (model, teacher):
            if module is not None:
                compile_blocks(module)
    model.train()
    bar = Bar(spec.name, steps, shown=rank == 0)
    for step in bar.steps():
        batch = choose(stores, spec.tokens, random, device)
        with on_plain_attention(device):
            loss = _loss(model, teacher, batch, text, random, generator)
        descend(loss, optimizers_, model.parameters(), rate(step, steps))
        if rank == 0:
            average.update(model)
            bar.show({"loss": loss.detach()})
            if spec.checkpoint is not None and (step + 1) % max(1, steps // 10) == 0:
                torch.save(average.module.state_dict(), spec.checkpoint)


def compile_blocks(model: FluxTransformer2DModel) -> None:
    """Compile a transformer's blocks for batches and canvases of any size."""
    # Sizes that happen to be equal (32 images, 32 text tokens) are not one size.
    torch.fx.experimental._config.use_duck_shape = False
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        block.compile(dynamic=True)


def on_plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU, plain matrix products: the fused kernel's backward took 2.5 times as long."""
    if device.type == "cpu":
        plain: AbstractContextManager[None] = sdpa_kernel([SDPBackend.MATH])
        return plain
    return nullcontext()


def _loss(
    model: FluxTransformer2DModel,
    teacher: FluxTransformer2DModel | None,
    batch: Batch,
    text: Text,
    random: Random,
    generator: torch.Generator,
) -> torch.Tensor:
    device = batch.targets.device
    count = len(batch.prompts)
    noisy, target, sigma, guidance = on_the_way(batch.targets, generator)
    ids = image_ids(batch, device)
    if teacher is None:
        words = _words_with_gaps(text, batch.prompts, random)
    else:
        words = text.encode(batch.prompts)
        none = text.encode([""] * count)
        with torch.no_grad(), quick_half(device):
            asked = velocity(teacher, noisy, batch.given, words, sigma, guidance, ids)
            unasked = velocity(teacher, noisy, batch.given, none, sigma, guidance, ids)
        target = unasked.float() + guidance[:, None, None] * (asked.float() - unasked.float())
    with quick_half(device):
        predicted = velocity(model, noisy, batch.given, words, sigma, guidance, ids)
    return ((predicted.float() - target) ** 2).mean()


def _words_with_gaps(
    text: Text, prompts: list[str], random: Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode prompts, some of them left out, some only by their tokens."""
    said = ["" if random.random() < NO_PROMPT_SHARE else prompt for prompt in prompts]
    embeds, pooled = text.encode(said)
    _, no_pooled = text.encode([""])
    silent = torch.tensor([random.random() < NO_POOLED_SHARE for _ in said], device=pooled.device)
    return embeds, torch.where(silent[:, None], no_pooled, pooled)
