"""What the names of tensors in a LoRA file mean, as trainers and converters write them. Pure.

`read_name` says which layer a tensor belongs to and what it is there. What is not recognised is
never left out: `unsupported_kind` says what sort of file it makes, where that is known.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "down", "up", "bias", "diff", "diff_b", "alpha",
    "w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2",
]  # fmt: skip
"""`down` and `up`: the two matrices of a LoRA, of which PEFT's `bias` is scaled with them; `diff`
and `diff_b`: added to a layer's weights and to its bias; the others: the factors of a LoKr."""

# --- layers --------------------------------------------------------------------------------------

_PREFIXES = (
    # What is put before the names of layers -> whose layout it is. Longer ones first.
    ("model.diffusion_model.", "comfyui"),
    ("base_model.model.", "peft"),
    ("diffusion_model.", "comfyui"),
    ("lora_transformer_", "onetrainer"),
    ("transformer.", "diffusers"),
    ("lora_unet_", "kohya"),
    ("lora_unet.", "kohya"),
    ("lycoris_", "lycoris"),
    ("module.", "diffusers"),
    ("unet.", "diffusers"),
)
LAYOUTS = ("diffusers", "onetrainer", "lycoris", "peft", "comfyui", "kohya", "xlabs", "bfl")
"""Where a file has one layer in several of them, the first is used: diffusers 0.42.1 too prefers
the names of diffusers and then OneTrainer's (`_convert_kohya_flux_lora_to_diffusers`)."""


_PREFIX = re.compile("|".join(re.escape(prefix) for prefix, _ in _PREFIXES))
_ALL_PREFIXES = re.compile(f"(?:{_PREFIX.pattern})*")


def without_prefix(full: str) -> str:
    """Return the name of a tensor or layer without what trainers put before it, once or twice."""
    return _ALL_PREFIXES.sub("", full, count=1)


def layout_of(full: str) -> str:
    """Return whose names a layer has."""
    if ".processor." in full:
        return "xlabs"
    if full.startswith(("transformer.double_blocks.", "transformer.single_blocks.")):
        return "onetrainer"
    if full.startswith(("transformer_blocks.", "single_transformer_blocks.")):
        return "diffusers"
    found = _PREFIX.match(full)
    return dict(_PREFIXES)[found[0]] if found else "bfl"


# --- tensors of a layer --------------------------------------------------------------------------

_SIDES: dict[str, Role] = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "down": "down",
    "up": "up",
}
# PEFT puts the adapter's name after `lora_A`, unless its own `save_pretrained` took it away.
_ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$|weight_scale$|scale_weight$)[\w-]+))?"
_MATRIX = re.compile(
    rf"^(?P<layer>.+?)\.(?:lora\.)?(?P<side>{'|'.join(_SIDES)})(?:\.(?P<part>\d))?{_ADAPTER}"
    r"(?P<end>\.weight|\.bias)?$"
)
_LOKR = re.compile(rf"^(?P<layer>.+?)\.lokr_(?P<factor>w[12](?:_[ab])?|t2){_ADAPTER}(?:\.weight)?$")
_DIFF = re.compile(r"^(?P<layer>.+)\.(?P<role>diff|diff_b|alpha)$")


@dataclass(frozen=True)
class TensorName:
    """What a tensor is, by its name."""

    layer: str
    """As the file has it; of a matrix split in parts with the part's number after it."""
    role: Role
    adapter: str | None = None
    """PEFT's name of the adapter, where the file has it."""
    whole: str | None = None
    """Of a matrix split in parts: the layer they are parts of."""


def read_name(name: str) -> TensorName | None:
    """Return which layer a tensor belongs to and what it is there; `None` for any other tensor."""
    if found := _MATRIX.match(name):
        side, layer, part = _SIDES[found["side"]], found["layer"], found["part"]
        if found["end"] == ".bias":
            return TensorName(layer, "bias", found["adapter"]) if side == "up" else None
        if part is not None:
            return TensorName(f"{layer}.{part}", side, found["adapter"], layer)
        return TensorName(layer, side, found["adapter"])
    if found := _LOKR.match(name):
        factors: dict[str, Role] = {
            "w1": "w1", "w1_a": "w1_a", "w1_b": "w1_b",
            "w2": "w2", "w2_a": "w2_a", "w2_b": "w2_b", "t2": "t2",
        }  # fmt: skip
        return TensorName(found["layer"], factors[found["factor"]], found["adapter"])
    if found := _DIFF.match(name):
        roles: dict[str, Role] = {"diff": "diff", "diff_b": "diff_b", "alpha": "alpha"}
        return TensorName(found["layer"], roles[found["role"]])
    return None


