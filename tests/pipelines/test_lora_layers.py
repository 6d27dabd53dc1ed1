"""What we know of layers without torch is what diffusers really builds and converts."""

import json
from typing import Any

import numpy as np
import pytest

from flux_mcp.models.architectures import SWAPPED, Architecture, from_config, known_architectures
from flux_mcp.models.families import FAMILIES, Family
from flux_mcp.models.loras.fit import fit_control, place
from flux_mcp.models.loras.header import read_control_header, read_header
from flux_mcp.models.registry import load_registry
from flux_mcp.pipelines.loras.layers import (
    architecture_of,
    biases_of,
    changes_of,
    matrices_of,
)
from flux_mcp.settings.installation import PACKAGE_DIR
from tests.models.control_lora_files import bfl
from tests.models.lora_files import pair, write

pytestmark = pytest.mark.usefixtures("torch_here")

REGISTRY = load_registry()
MICRO = REGISTRY.find("text2img", "micro")
FLUX1, *_ = known_architectures()
KLEIN = next(one for one in known_architectures() if one.name == "FLUX.2 klein 4B")
FEW = {"num_layers": 2, "num_single_layers": 2}
CONFIGS: list[tuple[str, Family, dict[str, Any]]] = [
    # Blocks are alike: two of each are enough, but for the defaults of the classes.
    ("FLUX.1 whole", "flux1", {"_class_name": "FluxTransformer2DModel"}),
    ("FLUX.2 whole", "flux2", {"_class_name": "Flux2Transformer2DModel"}),
    *(
        (name, family, {**config, **FEW})
        for family, spec in FAMILIES.items()
        for name, config in spec.transformers.items()
    ),
    *(
        (folder.parent.parent.name, "micro", json.loads(folder.read_text()))
        for folder in (PACKAGE_DIR / "weights" / "micro").glob("*/transformer/config.json")
    ),
]


def built(config: dict[str, Any]) -> Any:
    """Return the transformer without memory for its weights."""
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights():
        transformer = getattr(diffusers, config["_class_name"])
        return transformer.from_config({k: v for k, v in config.items() if k[0] != "_"})


@pytest.mark.parametrize(
    ("name", "family", "config"), CONFIGS, ids=[name for name, _, _ in CONFIGS]
)
def test_the_layers_we_compute_are_those_diffusers_builds(name, family, config):
    computed = from_config(name, family, config)
    assert computed is not None
    assert computed.linears == architecture_of(built(config), MICRO).linears


def test_a_class_we_do_not_know_has_no_layers():
    assert from_config("x", "flux1", {"_class_name": "AuraFlowTransformer2DModel"}) is None


