"""Each layout of a LoRA file draws what weights changed by hand draw; taken off, nothing is left.

Tiny transformers of FLUX.1 and FLUX.2 run once with the file attached, by header, table of layers
and PEFT as in the worker, and once with the change computed here in 64 bit and added to a copy of
the weights. No code of the product is used for the second.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from flux_mcp.models.families import Family
from flux_mcp.models.loras.fit import place
from flux_mcp.models.loras.header import parse_header
from flux_mcp.models.registry import ModelSpec, load_registry
from flux_mcp.pipelines.loras.layers import architecture_of, attach, changes_of, delete_adapter

pytestmark = pytest.mark.usefixtures("torch_here")

REGISTRY = load_registry()
WIDTH, TEXT = 16, 12
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "axes_dims_rope": (2, 2, 4)}
Sizes = tuple[int, int]
Tensors = dict[str, Any]
Deltas = dict[str, Any]
"""What is added, by the name of a parameter in diffusers; computed by hand in 64 bit."""


# --- transformers --------------------------------------------------------------------------------


@dataclass
class Tiny:
    """A tiny transformer, and what it is run on."""

    family: Family
    model: Any
    inputs: dict[str, Any]
    untouched: Any = None
    """A copy that nothing is ever attached to."""

    def __post_init__(self) -> None:
        self.untouched = copy.deepcopy(self.model)

    @property
    def spec(self) -> ModelSpec:
        return REGISTRY.find(
            "text2img", "flux1-dev" if self.family == "flux1" else "flux2-klein-4b"
        )

    def run(self, model: Any | None = None) -> Any:
        import torch

        with torch.no_grad():
            return (model or self.model)(**self.inputs, return_dict=False)[0]

    def merged(self, deltas: Mapping[str, Any]) -> Any:
        """Return what it gives with its weights changed by hand."""
        import torch

        changed = copy.deepcopy(self.untouched)
        for name, delta in deltas.items():
            path, _, leaf = name.rpartition(".")
            module = changed.get_submodule(path)
            old = getattr(module, leaf)
            new = delta if old is None else old.detach().double() + delta
            setattr(module, leaf, torch.nn.Parameter(new.float()))
        return self.run(changed)


def flux1(in_channels: int = 8) -> Tiny:
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        **HEADS, in_channels=in_channels, out_channels=8, num_layers=1, num_single_layers=1,
        joint_attention_dim=TEXT, pooled_projection_dim=6, guidance_embeds=True,
    )  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 4, in_channels),
        "encoder_hidden_states": torch.randn(1, 3, TEXT),
        "pooled_projections": torch.randn(1, 6),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.arange(12.0).reshape(4, 3),
        "txt_ids": torch.zeros(3, 3),
    }
    return Tiny("flux1", lively(model), inputs)


def flux2() -> Tiny:
    import torch
    from diffusers import Flux2Transformer2DModel

    torch.manual_seed(0)
    model = Flux2Transformer2DModel(
        **HEADS | {"axes_dims_rope": (2, 2, 2, 2)}, in_channels=8, num_layers=1,
        num_single_layers=1, joint_attention_dim=TEXT, mlp_ratio=2.0,
    )  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 4, 8),
        "encoder_hidden_states": torch.randn(1, 3, TEXT),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.arange(16.0).reshape(1, 4, 4),
        "txt_ids": torch.zeros(1, 3, 4),
    }
    return Tiny("flux2", lively(model), inputs)


def lively(model: Any) -> Any:
    """Return a model each of whose weights shows in what comes out."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval().requires_grad_(False)  # noqa: FBT003 - torch's own way


