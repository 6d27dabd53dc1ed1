"""Weights stored in 8 bit floats, with and without scales: in every naming, for every part.

The right values are those of a model that holds, in 16 or 32 bit, what the file says: stored number
times scale.
"""

import json
import shutil
from pathlib import Path

import pytest

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.row_files import check_stored
from flux_mcp.models.weight_headers import read_weight_header
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import PartFiles
from flux_mcp.pipelines.loading.slots import nbytes_of, slots_of
from tests.pipelines.loading.test_denoisers import bfl_names_of_flux1
from tests.pipelines.loading.test_flux2 import bfl_names

pytestmark = pytest.mark.usefixtures("torch_here")

LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
NAMES = {"old": ("scale_weight", "scale_input"), "new": ("weight_scale", "input_scale")}


def stored_in_8_bit(tensors, names="old", number="float8_e4m3fn", *, by_row=False, describe=False):
    """Return tensors as such a file has them, and what the file says their values are."""
    import torch

    weight_name, input_name = NAMES[names]
    dtype = getattr(torch, number)
    file, values = {}, {}
    for name, tensor in tensors.items():
        if not (name.endswith(".weight") and tensor.ndim == 2 and "block" in name):
            file[name] = values[name] = tensor.bfloat16()
            continue
        largest = tensor.abs().amax(1) if by_row else tensor.abs().max()
        scale = (largest / LARGEST[number]).float().clamp(min=1e-12)
        by = scale[:, None] if by_row else scale
        layer = name.removesuffix(".weight")
        file[name] = (tensor.float() / by).to(dtype)
        values[name] = file[name].float() * by
        file[f"{layer}.{weight_name}"] = scale
        file[f"{layer}.{input_name}"] = torch.tensor(0.01)
        if describe:
            text = json.dumps({"format": number}).encode()
            file[f"{layer}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if names == "old":
        file["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    return file, values


def written(path: Path, tensors, prefix: str = "") -> Path:
    from safetensors.torch import save_file

    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def error(ours, right) -> float:
    return float((ours - right).norm() / right.norm())


# --- FLUX.2's transformer ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux2(tmp_path_factory, torch_here):
    """A small transformer with weights as small as real ones, and a folder with its description."""
    import torch
    from diffusers import Flux2Transformer2DModel

    folder = tmp_path_factory.mktemp("flux2") / "transformer"
    torch.manual_seed(0)
    model = Flux2Transformer2DModel(
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(8, 8, 8, 8),
        guidance_embeds=False,
    )
    model.save_config(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.2)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            assert parameter.isfinite().all(), name
    return model.eval(), folder


def results(model, dtype):
    import torch

    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 16, 128, generator=random).to(dtype),
            encoder_hidden_states=torch.randn(1, 6, 32, generator=random).to(dtype),
            timestep=torch.tensor([0.6]).to(dtype),
            img_ids=torch.zeros(1, 16, 4),
            txt_ids=torch.zeros(1, 6, 4),
            guidance=None,
            return_dict=False,
        )[0].float()


def with_values(model, values, dtype):
    """Return what a model computes whose weights are these."""
    import copy

    other = copy.deepcopy(model).to(dtype)
    other.load_state_dict({name: tensor.to(dtype) for name, tensor in values.items()})
    return results(other, dtype)


def loaded(folder, file, precision):
    check_stored("transformer", read_weight_header(file), precision)
    part = PartFiles("transformer", "diffusers", "Flux2Transformer2DModel", folder, file)
    return load_part(part, precision)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("names", "number", "how"),
    [
        ("old", "float8_e4m3fn", {}),
        ("new", "float8_e4m3fn", {}),
        ("new", "float8_e4m3fn", {"describe": True, "by_row": True}),
        ("new", "float8_e5m2", {"describe": True}),
    ],
)
def test_scales_are_applied_to_the_transformer_of_flux2(
    flux2, tmp_path, prefix, names, number, how
):
    import torch

    model, folder = flux2
    _, values = stored_in_8_bit(model.state_dict(), names, number, **how)
    # In Black Forest Labs' names q, k and v are one matrix, with one scale.
    file_tensors, bfl_values = stored_in_8_bit(bfl_names(model.state_dict()), names, number, **how)
    others = {"vae.decoder.conv_in.bias": torch.zeros(8)} if prefix else {}
    file = written(tmp_path / "scaled.safetensors", file_tensors, prefix)
    if others:
        from safetensors.torch import load_file

        written(file, load_file(file) | others)
    right = written(tmp_path / "right.safetensors", bfl_values)
    exact = results(loaded(folder, right, "fp32"), torch.float32)
    assert error(exact, with_values(model, values, torch.float32)) < 0.2
    assert results(loaded(folder, file, "fp32"), torch.float32).equal(exact)
    # Held as fp8: nothing is rounded but the results of 16 bit.
    narrow = loaded(folder, file, "fp8")
    in_16_bit = results(loaded(folder, right, "bf16"), torch.bfloat16)
    assert error(results(narrow, torch.bfloat16), in_16_bit) < 0.02
    held = sum(nbytes_of(slot.tensor) for slot in slots_of(narrow))
    assert held < 0.7 * sum(t.numel() * 2 for t in model.state_dict().values())