def products(matrices: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what each layer adds to its output, for one input; the product itself is huge."""
    import torch

    names = {name.removeprefix("transformer.").partition(".lora_")[0] for name in matrices}
    bare = {name.removeprefix("transformer."): one for name, one in matrices.items()}
    return {
        name: (bare[f"{name}.lora_B.weight"] @ (bare[f"{name}.lora_A.weight"] @ given)).numpy()
        for name in names
        for given in [torch.linspace(-1, 1, bare[f"{name}.lora_A.weight"].shape[1]) ** 3]
    }


def ours(path: Any, architecture: Architecture) -> dict[str, np.ndarray]:
    import torch
    from safetensors.torch import load_file

    placed = place(read_header(path), architecture).placed
    return products(matrices_of(changes_of(placed, load_file(path), torch.float32)))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, product in expected.items():
        np.testing.assert_allclose(found[name], product, rtol=1e-5, atol=1e-6, err_msg=name)


KOHYA = [
    ("double_blocks_0_img_attn_qkv", 3072, 9216),
    ("double_blocks_0_txt_attn_qkv", 3072, 9216),
    ("double_blocks_0_img_attn_proj", 3072, 3072),
    ("double_blocks_18_txt_attn_proj", 3072, 3072),
    ("double_blocks_1_img_mlp_0", 3072, 12288),
    ("double_blocks_1_img_mlp_2", 12288, 3072),
    ("double_blocks_1_txt_mlp_0", 3072, 12288),
    ("double_blocks_1_txt_mlp_2", 12288, 3072),
    ("double_blocks_1_img_mod_lin", 3072, 18432),
    ("double_blocks_1_txt_mod_lin", 3072, 18432),
    ("single_blocks_37_linear1", 3072, 21504),
    ("single_blocks_0_linear2", 15360, 3072),
    ("single_blocks_0_modulation_lin", 3072, 9216),
    ("img_in", 64, 3072),
    ("txt_in", 4096, 3072),
    ("time_in_in_layer", 256, 3072),
    ("time_in_out_layer", 3072, 3072),
    ("vector_in_in_layer", 768, 3072),
    ("guidance_in_in_layer", 256, 3072),
    ("final_layer_linear", 3072, 64),
    ("final_layer_adaLN_modulation_1", 3072, 6144),
]


@pytest.mark.parametrize(("layer", "inputs", "outputs"), KOHYA, ids=[row[0] for row in KOHYA])
def test_a_layer_of_kohya_becomes_what_diffusers_makes_of_it(tmp_path, layer, inputs, outputs):
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    # The final layer without an alpha: diffusers leaves it out there.
    alpha = None if "final" in layer else 1.0
    tensors = pair(f"lora_unet_{layer}", inputs, outputs, ends="lora_down", alpha=alpha)
    path = write(tmp_path / "one.safetensors", tensors)
    theirs = FluxPipeline.lora_state_dict(load_file(path))
    same(ours(path, FLUX1), products(theirs))


XLABS = [
    ("double_blocks.3.processor.qkv_lora1", 3072, 9216),
    ("double_blocks.3.processor.qkv_lora2", 3072, 9216),
    ("double_blocks.3.processor.proj_lora1", 3072, 3072),
    ("double_blocks.3.processor.proj_lora2", 3072, 3072),
    ("single_blocks.3.processor.qkv_lora", 3072, 9216),
]


@pytest.mark.parametrize(("layer", "inputs", "outputs"), XLABS, ids=[row[0] for row in XLABS])
def test_a_layer_of_xlabs_becomes_what_diffusers_makes_of_it(tmp_path, layer, inputs, outputs):
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    path = write(tmp_path / "one.safetensors", pair(layer, inputs, outputs, ends="down"))
    same(ours(path, FLUX1), products(FluxPipeline.lora_state_dict(load_file(path))))


FLUX2 = [
    ("double_blocks.0.img_attn.qkv", 3072, 9216),
    ("double_blocks.0.txt_attn.qkv", 3072, 9216),
    ("double_blocks.4.img_attn.proj", 3072, 3072),
    ("double_blocks.4.txt_mlp.0", 3072, 18432),
    ("double_blocks.4.img_mlp.2", 9216, 3072),
    ("single_blocks.19.linear1", 3072, 27648),
    ("single_blocks.19.linear2", 12288, 3072),
    ("single_stream_modulation.lin", 3072, 9216),
    ("double_stream_modulation_txt.lin", 3072, 18432),
    ("img_in", 128, 3072),
    ("txt_in", 7680, 3072),
    ("time_in.in_layer", 256, 3072),
    ("final_layer.linear", 3072, 128),
]


@pytest.mark.parametrize(("layer", "inputs", "outputs"), FLUX2, ids=[row[0] for row in FLUX2])
def test_a_layer_of_flux2_becomes_what_diffusers_makes_of_it(tmp_path, layer, inputs, outputs):
    from diffusers import Flux2KleinPipeline
    from safetensors.torch import load_file

    path = write(tmp_path / "one.safetensors", pair(f"diffusion_model.{layer}", inputs, outputs))
    same(ours(path, KLEIN), products(Flux2KleinPipeline.lora_state_dict(load_file(path))))


def test_only_black_forest_labs_order_is_turned_around(tmp_path):
    theirs = pair("lora_unet_final_layer_adaLN_modulation_1", 3072, 6144)
    names = [f"transformer.{SWAPPED}.lora_{side}.weight" for side in "AB"]
    own = dict(zip(names, theirs.values(), strict=True))
    found = ours(write(tmp_path / "own.safetensors", own), FLUX1)[SWAPPED]
    turned = ours(write(tmp_path / "bfl.safetensors", theirs), FLUX1)[SWAPPED]
    assert np.array_equal(found, np.roll(turned, 3072, axis=0))
    assert not np.array_equal(found, turned)


def test_a_control_lora_becomes_what_diffusers_makes_of_it(tmp_path):
    """Every tensor of FLUX.1's own: matrices, biases and norms, each under its name.

    But for one: diffusers 0.42.1 turns around the rows of the last layer's first matrix too, which
    are its rank and not its outputs (`swap_scale_shift`; github.com/huggingface/diffusers, issue
    13998). Black Forest Labs' own code multiplies the two as they are (modules/lora.py).
    """
    import torch
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    config = {
        "num_layers": 19,
        "num_single_layers": 38,
        "out_channels": 64,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "_class_name": "FluxTransformer2DModel",
    }
    path = write(tmp_path / "control.safetensors", bfl(config, 128, rank=2))
    tensors = load_file(path)
    fit = fit_control(read_control_header(path), "flux1-dev", "flux1", config, 128)
    made = matrices_of(changes_of(fit.placed, tensors, torch.float32))
    for one in fit.placed:
        for target, rows in biases_of(one, tensors):
            made[f"{target}.lora_B.bias"] = rows
    made |= {name: tensors[tensor] for name, tensor in fit.norms.items()}

    theirs = FluxPipeline.lora_state_dict(tensors)
    expected = {name.removeprefix("transformer."): one for name, one in theirs.items()}
    wrong = f"{SWAPPED}.lora_A.weight"
    assert torch.equal(made[wrong], expected[wrong].flip(0))
    expected[wrong] = expected[wrong].flip(0)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], one) for name, one in expected.items())
