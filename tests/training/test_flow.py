"""What a transformer is fed in training is what its pipeline feeds it when it draws."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from training import flow, folders, latents, tasks
from training.latents import Batch
from training.tokenizers import TEXT_TOKENS
from training.transformers import KINDS, make_transformer, widen
from training.vae import make_vae

WIDTH, HEIGHT = 96, 64
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def parts():
    """An untrained VAE and text encoders: what is compared is how they are used."""
    from training import tokenizers
    from training.text import make_text

    torch.manual_seed(0)
    corpus = ["a red circle on a blue background", "make the circle green"]
    text = make_text(tokenizers.make_clip_tokenizer(corpus), tokenizers.make_t5_tokenizer(corpus))
    text.text_encoder.eval()
    text.text_encoder_2.eval()
    vae = make_vae().eval()
    vae.register_to_config(scaling_factor=0.9, shift_factor=0.1)
    return vae, text


class Recorder:
    """Stands before a transformer's forward and keeps what comes in."""

    def __init__(self, transformer):
        self.calls = []
        self._forward = transformer.forward
        transformer.forward = self

    def __call__(self, **arguments):
        self.calls.append(arguments)
        return self._forward(**arguments)


def drawn_by_the_pipeline(kind, parts, example, noise):
    """Run the stock pipeline for two steps from the given noise; return the recorded calls."""
    vae, text = parts
    torch.manual_seed(1)
    transformer = make_transformer(kind).eval()
    pipe = folders.make_pipeline(kind, vae, text, transformer)
    pipe.set_progress_bar_config(disable=True)
    given = {} if example.given is None else {"image": Image.fromarray(example.given)}
    match kind:
        case "kontext":
            given |= {"max_area": WIDTH * HEIGHT, "_auto_resize": False}
        case "fill":
            given["mask_image"] = Image.fromarray(example.mask)
        case "control":
            given = {"control_image": given["image"]}
    recorder = Recorder(transformer)
    pipe(
        prompt=PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=2, guidance_scale=2.5,
        max_sequence_length=TEXT_TOKENS, latents=noise, output_type="latent",
        generator=torch.Generator().manual_seed(0), **given,
    )  # fmt: skip
    return recorder.calls, transformer


@pytest.mark.parametrize("kind", KINDS)
def test_training_feeds_what_the_pipeline_feeds(kind, parts):
    vae, text = parts
    example = tasks.TASKS[kind](Random(4), WIDTH, HEIGHT)
    noise = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(2))
    theirs, transformer = drawn_by_the_pipeline(kind, parts, example, noise)
    given = latents.given_tokens(vae, [example])
    batch = Batch(WIDTH, HEIGHT, noise, given, [PROMPT])
    ours = Recorder(transformer)
    words = text.encode([PROMPT])
    sigma, guidance = torch.tensor([1.0]), torch.tensor([2.5])
    with torch.no_grad():
        ids = flow.image_ids(batch, noise.device)
        predicted = flow.velocity(transformer, noise, given, words, sigma, guidance, ids)
    assert predicted.shape == noise.shape
    mine, stock = ours.calls[0], theirs[0]
    for name in ("timestep", "guidance", "img_ids", "txt_ids", "encoder_hidden_states"):
        assert torch.allclose(mine[name], stock[name].float(), atol=1e-5), name
    assert torch.allclose(mine["pooled_projections"], stock["pooled_projections"], atol=1e-5)
    assert mine["hidden_states"].shape == stock["hidden_states"].shape
    # Where the pipeline samples the VAE, only the image's spread may differ; else nothing may.
    difference = (mine["hidden_states"] - stock["hidden_states"]).abs()
    if kind == "kontext":
        assert difference[:, :24].max() == 0
        assert difference.mean() < 0.02  # our encoder runs in bf16
    elif given is None:
        assert difference.max() == 0
    else:
        assert difference[..., :32].max() == 0
        assert difference[..., 64:].sum() == 0  # the mask, for fill
        assert difference[..., 32:64].mean() < 0.3


def test_the_way_from_noise_to_image_is_what_is_predicted(parts):
    """One Euler step with the true velocity from any noise level ends at the latents."""
    noisy_to_clean = torch.linspace(0.1, 1, 5)
    latent, noise = torch.randn(2, 1, 24, 32).unbind(0)
    for sigma in noisy_to_clean:
        noisy = (1 - sigma) * latent + sigma * noise
        assert torch.allclose(noisy - sigma * (noise - latent), latent, atol=1e-5)


def test_noise_levels_lie_as_the_scheduler_steps():
    levels = flow.sigmas(20_000, torch.Generator().manual_seed(3))
    assert 0 <= levels.min() < 0.05
    assert 0.95 < levels.max() <= 1
    assert abs(levels.median().item() - flow.SIGMA_SHIFT / (1 + flow.SIGMA_SHIFT)) < 0.02
    mu = 0.5 + (64 - 256) * (1.15 - 0.5) / (4096 - 256)  # FluxPipeline's at 128 px
    assert abs(np.exp(mu) / flow.SIGMA_SHIFT - 1) < 0.05


def test_a_widened_transformer_draws_what_it_drew():
    torch.manual_seed(5)
    narrow = make_transformer("text2img")
    with torch.no_grad():
        narrow.proj_out.weight.normal_(0, 0.02)
    wide = widen(narrow, "control").eval()
    noise, none = torch.randn(1, 24, 32), torch.zeros(1, 24, 32)
    words = torch.randn(1, 8, 128), torch.randn(1, 96)
    batch = Batch(WIDTH, HEIGHT, noise, None, [""])
    ids = flow.image_ids(batch, noise.device)
    level, guidance = torch.tensor([0.5]), torch.tensor([3.0])
    with torch.no_grad():
        one = flow.velocity(narrow.eval(), noise, None, words, level, guidance, ids)
        other = flow.velocity(wide, noise, none, words, level, guidance, ids)
    assert torch.allclose(one, other, atol=1e-6)
    assert one.abs().max() > 0
