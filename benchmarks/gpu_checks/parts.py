"""Parts of FLUX.1 with random weights, made on the device: nothing is downloaded or read.

The weights are what the libraries' own constructors start a training with: of realistic size, with
no zeros where there should be none, no denormals, no NaN. A GPU's clock depends on the numbers it
multiplies, so weights of zeros would look faster than real ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from flux_mcp.settings.settings import PACKAGE_DIR
from gpu_checks.scale import Scale

CHANNELS: Mapping[str, int] = MappingProxyType(
    {"text2img": 64, "kontext": 64, "fill": 384, "control": 128}
)
"""What the transformer of each kind takes, in the published config.json; each gives 64 back."""
TOKENIZERS = PACKAGE_DIR / "weights" / "micro" / "text2img"
"""micro's: their small vocabularies fit into the real encoders, and lengths are padded alike."""


@contextmanager
def random_weights(device: str, seed: int, dtype: Any = None) -> Iterator[None]:
    """Let constructors make their weights on a device, in bf16 unless told otherwise."""
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype or torch.bfloat16)
    try:
        with torch.device(device), torch.random.fork_rng(enabled=device != "meta"):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(usual)


def transformer(scale: Scale, device: str, kind: str = "text2img", *, guidance: bool = True) -> Any:
    """Return a FluxTransformer2DModel; `guidance` is false for schnell alone."""
    from diffusers import FluxTransformer2DModel

    with random_weights(device, seed=1):
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=CHANNELS[kind],
            out_channels=CHANNELS["text2img"],
            guidance_embeds=guidance,
            **scale.transformer,
        )
    return model.eval().requires_grad_(requires_grad=False)


def vae(scale: Scale, device: str) -> Any:
    """Return the AutoencoderKL."""
    from diffusers import AutoencoderKL

    with random_weights(device, seed=2):
        model = AutoencoderKL(**scale.vae)
    return model.eval().requires_grad_(requires_grad=False)


def t5(scale: Scale, device: str) -> Any:
    """Return the large text encoder."""
    from transformers import T5Config, T5EncoderModel

    with random_weights(device, seed=3):
        model = T5EncoderModel(T5Config(**scale.t5))
    return model.eval().requires_grad_(requires_grad=False)


def clip(scale: Scale, device: str) -> Any:
    """Return the small text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    first, last = _special_tokens()
    named = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": last}
    with random_weights(device, seed=4):
        model = CLIPTextModel(CLIPTextConfig(**scale.clip, **named))
    return model.eval().requires_grad_(requires_grad=False)


def redux(scale: Scale, device: str) -> dict[str, Any]:
    """Return the parts of a FluxPriorReduxPipeline."""
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    side = scale.siglip["image_size"]
    # On the CPU, then copied: their first numbers come from functions few devices have in bf16.
    with random_weights("cpu", seed=5):
        encoder = SiglipVisionModel(SiglipVisionConfig(**scale.siglip))
        embedder = ReduxImageEncoder(**scale.redux)
    return {
        "image_encoder": encoder.to(device).eval().requires_grad_(requires_grad=False),
        "feature_extractor": SiglipImageProcessor(size={"height": side, "width": side}),
        "image_embedder": embedder.to(device).eval().requires_grad_(requires_grad=False),
    }


def scheduler() -> Any:
    """Return the scheduler of FLUX.1 dev (its scheduler_config.json)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def tokenizers() -> dict[str, Any]:
    """Return both tokenizers under the pipelines' names."""
    from transformers import CLIPTokenizer, T5Tokenizer

    classes = {"tokenizer": CLIPTokenizer, "tokenizer_2": T5Tokenizer}
    return {
        name: kind.from_pretrained(str(TOKENIZERS / name), local_files_only=True)
        for name, kind in classes.items()
    }


def _special_tokens() -> tuple[int, int]:
    """Return first and last token of the small tokenizer: the encoder looks the last one up."""
    tokenizer = tokenizers()["tokenizer"]
    return int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)


def pipeline(scale: Scale, device: str, kind: str = "text2img", *, guidance: bool = True) -> Any:
    """Return a whole pipeline of one kind (`text2img` or `kontext`) on the device."""
    import diffusers

    classes = {"text2img": diffusers.FluxPipeline, "kontext": diffusers.FluxKontextPipeline}
    pipe = classes[kind](
        scheduler=scheduler(),
        vae=vae(scale, device),
        text_encoder=clip(scale, device),
        text_encoder_2=t5(scale, device),
        transformer=transformer(scale, device, kind, guidance=guidance),
        **tokenizers(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