@pytest.mark.parametrize("precision", ["int8", "fp8wo", "bf16"])
def test_8_bit_floats_are_widened_for_what_is_made_while_loading(flux2, tmp_path, precision):
    import torch

    model, folder = flux2
    file_tensors, values = stored_in_8_bit(model.state_dict())
    file = written(tmp_path / "scaled.safetensors", file_tensors)
    plain = {
        name: tensor.to(torch.float8_e5m2) if tensor.ndim == 2 else tensor
        for name, tensor in model.state_dict().items()
    }
    plain_file = written(tmp_path / "plain.safetensors", plain)
    for path, right in ((file, values), (plain_file, {n: t.float() for n, t in plain.items()})):
        made = results(loaded(folder, path, precision), torch.bfloat16)
        assert error(made, with_values(model, right, torch.bfloat16)) < 0.06


@pytest.mark.parametrize("number", ["float8_e4m3fn", "float8_e5m2"])
def test_a_plain_file_is_held_as_it_is(flux2, tmp_path, number):
    import torch

    model, folder = flux2
    plain = {
        name: tensor.to(getattr(torch, number)) if tensor.ndim == 2 else tensor
        for name, tensor in model.state_dict().items()
    }
    file = written(tmp_path / "plain.safetensors", plain)
    ours = results(loaded(folder, file, "fp8"), torch.bfloat16)
    right = with_values(model, {n: t.float() for n, t in plain.items()}, torch.bfloat16)
    assert error(ours, right) < 0.02


# --- what cannot be used -------------------------------------------------------------------------