def scale_names(matrix: str) -> tuple[str, str]:
    """Return the names that the scale of an fp8 matrix may have.

    Those of ComfyUI's weights (comfy/ops.py: `scale_weight`, later `weight_scale`).
    """
    layer = matrix.removesuffix(".weight")
    return f"{layer}.scale_weight", f"{layer}.weight_scale"


# --- tensors of no layer -------------------------------------------------------------------------

_TEXT_ENCODER = re.compile(
    r"^(?:base_model\.model\.)?(?:"
    r"text_encoders?[\d_.]|lora_te|lora_prior_te|lora_text|lora_clip|lora_t5|lora_qwen|lora_mistral|lycoris_te|lycoris_text|"
    r"clip_[lg]\.|t5(?:xxl)?\.|te\d?\.|text_model\.|language_model\.)"
)
"""How the layers of text encoders begin: diffusers, kohya, ComfyUI and OneTrainer."""
_EMBEDDING = re.compile(r"^bundle_emb\.(?P<word>[^.]+)\.")
"""OneTrainer's embeddings of words, trained together with a LoRA."""
_MARKER = re.compile(r"(?:^|\.)(?:scaled_fp8|scale_input|input_scale)$")
"""For arithmetic in fp8 alone: a marker, and the scales of a layer's inputs."""
CONTROL_NORM = re.compile(r"(?:query|key)_norm\.scale$|\.norm_(?:added_)?[qk]\.weight$")
"""Norms that control LoRAs replace (diffusers 0.42.1)."""


def is_of_text_encoder(name: str) -> bool:
    """Whether a tensor belongs to a text encoder."""
    return _TEXT_ENCODER.match(name) is not None


def embedded_word(name: str) -> str | None:
    """Return the word whose embedding a tensor is; `None` for any other tensor."""
    found = _EMBEDDING.match(name)
    return None if found is None else found["word"]


def is_marker(name: str) -> bool:
    """Whether a tensor says nothing about the layers: they are the same without it."""
    return _MARKER.search(name) is not None


# --- what is not supported -----------------------------------------------------------------------

OTHER_FORM = (
    "Use a LoRA or a LoKr instead: train it again as one, or have the tool it was trained with "
    "merge it into the model's weights and give that file a row in models.toml (docs/models/"
    "README.md, 'Your own models')."
)
_UNSUPPORTED = tuple(
    (re.compile(pattern, re.MULTILINE), kind, hint)
    for pattern, kind, hint in (
        (r"dora_scale|lora_magnitude_vector", "It is a DoRA", OTHER_FORM),
        (r"hada_", "It is a LoHa", OTHER_FORM),
        (r"boft_", "It is a BOFT", OTHER_FORM),
        (r"\boft_|rescale$", "It is an OFT or BOFT", OTHER_FORM),
        (r"lora_mid", "It is a LoCon with a core matrix", OTHER_FORM),
        (r"\.[ab][12]\.weight$", "It is a GLoRA", OTHER_FORM),
        (r"ia3_l|\.on_input$", "It is an (IA)3", OTHER_FORM),
        (r"hra_u|vera_lambda|lora_embedding_|\.scalar$|\.w_norm$|\.b_norm$",
         "It has more than a LoRA or a LoKr", OTHER_FORM),
        (r"\.(?:qkv_proj|smooth|qweight|wscales)\b", "It is in the layout of Nunchaku",
         "Use the file it was converted from."),
        (r"^(?:emb_params|string_to_param|clip_[lg]$|t5xxl$)", "It is an embedding of words",
         "Embeddings cannot be used: choose a LoRA."),
    )
)  # fmt: skip


def unsupported_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """Return what makes a file one that is not supported, and what to do instead."""
    text = "\n".join(names)
    return next(
        ((f"{kind}, which is not supported.", hint)
         for pattern, kind, hint in _UNSUPPORTED if pattern.search(text)),
        None,
    )  # fmt: skip
