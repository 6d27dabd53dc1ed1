"""What a LoRA's file says is read without torch; what is wrong with it is said, never loaded."""

import json
import struct

import numpy as np
import pytest

from flux_mcp.errors import InvalidLoraError
from flux_mcp.models.loras.header import MAX_HEADER_BYTES, read_header

from .lora_files import STRIPED, pair, write

BLOCK = "transformer_blocks.0.attn.to_q"
KOHYA = "lora_unet_double_blocks_0_img_attn_proj"


def test_the_trained_one_is_read():
    header = read_header(STRIPED)
    assert (header.layout, header.ranks, header.alphas, header.dtypes) == (
        "diffusers", (8,), (8.0,), ("F16",)
    )  # fmt: skip
    assert len(header.layers) == 26
    layer = next(one for one in header.layers if one.name.endswith("ff.net.2"))
    assert (layer.name, layer.inputs, layer.outputs, layer.rank, layer.scale) == (
        "transformer_blocks.0.ff.net.2", 512, 128, 8, 1.0
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "ends", "layout", "name"),
    [
        (f"transformer.{BLOCK}", "lora_A", "diffusers", BLOCK),
        (f"transformer.{BLOCK}", "lora.down", "diffusers", BLOCK),
        (f"transformer.{BLOCK}", "lora_down", "diffusers", BLOCK),
        (KOHYA, "lora_down", "kohya", "double_blocks_0_img_attn_proj"),
        (
            "lora_transformer_transformer_blocks_0_attn_to_q",
            "lora_down",
            "onetrainer",
            "transformer_blocks_0_attn_to_q",
        ),
        (
            "diffusion_model.double_blocks.0.img_attn.proj",
            "lora_A",
            "comfyui",
            "double_blocks.0.img_attn.proj",
        ),
        (
            "base_model.model.double_blocks.0.img_attn.proj",
            "lora_A",
            "peft",
            "double_blocks.0.img_attn.proj",
        ),
        (
            "double_blocks.0.processor.proj_lora1",
            "down",
            "xlabs",
            "double_blocks.0.processor.proj_lora1",
        ),
        ("double_blocks.0.img_attn.proj", "lora_A", "bfl", "double_blocks.0.img_attn.proj"),
    ],
)
def test_each_layout_is_recognised(tmp_path, layer, ends, layout, name):
    header = read_header(write(tmp_path / "a.safetensors", pair(layer, 8, 4, rank=3, ends=ends)))
    assert (header.layout, [one.name for one in header.layers]) == (layout, [name])
    (read,) = header.layers
    assert (read.inputs, read.outputs, read.rank, read.alpha) == (8, 4, 3, 3.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_alpha_of_its_own_scales_a_layer(tmp_path, dtype):
    tensors = pair(KOHYA, 8, 4, rank=4, ends="lora_down") | {f"{KOHYA}.alpha": np.array(1, dtype)}
    (layer,) = read_header(write(tmp_path / "a.safetensors", tensors)).layers
    assert (layer.alpha, layer.scale) == (1.0, 0.25)


def test_an_alpha_in_bf16_is_read(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {
        f"{KOHYA}.lora_down.weight": torch.ones(4, 8, dtype=torch.bfloat16),
        f"{KOHYA}.lora_up.weight": torch.ones(4, 4, dtype=torch.bfloat16),
        f"{KOHYA}.alpha": torch.tensor(2.5, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert (header.layers[0].alpha, header.dtypes) == (2.5, ("BF16",))


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({"transformer.r": 4, "transformer.lora_alpha": 8}, 8.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_q": 2}}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"^" + BLOCK: 2}}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_k": 2}}, 8.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"o_q": 2}}, 8.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 16.0),
        ({"text_encoder.lora_alpha": 8}, 4.0),
    ],
)
def test_the_settings_of_peft_scale_its_layers(tmp_path, settings, alpha):
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    tensors = pair(f"transformer.{BLOCK}", 8, 8, rank=4)
    (layer,) = read_header(write(tmp_path / "a.safetensors", tensors, **metadata)).layers
    assert layer.alpha == alpha


def test_layers_of_text_encoders_are_counted_and_left_out(tmp_path):
    tensors = [
        pair(KOHYA, 8, 4, ends="lora_down"),
        pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 8, 4, ends="lora_down", alpha=2),
        pair("lora_te1_text_model_encoder_layers_0_mlp_fc2", 8, 4, ends="lora_down"),
    ]
    header = read_header(write(tmp_path / "a.safetensors", *tensors))
    assert (len(header.layers), header.text_encoder_layers) == (1, 2)


