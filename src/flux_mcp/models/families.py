"""What a family of models is, as far as it can be said without torch: one record for each.

The other half of a family, which calls its pipelines, is the module in `pipelines/families/` that
the record names. No other module compares a family by its name: what differs is a field here or a
function there, and a test keeps it so. micro is a small FLUX.1 and shares its module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

Family = Literal["flux1", "flux2", "micro"]
DrawnKind = Literal["text2img", "kontext", "fill", "control", "redux", "img2img"]
"""What models draw."""
Kind = Literal[DrawnKind, "upscale"]
"""And what helpers do to images."""
PipelineClass = Literal[
    "FluxPipeline",
    "FluxKontextPipeline",
    "FluxFillPipeline",
    "FluxControlPipeline",
    "FluxPriorReduxPipeline",
    "FluxImg2ImgPipeline",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
]
PartLoader = Literal["denoiser", "text", "model", "encoder", "plain"]
"""`denoiser`: the transformer, in the precision of the plan; `text`: the large text encoder, in
the text precision of the plan; `model`, `encoder`: other weights of diffusers and of transformers,
in what the transformer computes in; `plain`: no weights."""
FileColumn = Literal["file", "gguf", "text_file", "text_gguf", "clip_file", "vae_file"]
"""Columns of a row that name one file with the weights of one part."""
Sizes = tuple[int, int]
"""Of a linear layer: numbers that go in, numbers that come out."""


@dataclass(frozen=True)
class PartClass:
    """A class that a part of a pipeline may have, and how it is loaded."""

    module: str
    """Where it is imported from."""
    loader: PartLoader
    gguf: str | None = None
    """llama.cpp's architecture for a text encoder that can be read from a GGUF file."""
    columns: tuple[FileColumn, ...] = ()
    """Columns of a row, one of which may name a file with its weights."""


@dataclass(frozen=True)
class LayerNames:
    """What Black Forest Labs' own code calls layers that diffusers has under other names.

    Trainers use either. Each name stands for the layers of diffusers that hold the same numbers,
    one after another along the outputs. Source: lora_conversion_utils.py of diffusers 0.42.1, whose
    converters have them line by line.
    """

    double: Mapping[str, tuple[str, ...]]
    """Within a double block."""
    single: Mapping[str, tuple[str, ...]]
    """Within a single block."""
    other: Mapping[str, tuple[str, ...]]
    """Outside of the blocks."""
    double_norms: Mapping[str, str]
    """Norms of a double block that control LoRAs replace."""
    single_norms: Mapping[str, str]


@dataclass(frozen=True)
class FamilySpec:
    """One family of models."""

    id: Family
    title: str
    """For people."""
    module: str
    """Its module in `pipelines/families/`."""
    pipelines: Mapping[Kind, tuple[PipelineClass, ...]]
    """The pipeline classes of each kind that has weights of its own."""
    img2img: Mapping[PipelineClass, PipelineClass]
    """By the class of a text2img row, the one that draws image to image with its weights."""
    negative_prompt_kinds: frozenset[Kind]
    """Kinds whose pipelines have `negative_prompt` and `true_cfg_scale` (diffusers 0.42.1)."""
    part_classes: Mapping[tuple[str, str], PartClass]
    """(library, class) of a model_index.json. Any other pair is refused before anything is
    imported: diffusers 0.42.1 imports the module that a model_index.json names before it finds that
    the class is not one of its own."""
    text_parts: tuple[str, ...]
    """The parts that turn a prompt into embeddings, in the order in which they are loaded."""
    embeddings: tuple[str, ...]
    """What `encode_prompt` returns before the ids of the tokens, by the pipeline's arguments."""
    pipeline_options: tuple[str, ...]
    """Keys of model_index.json that the pipeline is constructed with, besides its parts."""
    transformer_class: str
    layer_names: LayerNames
    linear_layers: Callable[[Mapping[str, Any]], dict[str, Sizes]]
    """From a transformer's `config.json` to its linear layers, by their names in diffusers."""
    transformers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The published transformers: what people call each, and its `config.json`."""
    base_words: tuple[str, ...] = ()
    """In what a trainer's metadata says of the base of a LoRA, if it is of this family."""
    reference_max_pixels: int | None = None
    """Most pixels a reference of an edit is read at; `None` for as many as the image drawn."""
    reference_min_side_px: int = 1
    """Shortest side a reference of an edit may have when it is read."""
    reference_max_ratio: int | None = None
    """How many times as long as wide it may be; `None` for any."""
    edit_least_pixels: int = 0
    """An image with fewer is enlarged to the model's usual pixel count when all of it is edited."""
    joined_references: int = 1
    """Most references of an edit that are joined side by side into one, where the pipeline takes
    one: each is read the smaller the more there are."""
    encoder_side_px: int = 384
    """Side of the square that the image encoder of redux sees; 384 in FLUX.1 Redux, whose encoder
    is SigLIP so400m patch14 384 (27 x 27 = 729 tokens)."""
    reads_best: str | None = None
    """The language in which its text encoders read best, as compose/language.py names the rest;
    `None` where they read many. The sources are in docs/audit.md."""
    is_demonstration: bool = False
    """Whether it only shows how the server works; every result says so."""


