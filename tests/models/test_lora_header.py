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
        (BLOCK, "lora_A", "diffusers", BLOCK),
        (f"unet.{BLOCK}", "lora_A", "diffusers", BLOCK),
        (f"base_model.model.transformer.{BLOCK}", "lora_A", "peft", BLOCK),
        (
            "transformer.double_blocks.0.img_attn.qkv.1",
            "lora_down",
            "onetrainer",
            "double_blocks.0.img_attn.qkv.1",
        ),
        (
            "lycoris_transformer_blocks_0_attn_to_q",
            "lora_down",
            "lycoris",
            "transformer_blocks_0_attn_to_q",
        ),
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
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {r"attn\.to_[qk]": 2}}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"(to_k|to_v)": 2}}, 8.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"^to_q": 2}}, 8.0),
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
    first = pair("img_in", 8, 4)
    assert read_header(write(tmp_path / "a.safetensors", tensors, first, norm)).is_control


GOOD = pair(KOHYA, 8, 4, ends="lora_down")
DOWN, UP = GOOD


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({DOWN: GOOD[DOWN]}, "lacks one of its matrices"),
        ({**GOOD, UP: np.zeros((4, 3), np.float32)}, "do not fit together"),
        ({**GOOD, DOWN: np.zeros((2, 8), np.int32)}, "cannot be used: I32 of the shape"),
        ({**GOOD, DOWN: np.zeros((2, 8, 3), np.float32)}, "cannot be used: F32 of the shape"),
        ({**GOOD, f"{KOHYA}.lora_A.weight": GOOD[DOWN]}, "are for the same layer"),
        (
            pair(f"{KOHYA}", 8, 4) | {f"{KOHYA}.lora_A.other.weight": GOOD[DOWN]},
            "are for the same layer",
        ),
        (
            pair(KOHYA, 8, 4)
            | {"x.lora_A.two.weight": GOOD[DOWN], "x.lora_B.two.weight": GOOD[UP]},
            "holds several adapters of PEFT: .*'two'",
        ),
        ({**GOOD, f"{KOHYA}.lokr_w1": np.ones((2, 2), np.float32)}, "matrices of different forms"),
        ({f"{KOHYA}.lokr_w1": np.ones((2, 2), np.float32)}, "lacks one of its matrices"),
        (
            {
                f"{KOHYA}.lokr_w1": np.ones((2, 2), np.float32),
                f"{KOHYA}.lokr_w2_a": np.ones((2, 3), np.float32),
                f"{KOHYA}.lokr_w2_b": np.ones((2, 2), np.float32),
            },
            "do not fit together",
        ),
        ({**GOOD, f"{KOHYA}.alpha": np.ones(2, np.float32)}, "not one number"),
        ({**GOOD, f"{KOHYA}.alpha": np.array(np.nan, np.float32)}, "is no number"),
        ({**GOOD, f"{KOHYA}.dora_scale": np.ones(4, np.float32)}, "It is a DoRA"),
        ({"transformer.x.lora_magnitude_vector": np.ones(4, np.float32)}, "It is a DoRA"),
        ({"lora_unet_x.hada_w1_a": np.ones(4, np.float32)}, "It is a LoHa"),
        ({"lora_unet_x.oft_blocks": np.ones(4, np.float32)}, "It is an OFT or BOFT"),
        ({"transformer.x.boft_R": np.ones(4, np.float32)}, "It is a BOFT"),
        ({"lora_unet_x.a1.weight": np.ones(4, np.float32)}, "It is a GLoRA"),
        ({"transformer.x.ia3_l": np.ones(4, np.float32)}, r"It is an \(IA\)3"),
        ({**GOOD, f"{KOHYA}.lora_mid.weight": np.ones(4, np.float32)}, "It is a LoCon"),
        ({**GOOD, f"{KOHYA}.scalar": np.ones((), np.float32)}, "more than a LoRA"),
        (
            {"transformer_blocks.0.qkv_proj.lora_down": np.ones((8, 2), np.float32)},
            "layout of Nunchaku",
        ),
        ({**GOOD, f"{KOHYA}.diff_b": np.ones(5, np.float32)}, "do not fit together"),
        (
            {**GOOD, "diffusion_model.a.query_norm.scale.diff": np.ones(4, np.float32)},
            "changes 1 norms of the transformer",
        ),
        ({**GOOD, f"{KOHYA}.lora_down.scale_weight": np.ones((), np.float32)}, "no LoRA layers"),
        ({**GOOD, f"{KOHYA}.unheard_of": np.ones(4, np.float32)}, "1 of its tensors are no LoRA"),
        ({"transformer.x_embedder.weight": np.ones((4, 4), np.float32)}, "are no LoRA layers"),
        (pair("lora_te_x", 8, 4), "for text encoders alone"),
        ({"a.alpha": np.array(1, np.float32)}, "no LoRA layer of a FLUX transformer"),
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
    ("text", "says"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"lora_alpha": "x"}', "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"alpha_pattern": {"(": 1}}', r"'\(' is no regular expression"),
        ('{"alpha_pattern": {"(a|aa)+[^a]": 1}}', "takes too long"),
        ('{"alpha_pattern": {"%s": 1}}' % ("x" * 1001), "is damaged"),
        ('{"peft_type": "LOHA"}', "says it is a LOHA"),
    ],
)
def test_settings_of_peft_that_cannot_be_read_are_refused(tmp_path, text, says):
    tensors = pair(f"transformer.{'a' * 200}", 8, 4)
    path = write(tmp_path / "a.safetensors", tensors, lora_adapter_metadata=text)
    with pytest.raises(InvalidLoraError, match=f"lora_adapter_metadata.* {says}"):
        read_header(path)