def nvfp4(tensors):
    import torch

    name = "transformer_blocks.0.attn.to_q"
    rows, columns = tensors[f"{name}.weight"].shape
    tensors[f"{name}.weight"] = torch.zeros(rows, columns // 2, dtype=torch.uint8)
    tensors[f"{name}.weight_scale"] = torch.ones(rows, columns // 16).to(torch.float8_e4m3fn)
    tensors[f"{name}.weight_scale_2"] = torch.tensor(1.0)


def described_as_nvfp4(tensors):
    import torch

    text = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    tensors["transformer_blocks.0.attn.to_q.comfy_quant"] = text


def scale_of_nothing(tensors):
    import torch

    tensors["transformer_blocks.9.attn.to_q.weight_scale"] = torch.tensor(1.0)


def scale_of_16_bit(tensors):
    import torch

    tensors["transformer_blocks.0.attn.to_q.weight_scale"] = torch.tensor(2.0)


def an_adapter(tensors):
    import torch

    tensors["transformer_blocks.0.ip_adapter.k.weight"] = torch.zeros(8, 8)


@pytest.mark.parametrize(
    "change", [nvfp4, described_as_nvfp4, scale_of_nothing, scale_of_16_bit, an_adapter]
)
def test_what_is_packed_in_another_way_or_not_known_is_refused(flux2, tmp_path, change):
    model, folder = flux2
    tensors = dict(model.state_dict())
    change(tensors)
    with pytest.raises(WeightsInvalidError) as refused:
        loaded(folder, written(tmp_path / "odd.safetensors", tensors), "bf16")
    assert refused.value.hint


def nf4(tensors):
    import torch

    name = "transformer_blocks.0.attn.to_q.weight"
    rows, columns = tensors[name].shape
    tensors[name] = torch.zeros(rows * columns // 2, 1, dtype=torch.uint8)
    tensors[f"{name}.absmax"] = torch.ones(rows * columns // 64)
    tensors[f"{name}.quant_map"] = torch.ones(16)
    tensors[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(80, dtype=torch.uint8)


def test_nf4_in_one_file_is_named(flux2, tmp_path):
    model, folder = flux2
    tensors = dict(model.state_dict())
    nf4(tensors)
    file = written(tmp_path / "nf4.safetensors", tensors)
    with pytest.raises(WeightsInvalidError, match="bitsandbytes' nf4") as refused:
        loaded(folder, file, "bf16")
    assert "a folder" in refused.value.hint


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model.", ""])
def test_norms_and_prefixes_may_have_other_names(flux2, tmp_path, prefix):
    import torch

    model, folder = flux2
    tensors = bfl_names(model.state_dict())
    renamed = {name.replace("_norm.scale", "_norm.weight"): t for name, t in tensors.items()}
    assert renamed.keys() != tensors.keys()
    file = written(tmp_path / "renamed.safetensors", renamed, prefix)
    ours = results(loaded(folder, file, "fp32"), torch.float32)
    assert ours.equal(results(model, torch.float32))


def test_a_tensor_that_the_converter_passes_over_is_not_lost_in_silence(tmp_path):
    """FLUX.1's takes out of a file what it knows, and says nothing of the rest."""
    import torch
    from accelerate import init_empty_weights
    from diffusers import FluxTransformer2DModel

    with init_empty_weights():
        model = FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, guidance_embeds=True
        )
    model.save_config(tmp_path / "transformer")
    state = {n: torch.empty(t.shape, device="meta") for n, t in model.state_dict().items()}
    names = {n: tuple(t.shape) for n, t in bfl_names_of_flux1(state).items()}
    from tests.pipelines.loading.sparse import write_sparse

    odd = {"double_blocks.0.processor.qkv_lora1.down.weight": (16, 3072)}
    part = PartFiles(
        "transformer",
        "diffusers",
        "FluxTransformer2DModel",
        tmp_path / "transformer",
        write_sparse(tmp_path / "odd.safetensors", names | odd),
    )
    with pytest.raises(WeightsInvalidError, match=r"does not know, such as double_blocks\.0\.proc"):
        load_part(part, "bf16")


# --- T5 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t5(settings, registry):
    from safetensors.torch import load_file

    micro = settings.weights_dir / str(registry.find("text2img", "micro").folder)
    folder = micro / "text_encoder_2"
    return folder, {n: t.float() for n, t in load_file(next(folder.glob("*.safetensors"))).items()}


def states(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 20, 3]])).last_hidden_state.float()


def encoder(folder, precision, file=None):
    if file is not None:
        check_stored("text_encoder_2", read_weight_header(file), precision)
    part = PartFiles("text_encoder_2", "transformers", "T5EncoderModel", folder, file)
    return load_part(part, precision)


def in_a_folder(path, source, tensors):
    path.mkdir()
    shutil.copy(source / "config.json", path)
    written(path / "model.safetensors", tensors)
    return path


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.0), ("bf16", 0.01), ("fp8", 0.01)])
def test_scales_are_applied_to_a_text_encoder(t5, tmp_path, names, precision, most):
    source, tensors = t5
    tensors = {n: t * 0.1 if "DenseReluDense" in n else t for n, t in tensors.items()}
    file_tensors, values = stored_in_8_bit(tensors, names, describe=names == "new")
    right = states(encoder(in_a_folder(tmp_path / "right", source, values), "fp32"))
    ours = in_a_folder(tmp_path / "ours", source, file_tensors)
    assert error(states(encoder(ours, precision)), right) <= most
    single = written(tmp_path / "t5xxl.safetensors", file_tensors)
    assert error(states(encoder(source, precision, single)), right) <= most


def test_a_narrow_text_encoder_is_never_wide_as_a_whole(t5, tmp_path, monkeypatch):
    import torch
    from transformers import T5EncoderModel

    source, tensors = t5
    file_tensors, _ = stored_in_8_bit(tensors)
    single = written(tmp_path / "t5xxl.safetensors", file_tensors)
    monkeypatch.setattr(T5EncoderModel, "from_pretrained", None)  # which widens all of it first
    model = encoder(source, "fp8", single)
    matrices = [m.weight for m in model.modules() if type(m).__name__ == "ScaledLinear"]
    assert matrices
    assert {one.dtype for one in matrices} == {torch.int8}
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    lacking = {n: t for n, t in file_tensors.items() if "final_layer_norm" not in n}
    monkeypatch.undo()
    with pytest.raises(WeightsInvalidError, match="lacks 1 tensors"):
        encoder(source, "fp8", written(tmp_path / "lacks.safetensors", lacking))
    wrong = file_tensors | {"encoder.final_layer_norm.weight": torch.ones(3)}
    with pytest.raises(WeightsInvalidError, match=r"is \(3,\), not"):
        encoder(source, "fp8", written(tmp_path / "wrong.safetensors", wrong))


def test_a_text_encoder_with_a_tensor_that_is_not_known_is_refused(t5, tmp_path):
    import torch

    source, tensors = t5
    odd = in_a_folder(tmp_path / "odd", source, tensors | {"encoder.block.0.extra": torch.ones(3)})
    with pytest.raises(WeightsInvalidError, match=r"does not know, such as encoder\.block\.0\.ex"):
        encoder(odd, "bf16")
    # The halves of a whole T5 that only decode are left out.
    both = tensors | {
        "encoder.embed_tokens.weight": tensors["shared.weight"].clone(),
        "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(4, 4),
        "lm_head.weight": torch.ones(4, 4),
    }
    whole = in_a_folder(tmp_path / "whole", source, both)
    plain = in_a_folder(tmp_path / "plain", source, tensors)
    assert states(encoder(whole, "fp32")).equal(states(encoder(plain, "fp32")))


