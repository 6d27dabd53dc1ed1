"""FLUX.2 klein, very small and untrained, in the folders of its repository.

Its geometry is the real one: 32 latent channels by the VAE's batch statistics, 128 packed; Qwen3's
hidden states 9, 18 and 27; four axes of positions.
"""

import json
from pathlib import Path

from flux_mcp.models.registry import ModelSpec

WIDTH = 32
HEADS = 2
TEXT_WIDTH = 16
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = ["a red circle on a blue background", "a green star on a yellow background", "0123456789"]


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learned.train_from_iterator(LINES, trainer)
    vocab = learned.get_vocab()
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, pad_token=special[0])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _text_encoder(tokenizer):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


def _scheduler():
    import diffusers

    return diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    )


def _vae():
    import diffusers
    import torch

    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=64
    )
    vae.bn.running_mean.copy_(torch.randn(128) * 0.1)
    vae.bn.running_var.copy_(torch.rand(128) * 0.1 + 0.01)
    return vae.eval()


def _transformer(*, guidance_embeds):
    import diffusers

    transformer = diffusers.Flux2Transformer2DModel(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=3 * TEXT_WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    return transformer.eval()


def build_klein(folder: Path, *, is_distilled: bool = True) -> None:
    """Write the folders of a pipeline; always the same weights."""
    import diffusers
    import torch

    torch.manual_seed(3)
    tokenizer = _tokenizer()
    pipe = diffusers.Flux2KleinPipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=_transformer(guidance_embeds=False),
        is_distilled=is_distilled,
    )
    pipe.save_pretrained(folder)


def klein_row(kind: str, folder: Path, **changes: object) -> ModelSpec:
    """A registry row of it."""
    row = {
        "id": "tiny-klein",
        "kind": kind,
        "title": "FLUX.2 klein, very small",
        "family": "flux2",
        "folder": str(folder),
        "pipeline": "Flux2KleinPipeline",
        "in_channels": 128,
        "steps": {"low": 4, "standard": 4, "high": 4},
        "max_steps": 8,
        "default_guidance": 1.0,
        "takes_guidance": False,
        "takes_negative_prompt": False,
        "default_pixels": 128 * 128,
        "max_pixels": 512 * 512,
        "max_reference_images": 0 if kind == "text2img" else 4,
        "max_sequence_length": 64,
        "precision": "fp32",
        "licence": "apache-2.0",
        "gated": False,
        "disk_gib": 0.001,
        "transformer": "flux2-klein-4b",
        "text_encoders": ["qwen3-4b"],
        "vae": "flux2",
        "qualities": ["low"],
        "source": "tests",
    }
    return ModelSpec.model_validate(row | changes)


def build_dev(folder: Path) -> None:
    """Write a pipeline of FLUX.2 dev: Mistral's text encoder, and guidance as a number.

    With a plain tokenizer: Pixtral's processor wants torchvision, which tests do not install.
    """
    import diffusers
    import torch
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    torch.manual_seed(5)
    tokenizer = _tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% for item in message['content'] %}"
        "{{ item['text'] }}{% endfor %}\n{% endfor %}"
    )
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=31,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
    )
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=0)
    )
    pipe = diffusers.Flux2Pipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        transformer=_transformer(guidance_embeds=True),
    )
    pipe.save_pretrained(folder)
