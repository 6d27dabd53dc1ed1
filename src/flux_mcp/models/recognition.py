"""What a weight file holds, by the names and shapes in its header: which part of which model. Pure.

Names are those of diffusers and transformers, of Black Forest Labs, of ComfyUI and of llama.cpp. A
file may hold several parts, each under a prefix (`model.diffusion_model.`, `vae.`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flux_mcp.models.weight_headers import StoredTensor, WeightHeader

Role = Literal["transformer", "text", "clip", "vae", "lora", "other"]
Tensors = Mapping[str, StoredTensor]

PREFIXES: Mapping[Role, tuple[str, ...]] = {
    "transformer": ("model.diffusion_model.", "diffusion_model."),
    "text": ("text_encoders.t5xxl.transformer.", "text_encoders.qwen3_4b.transformer.",
             "text_encoders.qwen3_8b.transformer."),
    "clip": ("text_encoders.clip_l.transformer.",),
    "vae": ("vae.", "first_stage_model."),
}  # fmt: skip
"""Before a part's names in files that hold several (ComfyUI, comfy/supported_models.py)."""


@dataclass(frozen=True)
class FoundPart:
    """One part of a model in a file."""

    role: Role
    title: str
    """For people; of `other`, what it is or why it is unknown."""
    part: str = ""
    """Its row in parts.toml; empty for what no model here uses."""
    number_type: str = ""
    """Of most of its numbers, as the file's format names it."""
    in_channels: int = 0
    """Of a transformer."""
    has_guidance: bool = False
    """Of a transformer: whether it has a guidance embedding."""
    is_scaled: bool = False
    """Whether matrices have scales beside them."""
    prefix: str = ""
    """Before its names."""

    @property
    def is_named(self) -> bool:
        """Whether it is known at all."""
        return self is not UNKNOWN


UNKNOWN = FoundPart("other", "nothing that is known here")


def recognise(header: WeightHeader) -> tuple[FoundPart, ...]:
    """Return the parts in a file; one of the role `other` where nothing is known."""
    named = tuple(
        found
        for role, prefixes in PREFIXES.items()
        for prefix in prefixes
        if (own := under(header.tensors, prefix))
        for found in (_RECOGNISE[role](own, prefix),)
        if found is not None
    )
    if named:
        return named
    for recogniser in (_lora, *_RECOGNISE.values()):
        found = recogniser(header.tensors, "")
        if found is not None:
            return (found,)
    return (UNKNOWN,)