TINY: dict[str, Callable[[], Tiny]] = {
    "flux1": flux1, "flux2": flux2, "fill": lambda: flux1(24), "control": lambda: flux1(16),
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Callable[[str], Tiny]:
    made: dict[str, Tiny] = {}

    def get(name: str) -> Tiny:
        if name not in made:
            made[name] = TINY[name]()
        return made[name]

    return get


# --- files ---------------------------------------------------------------------------------------

D = WIDTH
F1_DOUBLE: dict[str, Sizes] = {
    **dict.fromkeys(
        [f"attn.{n}" for n in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj",
                               "to_out.0", "to_add_out")],
        (D, D),
    ),
    "ff.net.0.proj": (D, 4 * D), "ff.net.2": (4 * D, D), "ff_context.net.0.proj": (D, 4 * D),
    "ff_context.net.2": (4 * D, D), "norm1.linear": (D, 6 * D), "norm1_context.linear": (D, 6 * D),
}  # fmt: skip
F1_SINGLE: dict[str, Sizes] = {
    **dict.fromkeys(["attn.to_q", "attn.to_k", "attn.to_v"], (D, D)),
    "proj_mlp": (D, 4 * D), "proj_out": (5 * D, D), "norm.linear": (D, 3 * D),
}  # fmt: skip
F1_OTHER: dict[str, Sizes] = {
    "x_embedder": (8, D), "context_embedder": (TEXT, D), "proj_out": (D, 8),
    "norm_out.linear": (D, 2 * D), "time_text_embed.timestep_embedder.linear_1": (256, D),
    "time_text_embed.guidance_embedder.linear_2": (D, D),
    "time_text_embed.text_embedder.linear_1": (6, D),
}  # fmt: skip
F2_DOUBLE: dict[str, Sizes] = {
    **{name: size for name, size in F1_DOUBLE.items() if name.startswith("attn.")},
    **{f"{ff}.linear_in": (D, 4 * D) for ff in ("ff", "ff_context")},
    **{f"{ff}.linear_out": (2 * D, D) for ff in ("ff", "ff_context")},
}
F2_SINGLE: dict[str, Sizes] = {
    "attn.to_qkv_mlp_proj": (D, 7 * D), "attn.to_out": (3 * D, D),
}  # fmt: skip
F2_OTHER: dict[str, Sizes] = {
    "x_embedder": (8, D), "context_embedder": (TEXT, D), "proj_out": (D, 8),
    "norm_out.linear": (D, 2 * D), "single_stream_modulation.linear": (D, 3 * D),
    "double_stream_modulation_img.linear": (D, 6 * D),
    "time_guidance_embed.timestep_embedder.linear_1": (256, D),
}  # fmt: skip


def own_names(family: Family) -> dict[str, Sizes]:
    """Return layers by diffusers' names."""
    double, single, other = (
        (F1_DOUBLE, F1_SINGLE, F1_OTHER) if family == "flux1" else (F2_DOUBLE, F2_SINGLE, F2_OTHER)
    )
    return {
        **{f"transformer_blocks.{n}.{k}": v for n in range(1) for k, v in double.items()},
        **{f"single_transformer_blocks.{n}.{k}": v for n in range(1) for k, v in single.items()},
        **other,
    }


QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
BFL_DOUBLE = {
    "img_attn.qkv": QKV, "txt_attn.qkv": ADDED,
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
}  # fmt: skip
BFL = {
    "flux1": (
        {**BFL_DOUBLE, "img_mlp.0": ("ff.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
         "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",)},
        {"linear1": (*QKV, "proj_mlp"), "linear2": ("proj_out",),
         "modulation.lin": ("norm.linear",)},
        {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
         "final_layer.adaLN_modulation.1": "norm_out.linear",
         "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
         "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
         "vector_in.in_layer": "time_text_embed.text_embedder.linear_1"},
    ),
    "flux2": (
        {**BFL_DOUBLE, "img_mlp.0": ("ff.linear_in",), "txt_mlp.2": ("ff_context.linear_out",)},
        {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
        {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
         "final_layer.adaLN_modulation.1": "norm_out.linear",
         "single_stream_modulation.lin": "single_stream_modulation.linear",
         "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
         "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1"},
    ),
}  # fmt: skip


def bfl_names(family: Family) -> dict[str, tuple[str, ...]]:
    """Return Black Forest Labs' names of layers, each with diffusers' names of its rows."""
    double, single, other = BFL[family]
    return {
        **{f"double_blocks.{n}.{k}": tuple(f"transformer_blocks.{n}.{one}" for one in v)
           for n in range(1) for k, v in double.items()},
        **{f"single_blocks.{n}.{k}": tuple(f"single_transformer_blocks.{n}.{one}" for one in v)
           for n in range(1) for k, v in single.items()},
        **{k: (v,) for k, v in other.items()},
    }  # fmt: skip


@dataclass
class File:
    """What a trainer writes, and what it means."""

    tensors: Tensors
    deltas: Deltas
    metadata: Mapping[str, str] | None = None
    left_out: tuple[str, ...] = ()

    def __or__(self, other: "File") -> "File":
        return File(
            self.tensors | other.tensors,
            {
                name: self.deltas.get(name, 0) + other.deltas.get(name, 0)
                for name in {**self.deltas, **other.deltas}
            },
            self.metadata or other.metadata,
            (*self.left_out, *other.left_out),
        )


def some(*shape: int, seed: Any, about: float = 0.3) -> Any:
    import torch

    numbers = torch.Generator().manual_seed(abs(hash((shape, seed))) % 2**31)
    return torch.randn(*shape, generator=numbers) * about


AB = ("lora_A.weight", "lora_B.weight")
DOWN_UP = ("lora_down.weight", "lora_up.weight")


def lora(  # noqa: PLR0913 - each is a way in which layouts differ
    layers: Mapping[str, tuple[Sizes, tuple[str, ...]]],
    prefix: str = "",
    *,
    ends: tuple[str, str] = AB,
    flat: bool = False,
    rank: int = 2,
    alpha: float | None = None,
    alpha_dtype: str = "float32",
    scale: float | None = None,
    tail: str = "",
) -> File:
    """Return pairs of matrices for layers, and their products."""
    import torch

    file = File({}, {})
    for number, (name, ((inputs, outputs), targets)) in enumerate(layers.items()):
        own_rank = rank + number % 2
        full = prefix + (name.replace(".", "_") if flat else name) + tail
        down = some(own_rank, inputs, seed=number)
        up = some(outputs, own_rank, seed=-number - 1)
        file.tensors |= {f"{full}.{ends[0]}": down, f"{full}.{ends[1]}": up}
        if alpha is not None:
            file.tensors[f"{full}.alpha"] = torch.tensor(alpha, dtype=getattr(torch, alpha_dtype))
        by = scale if scale is not None else 1.0 if alpha is None else alpha / own_rank
        file.deltas |= rows(targets, by * (up.double() @ down.double()), name)
    return file


def rows(targets: tuple[str, ...], whole: Any, name: str) -> Deltas:
    """Return the rows of a change for each layer of diffusers that it is for."""
    import torch

    if "adaLN" in name:
        # Black Forest Labs' code has shift before scale, diffusers scale before shift.
        whole = torch.cat(whole.chunk(2)[::-1])
    # Of linear1 the last is as long as the MLP: q, k and v first.
    sizes = [WIDTH] * (len(targets) - 1) if len(targets) > 1 else []
    split = whole.split([*sizes, whole.shape[0] - sum(sizes)])
    return {f"{one}.weight": part for one, part in zip(targets, split, strict=True)}


Layers = dict[str, tuple[Sizes, tuple[str, ...]]]


def own(family: Family, *, but: tuple[str, ...] = ()) -> Layers:
    return {
        name: (sizes, (name,))
        for name, sizes in own_names(family).items()
        if not name.startswith(("?", *but))
    }


def bfl(family: Family) -> Layers:
    sizes = own_names(family)
    return {
        name: ((sizes[targets[0]][0], sum(sizes[one][1] for one in targets)), targets)
        for name, targets in bfl_names(family).items()
    }


def omi(family: Family) -> Layers:
    """OneTrainer's: fused layers have their parts numbered."""
    found: Layers = {}
    for name, (sizes, targets) in bfl(family).items():
        if len(targets) == 1:
            found["img_in.proj" if name == "img_in" else name] = (sizes, targets)
            continue
        for number, one in enumerate(targets):
            found[f"{name}.{number}"] = (own_names(family)[one], (one,))
    return found


def fused(family: Family) -> Layers:
    """As diffusers calls what `fuse_qkv_projections` makes."""
    singles = 1 if family == "flux1" else 0
    return {
        **{f"transformer_blocks.{n}.attn.{fused}": (
            (D, 3 * D), tuple(f"transformer_blocks.{n}.{one}" for one in parts)
        ) for n in range(1) for fused, parts in (("to_qkv", QKV), ("to_added_qkv", ADDED))},
        **{f"single_transformer_blocks.{n}.attn.to_qkv": (
            (D, 3 * D), tuple(f"single_transformer_blocks.{n}.{one}" for one in QKV)
        ) for n in range(singles)},
    }  # fmt: skip


def cut(family: Family) -> Layers:
    """`transformer.` taken for `diffusion_model.`: four letters too many are gone."""
    return {name[4:]: row for name, row in own(family).items()}


def lokr(
    layers: Layers, prefix: str, *, flat: bool = False, shape: str = "full", **more: Any
) -> File:
    """Return Kronecker factors for layers; `shape`: full, or what is a product of matrices."""
    import torch

    file = File({}, {})
    for number, (name, ((inputs, outputs), targets)) in enumerate(layers.items()):
        full = prefix + (name.replace(".", "_") if flat else name)
        rank, alpha = 2, more.get("alpha", 3.0)
        # Factors as LyCORIS makes them; of odd sizes, so rows of fused layers are cut across.
        a = next(n for n in (4, 3, 2, 1) if outputs % n == 0)
        b = next(n for n in (4, 3, 2, 1) if inputs % n == 0)
        c, d = outputs // a, inputs // b
        parts: Tensors = {}
        if shape in {"w1", "both"}:
            parts |= {"w1_a": some(a, rank, seed=number), "w1_b": some(rank, b, seed=number + 1)}
            w1 = parts["w1_a"].double() @ parts["w1_b"].double()
        else:
            parts["w1"] = some(a, b, seed=number)
            w1 = parts["w1"].double()
        if shape in {"w2", "both"}:
            parts |= {"w2_a": some(c, rank, seed=-number), "w2_b": some(rank, d, seed=-number - 1)}
            w2 = parts["w2_a"].double() @ parts["w2_b"].double()
        elif shape == "t2":
            parts |= {"w2_a": some(rank, c, seed=-number), "w2_b": some(rank, d, seed=-number - 1),
                      "t2": some(rank, rank, 1, 1, seed=number + 7)}  # fmt: skip
            w2 = torch.einsum(
                "ijkl,jr,ip->prkl", parts["t2"].double(), parts["w2_b"].double(),
                parts["w2_a"].double(),
            ).reshape(c, d).contiguous()  # fmt: skip
        else:
            parts["w2"] = some(c, d, seed=-number)
            w2 = parts["w2"].double()
        file.tensors |= {f"{full}.lokr_{role}": tensor for role, tensor in parts.items()}
        if alpha is not None:
            file.tensors[f"{full}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if shape == "full" or alpha is None else alpha / rank
        file.deltas |= rows(targets, scale * torch.kron(w1, w2), name)
    return file


def with_settings(
    file: File, settings: Mapping[str, Any], alpha_of: Callable[[str], float]
) -> File:
    """Put PEFT's settings into a file of rank 2 and 3, and count each layer's alpha."""
    ranks = {
        name.removesuffix(".lora_A.weight").removeprefix("transformer."): tensor.shape[0]
        for name, tensor in file.tensors.items() if name.endswith("lora_A.weight")
    }  # fmt: skip
    deltas = {
        name: delta * alpha_of(layer) / ranks[layer]
        for name, delta in file.deltas.items()
        for layer in [name.removesuffix(".weight")]
    }
    return File(file.tensors, deltas, {"lora_adapter_metadata": json.dumps(settings)})


def with_biases(file: File, end: str, *, scaled: bool) -> File:
    """Put a bias beside each pair in diffusers' names."""
    biased = File(dict(file.tensors), dict(file.deltas))
    for number, name in enumerate([n for n in file.tensors if n.endswith("lora_B.weight")]):
        layer = name.removesuffix(".lora_B.weight")
        alpha, rank = file.tensors.get(f"{layer}.alpha"), file.tensors[name].shape[1]
        bias = some(file.tensors[name].shape[0], seed=number + 99)
        biased.tensors[f"{layer}.{end}"] = bias
        scale = float(alpha) / rank if scaled and alpha is not None else 1.0
        biased.deltas[f"{layer.removeprefix('transformer.')}.bias"] = bias.double() * scale
    return biased


def in_fp8(file: File, *, scale_name: str | None = None, by_row: bool = False) -> File:
    """Store matrices in fp8, with a scale or none; what was rounded away is not meant."""
    import torch

    tensors: Tensors = {}
    for name, tensor in file.tensors.items():
        peak = tensor.abs().amax(1) if by_row else tensor.abs().max()
        scale = peak / 448 if scale_name else torch.ones(())
        narrow = (tensor / scale.reshape(-1, 1)).to(torch.float8_e4m3fn)
        tensors[name] = narrow
        if scale_name:
            tensors[f"{name.removesuffix('.weight')}.{scale_name}"] = scale
            tensors[f"{name.removesuffix('.weight')}.input_scale"] = torch.ones(())
        file.tensors[name] = narrow.double() * scale.reshape(-1, 1)
    pairs = {n.removesuffix(f".{AB[0]}") for n in tensors if n.endswith(AB[0])}
    deltas = {
        f"{layer.removeprefix('transformer.')}.weight": file.tensors[f"{layer}.{AB[1]}"].double()
        @ file.tensors[f"{layer}.{AB[0]}"].double()
        for layer in pairs
    }
    return File(tensors | ({"scaled_fp8": torch.zeros(2)} if scale_name else {}), deltas)


def with_more(file: File, left_out: str, **tensors: Any) -> File:
    return File(file.tensors | tensors, file.deltas, file.metadata, (left_out,))


def as_convolutions(file: File) -> File:
    return File(
        {
            name: one[..., None, None] if one.ndim == 2 else one
            for name, one in file.tensors.items()
        },
        file.deltas,
    )


def whole_layers(family: Family) -> File:
    """Return the change itself, not a product of matrices."""
    file = File({}, {})
    for number, (name, (sizes, targets)) in enumerate(bfl(family).items()):
        whole = some(sizes[1], sizes[0], seed=number)
        file.tensors[f"diffusion_model.{name}.diff"] = whole
        file.deltas |= rows(targets, whole.double(), name)
    return file


def biases_alone(family: Family) -> File:
    file = File({}, {})
    for number, (name, (_, outputs)) in enumerate(own_names(family).items()):
        file.tensors[f"transformer.{name}.diff_b"] = some(outputs, seed=number)
        file.deltas[f"{name}.bias"] = file.tensors[f"transformer.{name}.diff_b"].double()
    return file


def split_matrices(family: Family) -> File:
    """Return kohya's parts of a fused layer, with one alpha for all of them."""
    import torch

    parts = {name: row for name, row in omi(family).items() if ".qkv." in name}
    file, tensors = lora(parts, "lora_unet_", ends=DOWN_UP), {}
    for name, tensor in file.tensors.items():
        layer, _, side = name.partition(".lora_")
        whole, _, number = layer.rpartition(".")
        flat = whole.replace(".", "_")
        tensors[f"{flat}.lora_{side.replace('.', f'.{number}.')}"] = tensor
        tensors[f"{flat}.alpha"] = torch.tensor(3.0)
    ranks = {
        row[1][0]: file.tensors[f"lora_unet_{name}.{DOWN_UP[0]}"].shape[0]
        for name, row in parts.items()
    }
    deltas = {n: d * 3 / ranks[n.removesuffix(".weight")] for n, d in file.deltas.items()}
    return File(tensors, deltas)


def twice(family: Family) -> File:
    """Return a file with its layers a second time in kohya's layout."""
    first = lora(own(family), "transformer.")
    again = lora(bfl(family), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0)
    said = f"{len(bfl(family))} layers it has a second time, in the layout of kohya"
    return File(first.tensors | again.tensors, first.deltas, None, (said,))


def halves(family: Family) -> File:
    """Return a file with each layer in one of two layouts."""
    names = [name for name in own(family) if "linear1" not in name]
    some_, others = names[::2], names[1::2]
    return lora({n: own(family)[n] for n in some_}, "transformer.") | lora(
        {n: own(family)[n] for n in others}, "lora_transformer_", ends=DOWN_UP, flat=True, alpha=1.0
    )


def expressions(family: Family) -> File:
    settings = {
        "transformer.lora_alpha": 4,
        "transformer.r": 2,
        "transformer.alpha_pattern": {
            r"(x_embedder|proj_out)": 1,
            r"transformer_blocks\.\d+\.attn\.to_[qk]": 6,
            "attn.to_v": 5,
        },
    }

    def alpha_of(layer: str) -> float:
        from peft.utils.other import get_pattern_key

        patterns = settings["transformer.alpha_pattern"]
        return patterns.get(get_pattern_key(patterns, layer), settings["transformer.lora_alpha"])

    return with_settings(lora(own(family), "transformer."), settings, alpha_of)


def text_encoders() -> Tensors:
    return {
        **{f"lora_te1_text_model_encoder_layers_{n}_mlp_fc1.{end}": some(2, 2, seed=n)
           for n in range(2) for end in DOWN_UP},
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight":
            some(2, 2, seed=1),
        "clip_l.text_model.encoder.layers.0.mlp.fc1.lora_down.weight": some(2, 2, seed=1),
    }  # fmt: skip


FILES: dict[str, Callable[[Family], File]] = {
    "diffusers": lambda f: lora(own(f), "transformer."),
    "diffusers, no prefix": lambda f: lora(own(f)),
    "diffusers, no suffix": lambda f: lora(own(f), "transformer.", ends=("lora_A", "lora_B")),
    "diffusers, lora.down": lambda f: lora(
        own(f), "transformer.", ends=("lora.down.weight", "lora.up.weight")
    ),
    "diffusers, alphas": lambda f: lora(own(f), "transformer.", alpha=3.0),
    "unet": lambda f: lora(own(f), "unet."),
    "peft": lambda f: lora(own(f), "base_model.model."),
    "peft, prefix twice": lambda f: lora(own(f), "base_model.model.transformer."),
    "peft, prefix twice the other way": lambda f: lora(own(f), "transformer.base_model.model."),
    "peft, default": lambda f: lora(
        own(f), "base_model.model.", ends=("lora_A.default.weight", "lora_B.default.weight")
    ),
    "peft, named": lambda f: lora(
        own(f), "transformer.", ends=("lora_A.my-name_2.weight", "lora_B.my-name_2.weight")
    ),
    "peft, expressions": expressions,
    "peft, rank-stabilised": lambda f: with_settings(
        lora({n: r for n, r in own(f).items() if n.endswith("x_embedder")}, "transformer."),
        {"transformer.lora_alpha": 3, "transformer.use_rslora": True},
        lambda _layer: 3 * 2**0.5,
    ),
    "peft, biases": lambda f: with_biases(
        lora(own(f), "transformer.", alpha=3.0), "lora_B.bias", scaled=True
    ),
    "kohya": lambda f: lora(bfl(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0),
    "kohya, alphas are whole numbers": lambda f: lora(
        bfl(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=3, alpha_dtype="int64"
    ),
    "kohya, dots": lambda f: lora(bfl(f), "lora_unet_", ends=DOWN_UP, alpha=1.0),
    "kohya, a dot after the prefix": lambda f: lora(bfl(f), "lora_unet.", ends=DOWN_UP, alpha=1.0),
    "kohya, _ at the end": lambda f: lora(
        own(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0, tail="_"
    ),
    "kohya, diffusers' names": lambda f: lora(
        own(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0
    ),
    "kohya, split": split_matrices,
    "kohya, convolutions": lambda f: as_convolutions(
        lora(bfl(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0)
    ),
    "comfyui": lambda f: lora(bfl(f), "diffusion_model.", ends=DOWN_UP),
    "comfyui, a longer prefix": lambda f: lora(bfl(f), "model.diffusion_model."),
    "comfyui, diffusers' names": lambda f: lora(own(f), "diffusion_model."),
    "comfyui, diff": whole_layers,
    "comfyui, diff_b": lambda f: with_biases(lora(own(f), "transformer."), "diff_b", scaled=False),
    "comfyui, diff_b alone": biases_alone,
    "onetrainer": lambda f: lora(own(f), "lora_transformer_", ends=DOWN_UP, flat=True, alpha=1.0),
    "onetrainer, OMI": lambda f: lora(omi(f), "transformer.", ends=DOWN_UP, alpha=1.0),
    "onetrainer, embeddings": lambda f: with_more(
        lora(own(f), "lora_transformer_", ends=DOWN_UP, flat=True, alpha=1.0),
        "embeddings of words (mytoken)",
        **{f"bundle_emb.mytoken.{encoder}": some(2, 8, seed=0) for encoder in ("clip_l", "t5")},
    ),
    "lycoris": lambda f: lora(own(f), "lycoris_", ends=DOWN_UP, flat=True, alpha=1.0),
    "bfl": lambda f: lora(bfl(f)),
    "fused": lambda f: lora(fused(f), "transformer."),
    "a prefix stripped too far": lambda f: lora(cut(f)),
    "a prefix stripped too far, and another": lambda f: lora(cut(f), "diffusion_model."),
    "fp8": lambda f: in_fp8(lora(own(f), "transformer.")),
    "fp8, scale_weight": lambda f: in_fp8(
        lora(own(f), "transformer."), scale_name="scale_weight"
    ),
    "fp8, weight_scale of rows": lambda f: in_fp8(
        lora(own(f), "transformer."), scale_name="weight_scale", by_row=True
    ),
    "two layouts, each whole": twice,
    "two layouts, each in part": halves,
    "text encoders": lambda f: with_more(
        lora(own(f), "transformer."), "4 layers of text encoders", **text_encoders()
    ),
    "an alpha alone": lambda f: with_more(
        lora(bfl(f), "lora_unet_", ends=DOWN_UP, flat=True, alpha=1.0),
        "alphas of layers it does not have (lora_unet_gone)",
        **{"lora_unet_gone.alpha": some(1, seed=0)},
    ),
    "rank 0": lambda f: with_more(
        lora(own(f, but=("proj_out",)), "transformer."),
        "1 layers of rank 0",
        **{"transformer.proj_out.lora_A.weight": some(0, D, seed=0),
           "transformer.proj_out.lora_B.weight": some(8, 0, seed=0)},
    ),
    "lokr, ai-toolkit": lambda f: lokr(bfl(f), "diffusion_model.", alpha=1e10),
    "lokr, lycoris": lambda f: lokr(own(f), "lycoris_", flat=True),
    "lokr, no alphas": lambda f: lokr(own(f), "transformer.", shape="w2", alpha=None),
    "lokr, w1 a product": lambda f: lokr(bfl(f), "lora_unet_", flat=True, shape="w1"),
    "lokr, w2 a product": lambda f: lokr(bfl(f), "lora_unet_", flat=True, shape="w2"),
    "lokr, both products": lambda f: lokr(bfl(f), "diffusion_model.", shape="both"),
    "lokr, Tucker": lambda f: lokr(bfl(f), "diffusion_model.", shape="t2"),
    "lokr beside a LoRA": lambda f: (
        lokr({n: r for n, r in own(f).items() if "attn" in n}, "transformer.", shape="w2")
        | lora({n: r for n, r in own(f).items() if "attn" not in n}, "transformer.")
    ),
}  # fmt: skip
XLABS: Layers = {
    **{f"double_blocks.{n}.processor.{theirs}": (
        (D, D * len(ours)), tuple(f"transformer_blocks.{n}.{one}" for one in ours)
    ) for n in range(1) for theirs, ours in (
        ("qkv_lora1", QKV), ("qkv_lora2", ADDED), ("proj_lora1", ("attn.to_out.0",)),
        ("proj_lora2", ("attn.to_add_out",)),
    )},
    "single_blocks.0.processor.qkv_lora": (
        (D, 3 * D), tuple(f"single_transformer_blocks.0.{one}" for one in QKV)
    ),
    "single_blocks.0.processor.proj_lora": ((5 * D, D), ("single_transformer_blocks.0.proj_out",)),
}  # fmt: skip
ON_FLUX2 = frozenset(
    {"diffusers", "kohya", "comfyui", "comfyui, diff_b", "onetrainer, OMI", "bfl", "fused",
     "a prefix stripped too far, and another", "two layouts, each whole", "lokr, ai-toolkit",
     "lokr, lycoris", "lokr, w2 a product"}
)  # fmt: skip
"""Tried on FLUX.2 each time; the others differ from these as they do on FLUX.1."""
ALIKE = frozenset(
    {"diffusers, no prefix", "diffusers, lora.down", "unet", "peft, prefix twice",
     "peft, prefix twice the other way", "kohya, dots", "kohya, diffusers' names", "comfyui",
     "comfyui, a longer prefix", "comfyui, diffusers' names", "a prefix stripped too far",
     "lokr, both products", "peft", "diffusers, alphas", "kohya, a dot after the prefix",
     "lokr, lycoris", "an alpha alone", "rank 0", "text encoders", "onetrainer, embeddings", "fp8"}
)  # fmt: skip
"""Of FLUX.1: only names, or what is left out, differ from one that is tried each time."""


def case(name: str, model: str, make: Callable[[Family], File], *, always: bool = True) -> Any:
    marks = () if always else (pytest.mark.torture,)
    return pytest.param(model, make, id=f"{name}, {model}", marks=marks)


CASES = [
    *(case(name, "flux1", make, always=name not in ALIKE) for name, make in FILES.items()),
    *(case(name, "flux2", make, always=name in ON_FLUX2) for name, make in FILES.items()),
    case("xlabs", "flux1", lambda _: lora(XLABS, ends=("down.weight", "up.weight"))),
    *(
        case(name, model, make, always=model == "fill")
        for model in ("fill", "control")
        for name, make in (
            ("diffusers", FILES["diffusers"]),
            ("lokr", FILES["lokr, ai-toolkit"]),
            ("diff", whole_layers),
        )
    ),
]


# --- the promise ---------------------------------------------------------------------------------


def attached(tiny: Tiny, file: File, adapter: str = "one") -> tuple[str, ...]:
    """Attach a file as the worker does; return what the header says is left out."""
    from safetensors.torch import load, save

    data = save({name: one.contiguous() for name, one in file.tensors.items()}, file.metadata)
    header = parse_header(io.BytesIO(data))
    placement = place(header, architecture_of(tiny.model, tiny.spec))
    changes = changes_of(placement.placed, load(data), tiny.model.dtype)
    attach("one", adapter, tiny.model, changes)
    return (*header.left_out, *placement.left_out)


def difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max() / other.abs().max())


def weights_of(model: Any) -> dict[str, Any]:
    return {
        name.replace(".base_layer", ""): value.clone()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def bare(tiny: Callable[[str], Tiny]) -> Iterator[Callable[[str], Tiny]]:
    used: list[Tiny] = []

    def get(name: str) -> Tiny:
        used.append(tiny(name))
        return used[-1]

    yield get
    for one in used:
        if getattr(one.model, "peft_config", None):
            one.model.unload_lora()


@pytest.mark.parametrize(("model", "make"), CASES)
def test_each_layout_draws_as_weights_changed_by_hand(bare, model, make):
    tiny, file = bare(model), make("flux2" if model == "flux2" else "flux1")
    before, plain = weights_of(tiny.model), tiny.run()
    if model not in {"flux1", "flux2"}:
        file.deltas = {name: widened(tiny, name, delta) for name, delta in file.deltas.items()}
    assert attached(tiny, file) == file.left_out
    tiny.model.set_adapters(["one"], [-0.5])
    expected = tiny.merged({name: -0.5 * delta for name, delta in file.deltas.items()})
    assert difference(tiny.run(), expected) <= 1e-5
    assert difference(plain, expected) > 1e-2, "the comparison would show nothing"
    assert same(weights_of(tiny.model), before)
    tiny.model.disable_adapters()
    assert bool((tiny.run() == plain).all())
    delete_adapter(tiny.model, "one")
    tiny.model.unload_lora()
    assert same(tiny.model.state_dict(), before)
    assert bool((tiny.run() == plain).all())


def widened(tiny: Tiny, name: str, delta: Any) -> Any:
    import torch

    own = tiny.untouched.get_parameter(name)
    if own.shape == delta.shape:
        return delta
    return torch.cat([delta, torch.zeros(len(delta), own.shape[1] - delta.shape[1])], dim=1)


def test_several_on_the_same_layers_add_up(bare):
    tiny = bare("flux2")
    before = weights_of(tiny.model)
    files = {
        "lora": FILES["kohya"]("flux2"),
        "lokr": FILES["lokr, ai-toolkit"]("flux2"),
        "bias": FILES["comfyui, diff_b alone"]("flux2"),
    }
    for name, file in files.items():
        attached(tiny, file, name)
    weights = {"lora": 0.7, "lokr": -0.4, "bias": 2.0}
    tiny.model.set_adapters(list(weights), list(weights.values()))
    together = File({}, {})
    for name, file in files.items():
        together |= File({}, {key: weights[name] * delta for key, delta in file.deltas.items()})
    assert difference(tiny.run(), tiny.merged(together.deltas)) <= 1e-5
    delete_adapter(tiny.model, "lora")
    tiny.model.set_adapters(["lokr"], [1.0])
    assert difference(tiny.run(), tiny.merged(files["lokr"].deltas)) <= 1e-5
    tiny.model.unload_lora()
    assert same(tiny.model.state_dict(), before)