# --- what FLUX.1 and FLUX.2 have in common -------------------------------------------------------

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
TIMESTEP_CHANNELS = 256
"""Of the sinusoidal embedding of the time step; fixed in diffusers 0.42.1 (`Timesteps`)."""

_DOUBLE_ATTENTION: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": QKV,
    "txt_attn.qkv": ADDED_QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    # XLabs' attention processors.
    "processor.qkv_lora1": QKV,
    "processor.qkv_lora2": ADDED_QKV,
    "processor.proj_lora1": ("attn.to_out.0",),
    "processor.proj_lora2": ("attn.to_add_out",),
}
_ENDS: Mapping[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "img_in.proj": ("x_embedder",),  # OneTrainer's (convert_flux_lora.py)
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
# Source: `_convert_bfl_flux_control_lora_to_diffusers` in lora_conversion_utils.py of
# diffusers 0.42.1.
_DOUBLE_NORMS: Mapping[str, str] = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
_SINGLE_NORMS: Mapping[str, str] = {
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}


def _embedders(inner: str, **outer: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{theirs}.{layer}_layer": (f"{inner}.{ours}.linear_{number}",)
        for theirs, ours in outer.items()
        for number, layer in enumerate(("in", "out"), start=1)
    }


def _attention(size: int) -> dict[str, Sizes]:
    names = (*QKV, *ADDED_QKV, "attn.to_out.0", "attn.to_add_out")
    return dict.fromkeys(names, (size, size))


def _blocks(
    config: Mapping[str, Any],
    double: Mapping[str, Sizes],
    single: Mapping[str, Sizes],
    *,
    doubles: int,
    singles: int,
) -> dict[str, Sizes]:
    """Return the layers of all blocks; `doubles` and `singles` are the class's own defaults."""
    rows = (
        ("transformer_blocks", double, config.get("num_layers", doubles)),
        ("single_transformer_blocks", single, config.get("num_single_layers", singles)),
    )
    return {
        f"{block}.{index}.{name}": sizes
        for block, row, count in rows
        for index in range(count)
        for name, sizes in row.items()
    }


def _diffusers(
    loader: PartLoader, *names: str, columns: tuple[FileColumn, ...] = ()
) -> dict[tuple[str, str], PartClass]:
    part = PartClass("diffusers", loader, columns=columns)
    return {("diffusers", name): part for name in names}


def _transformers(
    loader: PartLoader,
    *names: str,
    gguf: str | None = None,
    columns: tuple[FileColumn, ...] = (),
) -> dict[tuple[str, str], PartClass]:
    part = PartClass("transformers", loader, gguf, columns)
    return {("transformers", name): part for name in names}


# --- FLUX.1 --------------------------------------------------------------------------------------


def _flux1_linears(config: Mapping[str, Any]) -> dict[str, Sizes]:
    """FluxTransformer2DModel (models/transformers/transformer_flux.py of diffusers 0.42.1)."""
    size = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128)
    channels = config.get("in_channels", 64)
    out_channels = config.get("out_channels") or channels
    linears = {
        "x_embedder": (channels, size),
        "context_embedder": (config.get("joint_attention_dim", 4096), size),
        "norm_out.linear": (size, 2 * size),
        "proj_out": (size, out_channels * config.get("patch_size", 1) ** 2),
    }
    embedders = {"timestep": TIMESTEP_CHANNELS, "text": config.get("pooled_projection_dim", 768)}
    if config.get("guidance_embeds", False):
        embedders["guidance"] = TIMESTEP_CHANNELS
    for embedder, width in embedders.items():
        linears[f"time_text_embed.{embedder}_embedder.linear_1"] = (width, size)
        linears[f"time_text_embed.{embedder}_embedder.linear_2"] = (size, size)
    double = {
        **_attention(size),
        "norm1.linear": (size, 6 * size),
        "norm1_context.linear": (size, 6 * size),
        **{f"{ff}.net.0.proj": (size, 4 * size) for ff in ("ff", "ff_context")},
        **{f"{ff}.net.2": (4 * size, size) for ff in ("ff", "ff_context")},
    }
    single = {
        **dict.fromkeys(QKV, (size, size)),
        "norm.linear": (size, 3 * size),
        "proj_mlp": (size, 4 * size),
        "proj_out": (5 * size, size),
    }
    return linears | _blocks(config, double, single, doubles=19, singles=38)