# --- GGUF ----------------------------------------------------------------------------------------


def gguf_file(path, tensors, kind_of, rename=lambda name: name):
    """Write a GGUF file; return its path and what its tensors are, unpacked."""
    import gguf
    import numpy as np
    import torch

    writer = gguf.GGUFWriter(path, "flux")
    values = {}
    for name, tensor in tensors.items():
        given = np.ascontiguousarray(tensor.float().numpy())
        kind = gguf.GGMLQuantizationType[kind_of(name, tensor)]
        packed = gguf.quants.quantize(given, kind)
        writer.add_tensor(rename(name), packed, raw_dtype=kind)
        values[name] = torch.from_numpy(gguf.quants.dequantize(packed, kind).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, values


def packs_matrices(packed, rest):
    return lambda name, t: packed if t.ndim == 2 and "block" in name else rest


@pytest.mark.parametrize("rest", ["F32", "F16", "BF16"])
def test_tensors_beside_the_packed_ones_may_be_any_numbers(flux2, tmp_path, rest):
    import torch

    model, folder = flux2
    file, values = gguf_file(
        tmp_path / "x.gguf", bfl_names(model.state_dict()), packs_matrices("Q8_0", rest)
    )
    right = results(
        loaded(folder, written(tmp_path / "right.safetensors", values), "bf16"), torch.bfloat16
    )
    assert error(results(loaded(folder, file, "q8_0"), torch.bfloat16), right) < 0.02


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8", "int8"])
def test_a_gguf_file_without_any_packed_tensor_is_like_any_file(flux2, tmp_path, kind, precision):
    import torch

    model, folder = flux2
    file, values = gguf_file(
        tmp_path / "x.gguf", bfl_names(model.state_dict()), lambda _name, _tensor: kind
    )
    same = written(tmp_path / "same.safetensors", values)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    ours, right = (results(loaded(folder, one, precision), dtype) for one in (file, same))
    assert error(ours, right) < 0.002
    with pytest.raises(WeightsInvalidError, match=rf"holds {kind}: it is not packed") as refused:
        check_stored("transformer", read_weight_header(file), "q8_0")
    assert "'bf16'" in refused.value.hint


def test_a_packing_that_is_not_supported_is_named_with_those_that_are(flux2, tmp_path):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    kind = gguf.GGMLQuantizationType.IQ4_NL
    size = gguf.GGML_QUANT_SIZES[kind][1]
    writer.add_tensor("a.weight", np.zeros((4, size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsInvalidError, match="IQ4_NL, a packing of GGUF") as refused:
        check_stored("transformer", read_weight_header(tmp_path / "x.gguf"), "q4_0")
    assert "Q4_K" in refused.value.hint


@pytest.mark.parametrize(("kind", "precision"), [("Q8_0", "q8_0"), ("F16", "fp32")])
@pytest.mark.parametrize("names", ["llama.cpp", "transformers"])
def test_a_text_encoder_in_gguf_may_have_either_names(t5, tmp_path, kind, precision, names):
    import gguf

    source, tensors = t5
    layers = json.loads((source / "config.json").read_text())["num_layers"]
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, layers)

    def rename(name):
        return table.get_name(name, try_suffixes=(".weight",)) if names == "llama.cpp" else name

    def kind_of(name, tensor):
        packs = tensor.ndim == 2 and tensor.shape[1] % 32 == 0 and "relative" not in name
        return kind if packs else "F32"

    file, values = gguf_file(tmp_path / "t5.gguf", tensors, kind_of, rename)
    right = states(encoder(in_a_folder(tmp_path / "right", source, values), "fp32"))
    assert error(states(encoder(source, precision, file)), right) < 0.02


# --- parts that their library loads whole --------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "class_name", "library"),
    [("vae", "AutoencoderKL", "diffusers"), ("text_encoder", "CLIPTextModel", "transformers")],
)
def test_a_small_part_with_a_tensor_that_is_not_known_is_refused(
    settings, registry, tmp_path, part, class_name, library
):
    import torch
    from safetensors.torch import load_file

    micro = settings.weights_dir / str(registry.find("text2img", "micro").folder)
    (own,) = (micro / part).glob("*.safetensors")
    folder = shutil.copytree(micro / part, tmp_path / part)
    files = PartFiles(part, library, class_name, folder)
    assert load_part(files, "fp32") is not None
    written(folder / own.name, load_file(own) | {"of.another.model": torch.zeros(2)})
    with pytest.raises(WeightsInvalidError, match=r"does not know, such as of\.another\.model"):
        load_part(files, "fp32")