def test_a_dora_is_refused_by_its_settings(tmp_path):
    path = write(tmp_path / "a.safetensors", GOOD, lora_adapter_metadata='{"use_dora": true}')
    with pytest.raises(InvalidLoraError, match="DoRA"):
        read_header(path)


LOKR = {
    f"{KOHYA}.lokr_w1": np.ones((4, 2), np.float32),
    f"{KOHYA}.lokr_w2_a": np.ones((6, 3), np.float32),
    f"{KOHYA}.lokr_w2_b": np.ones((3, 5), np.float32),
    f"{KOHYA}.alpha": np.array(6, np.float32),
}


def test_a_lokr_is_measured_by_its_factors(tmp_path):
    header = read_header(write(tmp_path / "a.safetensors", LOKR))
    (layer,) = header.layers
    assert (layer.form, layer.inputs, layer.outputs, layer.rank, layer.scale) == (
        "lokr", 10, 24, 3, 2.0
    )  # fmt: skip
    assert (header.forms, header.ranks, header.is_narrow) == (("lokr",), (3,), False)


def test_the_alpha_of_whole_factors_scales_nothing(tmp_path):
    whole = {f"{KOHYA}.lokr_w1": np.ones((4, 2), np.float32)}
    whole |= {f"{KOHYA}.lokr_w2": np.ones((6, 5), np.float32), f"{KOHYA}.alpha": np.array(1e10)}
    header = read_header(write(tmp_path / "a.safetensors", whole))
    assert (header.layers[0].scale, header.ranks, header.alphas) == (1.0, (), ())


def test_whatever_is_left_out_is_said(tmp_path):
    header = read_header(
        write(
            tmp_path / "a.safetensors",
            GOOD,
            pair("lora_te1_x", 8, 4, ends="lora_down"),
            {"bundle_emb.ohwx.t5": np.ones((2, 8), np.float32)},
            {"lora_unet_gone.alpha": np.array(1, np.float32)},
            {"diffusion_model.a.key_norm.scale.diff": np.zeros(4, np.float32)},
            {"lora_unet_img_in.lora_down.weight": np.ones((0, 8), np.float32)},
            {"lora_unet_img_in.lora_up.weight": np.ones((4, 0), np.float32)},
        )
    )
    assert [layer.down for layer in header.layers] == [DOWN]
    assert header.left_out == (
        "1 layers of text encoders",
        "embeddings of words (ohwx)",
        "alphas of layers it does not have (lora_unet_gone)",
        "1 layers of rank 0",
        "1 tensors of zeros",
    )
