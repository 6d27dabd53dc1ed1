"""What a text encoder takes of memory: what its plan says, nothing twice, nothing for nothing."""

import pytest

from flux_mcp.models.descriptions import load_descriptions
from flux_mcp.models.memory import GIB, Pieces, text_gib
from flux_mcp.models.parts import load_parts
from flux_mcp.models.recognition import TOKEN_TABLES
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import PartFiles, loaded_bytes
from flux_mcp.pipelines.loading.slots import nbytes_of
from tests.pipelines.loading.test_encoders import encoder_gguf, states

pytestmark = pytest.mark.usefixtures("torch_here")

TABLES = {
    "t5": ("shared", "encoder.embed_tokens"),
    "qwen3": ("model.embed_tokens",),
    "mistral3": ("model.language_model.embed_tokens",),
}


@pytest.fixture
def encoders(klein_dir, micro_folder):
    folders = {
        "t5": ("T5EncoderModel", micro_folder / "text_encoder_2"),
        "qwen3": ("Qwen3ForCausalLM", klein_dir / "klein" / "text_encoder"),
        "mistral3": ("Mistral3ForConditionalGeneration", klein_dir / "dev" / "text_encoder"),
    }
    return {
        which: PartFiles("text_encoder", "transformers", class_name, folder)
        for which, (class_name, folder) in folders.items()
    }


def in_8_bit(part, path, *, by_row):
    """Write every matrix of an encoder in scaled fp8: its table, T5's twice, and a head."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(next(part.folder.glob("*.safetensors")))
    name = next(name for name in TOKEN_TABLES if name in tensors)
    table = tensors[name]
    # As published, Mistral's names are others than its model's.
    before = "language_model." if name.startswith("language_model.model.") else ""
    tensors[f"{before}lm_head.weight"] = table.flip(0)
    if "shared.weight" in tensors:
        tensors["encoder.embed_tokens.weight"] = table.clone()
    file = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            file[name] = tensor.bfloat16()
            continue
        largest = tensor.float().abs().amax(1) if by_row else tensor.float().abs().max()
        scale = largest.clamp(min=1e-6) / 448
        file[name] = (tensor.float() / (scale[:, None] if by_row else scale)).to(
            torch.float8_e4m3fn
        )
        file[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    save_file(file, path)
    return PartFiles(part.name, part.library, part.class_name, part.folder, path)


def held_bytes(model):
    """What weights take, each once; without scales, and what is computed."""
    by_place = {t.data_ptr(): nbytes_of(t) for t in model.state_dict().values()}
    return sum(by_place.values())


@pytest.mark.parametrize(("which", "by_row"), [("t5", False), ("qwen3", True), ("mistral3", False)])
def test_an_encoder_in_fp8_takes_what_its_header_says_and_its_table_is_exact(
    encoders, tmp_path, which, by_row
):
    import torch

    part = in_8_bit(encoders[which], tmp_path / "x.safetensors", by_row=by_row)
    held, wide = load_part(part, "fp8"), load_part(part, "bf16")
    assert held_bytes(held) == loaded_bytes(part, "fp8")
    assert held_bytes(wide) == loaded_bytes(part, "bf16")
    tokens = torch.tensor([[5, 9, 20], [3, 3, 0]])
    for path in TABLES[which]:
        table = held.get_submodule(path)
        assert table.weight.dtype == torch.int8
        assert table(tokens).equal(wide.get_submodule(path)(tokens))
    ours, right = states(held), states(wide)
    assert (ours - right).norm() < 0.02 * right.norm()


@pytest.mark.parametrize(
    ("which", "precision"), [("qwen3", "fp8"), ("qwen3", "int8"), ("mistral3", "bf16")]
)
def test_no_head_is_held_and_tables_stay_in_16_bit(encoders, which, precision):
    import torch

    model = load_part(encoders[which], precision)
    assert not list(model.lm_head.parameters())
    assert not [name for name in model.state_dict() if "lm_head" in name]
    (path,) = TABLES[which]
    assert model.get_submodule(path).weight.dtype == torch.bfloat16
    assert states(model).isfinite().all()


def test_an_encoder_from_a_gguf_file_takes_what_its_header_says(encoders, tmp_path):
    part = encoders["t5"]
    path = encoder_gguf(tmp_path / "t5.gguf", part.folder, part.class_name, "Q4_0")
    packed = PartFiles(part.name, part.library, part.class_name, part.folder, path)
    assert held_bytes(load_part(packed, "q4_0")) == pytest.approx(
        loaded_bytes(packed, "q4_0"), rel=0.01
    )


def test_a_plan_counts_an_encoders_parameters_without_its_head():
    from accelerate import init_empty_weights
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with init_empty_weights():
        model = Qwen3ForCausalLM(Qwen3Config(**load_descriptions()["config"]["qwen3-8b"]))
    sizes = {name: one.numel() / 1e6 for name, one in model.named_parameters()}
    row = load_parts().text_encoder["qwen3-8b"]
    assert row.table_m == pytest.approx(sizes["model.embed_tokens.weight"], abs=0.1)
    assert row.parameters_m == pytest.approx(sum(sizes.values()) - sizes["lm_head.weight"], abs=0.1)


def test_a_plan_counts_tables_in_16_bit():
    pieces = Pieces("flux2-klein-4b", ("qwen3-4b",), "flux2")
    row = load_parts().text_encoder["qwen3-4b"]
    in_16_bit = 2 * row.table_m * 1e6 / GIB
    assert text_gib(pieces, "nf4") == pytest.approx(
        in_16_bit + 0.5625 * (row.parameters_m - row.table_m) * 1e6 / GIB
    )
    assert text_gib(pieces, "bf16") == pytest.approx(2 * row.parameters_m * 1e6 / GIB)