def under(tensors: Tensors, prefix: str) -> dict[str, StoredTensor]:
    """Return the tensors whose names have a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


# --- transformers --------------------------------------------------------------------------------

_TRANSFORMERS: Mapping[tuple[bool, int, int, int], tuple[str, str]] = {
    # (is FLUX.2, width, double blocks, single blocks): its row in parts.toml, its title. Sources:
    # families.py and the defaults of diffusers 0.42.1.
    (False, 3072, 19, 38): ("flux1-12b", "FLUX.1"),
    (True, 3072, 5, 20): ("flux2-klein-4b", "FLUX.2 klein 4B"),
    (True, 4096, 8, 24): ("flux2-klein-9b", "FLUX.2 klein 9B"),
    (True, 6144, 8, 48): ("flux2-32b", "FLUX.2 dev"),
}
_BLOCK = re.compile(r"(single_|double_)?(?:transformer_)?blocks\.(\d+)\.")
_INPUTS = ("img_in.weight", "x_embedder.weight")
_SHARED_MODULATION = ("double_stream_modulation_img.lin.weight",
                      "double_stream_modulation_img.linear.weight")  # fmt: skip
_GUIDANCE = ("guidance_in.", "time_text_embed.guidance_embedder.",
             "time_guidance_embed.guidance_embedder.")  # fmt: skip


def _transformer(tensors: Tensors, prefix: str) -> FoundPart | None:
    entry = next((tensors[name] for name in _INPUTS if name in tensors), None)
    counts = {"single_": 0, "double_": 0}
    for name in tensors:
        if found := _BLOCK.match(name):
            kind = found[1] or "double_"
            counts[kind] = max(counts[kind], int(found[2]) + 1)
    if entry is None or not all(counts.values()):
        return None
    if any(name.startswith("distilled_guidance_layer.") for name in tensors):
        return FoundPart("other", "a transformer of Chroma, which is not supported")
    is_flux2 = any(name in tensors for name in _SHARED_MODULATION)
    key = (is_flux2, entry.shape[0], counts["double_"], counts["single_"])
    part, title = _TRANSFORMERS.get(key, ("", ""))
    if not part:
        sizes = f"{key[1]} wide, {key[2]} double and {key[3]} single blocks"
        return FoundPart("transformer", f"a transformer of another size ({sizes})", prefix=prefix)
    return FoundPart(
        "transformer",
        title,
        part,
        _main_type(tensors),
        # GGUF and packed files may keep it in another type, but never in another shape.
        entry.shape[-1],
        any(name.startswith(_GUIDANCE) for name in tensors),
        _is_scaled(tensors),
        prefix,
    )


# --- text encoders -------------------------------------------------------------------------------

_TABLES = (
    # A name of the table of tokens, a name only this encoder has, tokens, width -> part, title.
    ("shared.weight", "encoder.block.23.layer.1.DenseReluDense.wi_0.weight", 32128, 4096,
     "t5-xxl", "T5 XXL"),
    ("encoder.embed_tokens.weight", "encoder.block.23.layer.1.DenseReluDense.wi_0.weight",
     32128, 4096, "t5-xxl", "T5 XXL"),
    ("token_embd.weight", "enc.blk.23.ffn_gate.weight", 32128, 4096, "t5-xxl", "T5 XXL"),
    ("model.embed_tokens.weight", "model.layers.35.self_attn.q_norm.weight", 151936, 2560,
     "qwen3-4b", "Qwen3 4B"),
    ("token_embd.weight", "blk.35.attn_q_norm.weight", 151936, 2560, "qwen3-4b", "Qwen3 4B"),
    ("model.embed_tokens.weight", "model.layers.35.self_attn.q_norm.weight", 151936, 4096,
     "qwen3-8b", "Qwen3 8B"),
    ("token_embd.weight", "blk.35.attn_q_norm.weight", 151936, 4096, "qwen3-8b", "Qwen3 8B"),
)  # fmt: skip
_MISTRAL_VOCABULARY = 131072
TOKEN_TABLES = ("shared.weight", "token_embd.weight", "model.embed_tokens.weight",
                "encoder.embed_tokens.weight", "language_model.model.embed_tokens.weight",
                "model.language_model.embed_tokens.weight")  # fmt: skip
"""Names that files have for the table of tokens of a text encoder."""


def _text(tensors: Tensors, prefix: str) -> FoundPart | None:
    for table, own, count, width, part, title in _TABLES:
        if own in tensors and table in tensors and tensors[table].shape == (count, width):
            return FoundPart(
                "text", title, part, _main_type(tensors), is_scaled=_is_scaled(tensors),
                prefix=prefix,
            )  # fmt: skip
    tokens = next((tensors[name] for name in TOKEN_TABLES if name in tensors), None)
    if tokens is None:
        return None
    if tokens.shape[0] == _MISTRAL_VOCABULARY:
        # ComfyUI's file has the text half, under other names, and the tokenizer as a tensor.
        is_whole = any("vision_tower" in name for name in tensors)
        part = "mistral-small-24b" if is_whole else ""
        title = "Mistral Small" if is_whole else "Mistral Small without its vision tower"
        return FoundPart("text", title, part, _main_type(tensors), prefix=prefix)
    return FoundPart("text", "a text encoder that no FLUX model uses", prefix=prefix)


def _clip(tensors: Tensors, prefix: str) -> FoundPart | None:
    inner = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    table = tensors.get(f"{inner}embeddings.token_embedding.weight")
    if table is None:
        return None
    last = f"{inner}encoder.layers.11.mlp.fc1.weight"
    if table.shape != (49408, 768) or last not in tensors:
        return FoundPart("clip", "a CLIP text encoder that no FLUX model uses", prefix=prefix)
    return FoundPart("clip", "CLIP-L", "clip-l", _main_type(tensors), prefix=prefix)


def _vae(tensors: Tensors, prefix: str) -> FoundPart | None:
    entry = tensors.get("decoder.conv_in.weight")
    if entry is None or "encoder.conv_in.weight" not in tensors:
        return None
    latents, is_normalised = entry.shape[1], "bn.running_mean" in tensors
    if (latents, is_normalised) == (16, False):
        return FoundPart("vae", "VAE of FLUX.1", "flux1", _main_type(tensors), prefix=prefix)
    if (latents, is_normalised) == (32, True):
        return FoundPart("vae", "VAE of FLUX.2", "flux2", _main_type(tensors), prefix=prefix)
    title = f"a VAE of {latents} latent channels, which no FLUX model uses"
    return FoundPart("vae", title, prefix=prefix)


def _lora(tensors: Tensors, _prefix: str) -> FoundPart | None:
    if any(_OF_LORAS.search(name) for name in tensors):
        return FoundPart("lora", "a LoRA")
    return None


_OF_LORAS = re.compile(r"lora_(?:A|B|up|down|mid)\b|\blora\.(?:up|down)|hada_w|lokr_w|oft_blocks")

_RECOGNISE = {"transformer": _transformer, "text": _text, "clip": _clip, "vae": _vae}


def _main_type(tensors: Tensors) -> str:
    values: dict[str, int] = {}
    for tensor in tensors.values():
        values[tensor.number_type] = values.get(tensor.number_type, 0) + tensor.values
    return max(values, key=lambda name: values[name], default="")


def _is_scaled(tensors: Tensors) -> bool:
    return any(name.endswith((".scale_weight", ".weight_scale")) for name in tensors)