FLUX1_CONTROL = "FLUX.1 control"
"""What only fits here changes how a control image comes in: FLUX.1's control LoRAs do, which make a
transformer of 64 channels one of 128."""
_FLUX1_CONFIG = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}

FLUX1 = FamilySpec(
    id="flux1",
    title="FLUX.1",
    reads_best="English",
    module="flux1",
    pipelines={
        "text2img": ("FluxPipeline",),
        "kontext": ("FluxKontextPipeline",),
        "fill": ("FluxFillPipeline",),
        "control": ("FluxControlPipeline",),
        "redux": ("FluxPriorReduxPipeline",),
    },
    img2img={"FluxPipeline": "FluxImg2ImgPipeline"},
    negative_prompt_kinds=frozenset({"text2img", "kontext", "img2img"}),
    part_classes={
        **_diffusers("model", "AutoencoderKL", columns=("vae_file",)),
        **_diffusers("denoiser", "FluxTransformer2DModel", columns=("file", "gguf")),
        **_diffusers("plain", "FlowMatchEulerDiscreteScheduler"),
        ("flux", "ReduxImageEncoder"): PartClass("diffusers.pipelines.flux.modeling_flux", "model"),
        **_transformers("encoder", "CLIPTextModel", columns=("clip_file",)),
        **_transformers("encoder", "SiglipVisionModel"),
        **_transformers(
            "text", "T5EncoderModel", gguf="T5ENCODER", columns=("text_file", "text_gguf")
        ),
        **_transformers("plain", "CLIPTokenizer", "CLIPTokenizerFast", "SiglipImageProcessor"),
        **_transformers("plain", "T5Tokenizer", "T5TokenizerFast"),
    },
    text_parts=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    embeddings=("prompt_embeds", "pooled_prompt_embeds"),
    pipeline_options=(),
    transformer_class="FluxTransformer2DModel",
    layer_names=LayerNames(
        double={
            **_DOUBLE_ATTENTION,
            "img_mlp.0": ("ff.net.0.proj",),
            "img_mlp.2": ("ff.net.2",),
            "txt_mlp.0": ("ff_context.net.0.proj",),
            "txt_mlp.2": ("ff_context.net.2",),
            "img_mod.lin": ("norm1.linear",),
            "txt_mod.lin": ("norm1_context.linear",),
        },
        single={
            "linear1": (*QKV, "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation.lin": ("norm.linear",),
            "processor.qkv_lora": QKV,
            "processor.proj_lora": ("proj_out",),
        },
        other={
            **_ENDS,
            **_embedders(
                "time_text_embed",
                time_in="timestep_embedder",
                guidance_in="guidance_embedder",
                vector_in="text_embedder",
            ),
        },
        double_norms=_DOUBLE_NORMS,
        single_norms=_SINGLE_NORMS,
    ),
    linear_layers=_flux1_linears,
    transformers={
        # The defaults of diffusers' class; in_channels as models.toml has them.
        "FLUX.1": _FLUX1_CONFIG,
        "FLUX.1 Fill": {**_FLUX1_CONFIG, "in_channels": 384, "out_channels": 64},
        FLUX1_CONTROL: {**_FLUX1_CONFIG, "in_channels": 128, "out_channels": 64},
    },
    base_words=("flux-1", "flux1", "flux.1"),
    # Kontext was trained at about a megapixel: PREFERRED_KONTEXT_RESOLUTIONS of diffusers 0.42.1,
    # which its pipeline draws at unless told otherwise. Half: a guess, from where on enlarging is
    # worth more than drawing pixel for pixel.
    edit_least_pixels=524_288,
    # guess: at one megapixel each is read at 512x512 or so; ComfyUI's Kontext workflows join two.
    joined_references=4,
)


# --- FLUX.2 --------------------------------------------------------------------------------------


def _flux2_linears(config: Mapping[str, Any]) -> dict[str, Sizes]:
    """Flux2Transformer2DModel (models/transformers/transformer_flux2.py of diffusers 0.42.1)."""
    size = config.get("num_attention_heads", 48) * config.get("attention_head_dim", 128)
    hidden = int(size * config.get("mlp_ratio", 3.0))
    channels = config.get("in_channels", 128)
    out_channels = config.get("out_channels") or channels
    width = config.get("timestep_guidance_channels", TIMESTEP_CHANNELS)
    linears = {
        "x_embedder": (channels, size),
        "context_embedder": (config.get("joint_attention_dim", 15360), size),
        "norm_out.linear": (size, 2 * size),
        "proj_out": (size, out_channels * config.get("patch_size", 1) ** 2),
        "double_stream_modulation_img.linear": (size, 6 * size),
        "double_stream_modulation_txt.linear": (size, 6 * size),
        "single_stream_modulation.linear": (size, 3 * size),
    }
    for embedder in ("timestep", *(["guidance"] if config.get("guidance_embeds", True) else [])):
        linears[f"time_guidance_embed.{embedder}_embedder.linear_1"] = (width, size)
        linears[f"time_guidance_embed.{embedder}_embedder.linear_2"] = (size, size)
    double = {
        **_attention(size),
        # Gated: two halves come in, one goes out.
        **{f"{ff}.linear_in": (size, 2 * hidden) for ff in ("ff", "ff_context")},
        **{f"{ff}.linear_out": (hidden, size) for ff in ("ff", "ff_context")},
    }
    single = {
        "attn.to_qkv_mlp_proj": (size, 3 * size + 2 * hidden),
        "attn.to_out": (size + hidden, size),
    }
    return linears | _blocks(config, double, single, doubles=8, singles=48)


_FLUX2_CONFIG = {"_class_name": "Flux2Transformer2DModel"}

FLUX2 = FamilySpec(
    id="flux2",
    title="FLUX.2",
    module="flux2",
    pipelines={
        "text2img": ("Flux2Pipeline", "Flux2KleinPipeline"),
        "kontext": ("Flux2Pipeline", "Flux2KleinPipeline"),
    },
    # diffusers 0.42.1 has no class of its own for it: the latents are given to the usual one.
    img2img={"Flux2Pipeline": "Flux2Pipeline", "Flux2KleinPipeline": "Flux2KleinPipeline"},
    negative_prompt_kinds=frozenset(),
    part_classes={
        **_diffusers("model", "AutoencoderKLFlux2", columns=("vae_file",)),
        **_diffusers("denoiser", "Flux2Transformer2DModel", columns=("file", "gguf")),
        **_diffusers("plain", "FlowMatchEulerDiscreteScheduler"),
        # Not from GGUF files: llama.cpp reorders the rows of Mistral's matrices.
        **_transformers("text", "Mistral3ForConditionalGeneration", columns=("text_file",)),
        **_transformers(
            "text", "Qwen3ForCausalLM", gguf="QWEN3", columns=("text_file", "text_gguf")
        ),
        **_transformers("plain", "PixtralProcessor", "Qwen2Tokenizer", "Qwen2TokenizerFast"),
    },
    text_parts=("text_encoder", "tokenizer"),
    embeddings=("prompt_embeds",),
    # Without it a distilled klein is drawn with twice the work and another guidance.
    pipeline_options=("is_distilled",),
    transformer_class="Flux2Transformer2DModel",
    layer_names=LayerNames(
        double={
            **_DOUBLE_ATTENTION,
            "img_mlp.0": ("ff.linear_in",),
            "img_mlp.2": ("ff.linear_out",),
            "txt_mlp.0": ("ff_context.linear_in",),
            "txt_mlp.2": ("ff_context.linear_out",),
        },
        single={"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
        other={
            **_ENDS,
            **_embedders(
                "time_guidance_embed", time_in="timestep_embedder", guidance_in="guidance_embedder"
            ),
            "single_stream_modulation.lin": ("single_stream_modulation.linear",),
            "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
            "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
        },
        double_norms=_DOUBLE_NORMS,
        single_norms=_SINGLE_NORMS,
    ),
    linear_layers=_flux2_linears,
    transformers={
        # util.py and model.py of black-forest-labs/flux2 (Flux2Params, Klein4BParams,
        # Klein9BParams); dev is also the default of diffusers' class.
        "FLUX.2 dev": _FLUX2_CONFIG,
        "FLUX.2 klein 4B": {
            **_FLUX2_CONFIG,
            "num_attention_heads": 24,
            "num_layers": 5,
            "num_single_layers": 20,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "FLUX.2 klein 9B": {
            **_FLUX2_CONFIG,
            "num_attention_heads": 32,
            "num_layers": 8,
            "num_single_layers": 24,
            "joint_attention_dim": 12288,
            "guidance_embeds": False,
        },
    },
    base_words=("flux-2", "flux2", "flux.2", "klein"),
    # What Flux2ImageProcessor.check_image_input takes; a larger reference the pipelines would scale
    # themselves, and cut (diffusers 0.42.1).
    reference_max_pixels=1024 * 1024,
    reference_min_side_px=64,
    reference_max_ratio=8,
)


# --- micro, and all of them ----------------------------------------------------------------------

MICRO = replace(
    FLUX1,
    id="micro",
    title="micro",
    transformers={},
    base_words=(),
    encoder_side_px=64,
    edit_least_pixels=0,
    is_demonstration=True,
)

FAMILIES: Mapping[Family, FamilySpec] = MappingProxyType(
    {family.id: family for family in (FLUX1, FLUX2, MICRO)}
)
PART_CLASSES: Mapping[tuple[str, str], PartClass] = MappingProxyType(
    {name: part for family in FAMILIES.values() for name, part in family.part_classes.items()}
)
"""Those of all families; a class is loaded in one way wherever it occurs."""