def test_every_rank_that_occurs_is_told(tmp_path):
    tensors = [pair(f"{KOHYA}{n}", 8, 4, rank=rank) for n, rank in enumerate((16, 4, 16))]
    assert read_header(write(tmp_path / "a.safetensors", *tensors)).ranks == (4, 16)


def test_a_control_lora_is_recognised_by_its_norms(tmp_path):
    tensors = pair("double_blocks.0.img_attn.proj", 8, 4)
    norm = {"double_blocks.0.img_attn.norm.query_norm.scale": np.ones(4, np.float32)}
    assert read_header(write(tmp_path / "a.safetensors", tensors, norm)).is_control


GOOD = pair(KOHYA, 8, 4, ends="lora_down")
DOWN, UP = GOOD


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({DOWN: GOOD[DOWN]}, "lacks one of its matrices"),
        ({**GOOD, UP: np.zeros((4, 3), np.float32)}, "do not fit together"),
        ({**GOOD, DOWN: np.zeros((2, 8), np.int32)}, "not of two matrices"),
        ({**GOOD, DOWN: np.zeros((2, 8, 1), np.float32)}, "not of two matrices"),
        ({**GOOD, f"{KOHYA}.alpha": np.ones(2, np.float32)}, "not one number"),
        ({**GOOD, f"{KOHYA}.alpha": np.array(np.nan, np.float32)}, "is no number"),
        ({**GOOD, "lora_unet_other.alpha": np.array(1, np.float32)}, "an alpha and no matrices"),
        ({**GOOD, f"{KOHYA}.dora_scale": np.ones(4, np.float32)}, "It is a DoRA"),
        ({"lora_unet_x.lokr_w1": np.ones(4, np.float32)}, "It is a LoKr"),
        ({"lora_unet_x.hada_w1_a": np.ones(4, np.float32)}, "It is a LoHa"),
        ({**GOOD, f"{KOHYA}.diff_b": np.ones(4, np.float32)}, "1 of its tensors are no LoRA"),
        ({"transformer.x_embedder.weight": np.ones((4, 4), np.float32)}, "are no LoRA layers"),
        (pair("lora_te_x", 8, 4), "no LoRA layer of a FLUX transformer"),
    ],
)
def test_what_cannot_be_applied_is_refused(tmp_path, tensors, says):
    with pytest.raises(InvalidLoraError, match=says) as refused:
        read_header(write(tmp_path / "a.safetensors", tensors))
    assert refused.value.hint


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(**changes: object) -> bytes:
    row = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4], **changes}
    return json.dumps({"a.lora_A.weight": row}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + b" " * 100,
        safetensors(b"not json"),
        safetensors(b"[]"),
        safetensors(b'{"a.lora_A.weight": 1}'),
        safetensors(b'{"__metadata__": 7}'),
        safetensors(entry()),
        safetensors(entry(data_offsets=[-4, 0]), b"1234"),
        safetensors(entry(data_offsets=[4, 0]), b"1234"),
        safetensors(entry(shape=[2, 1]), b"1234"),
        safetensors(entry(shape=[-1, -1]), b"1234"),
        safetensors(b"[" * 100_000),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(InvalidLoraError, match="cut off"):
        read_header(tmp_path / "a.safetensors")


def test_a_download_that_was_broken_off_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(STRIPED.read_bytes()[:-1])
    with pytest.raises(InvalidLoraError, match="cut off"):
        read_header(path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"alpha_pattern": {"(a+)+$": 1}}', '{"lora_alpha": "x"}', "[" * 100_000]
)
def test_settings_of_peft_that_cannot_be_read_are_refused(tmp_path, text):
    path = write(tmp_path / "a.safetensors", GOOD, lora_adapter_metadata=text)
    with pytest.raises(InvalidLoraError, match="lora_adapter_metadata is damaged"):
        read_header(path)


def test_a_dora_is_refused_by_its_settings(tmp_path):
    path = write(tmp_path / "a.safetensors", GOOD, lora_adapter_metadata='{"use_dora": true}')
    with pytest.raises(InvalidLoraError, match="DoRA"):
        read_header(path)
