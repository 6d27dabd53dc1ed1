"""What a weight file is and whether it fits its row, by its header alone."""

import os
from pathlib import Path

import pytest

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.hub.cache import find_snapshot, require_snapshot, state_of
from flux_mcp.models.recognition import recognise
from flux_mcp.models.registry import load_registry
from flux_mcp.models.row_files import check_quantised, problem_of_row
from flux_mcp.models.weight_headers import GGUF_TYPES, read_weight_header
from tests.models.hub import put_in_hub_cache
from tests.models.weight_files import (
    CLIP_SHAPES,
    KLEIN_4B,
    QWEN_SHAPES,
    T5_SHAPES,
    VAE2_SHAPES,
    VAE_SHAPES,
    empty_file,
    flux1_shapes,
    flux2_shapes,
    sparse_file,
    sparse_gguf,
)

REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev")
KLEIN = REGISTRY.find("text2img", "flux2-klein-4b")


# --- no weight file ------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    sparse_file(path, {"a.weight": (64, 64)})
    os.truncate(path, path.stat().st_size - 10)


def _holed(path: Path) -> None:
    sparse_file(path, {"a.weight": (64, 64)})
    path.write_bytes(path.read_bytes().replace(b"[0, 8192]", b"[8, 8200]"))


WRONG = {
    "is empty": lambda path: path.touch(),
    "is a web page": lambda path: path.write_text("\n<!DOCTYPE html><html>401</html>"),
    "is a pointer of Git LFS": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "is a pickle or an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(64)),
    "is a GGUF file, against its name": lambda path: path.write_bytes(b"GGUF" + bytes(64)),
    "has no safetensors header": lambda path: path.write_bytes(bytes(64)),
    "has no safetensors header that can be read": _holed,
    "is cut short": _cut,
    "is a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_file_that_is_no_weight_file_is_said_for_what_it_is(settings, tmp_path, says):
    file = tmp_path / "flux1-dev.safetensors"
    WRONG[says](file)
    with pytest.raises(WeightsInvalidError, match=says):
        read_weight_header(file)
    put_in_hub_cache(settings, DEV.repository)
    row = DEV.model_copy(update={"file": file})
    assert state_of(row, settings) == "invalid"
    assert find_snapshot(row, settings) is None
    with pytest.raises(WeightsInvalidError, match=says):
        require_snapshot(row, REGISTRY, settings)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path):
    file = empty_file(tmp_path / "flux1-dev.safetensors")
    file.chmod(0)
    with pytest.raises(WeightsInvalidError, match="may not be read by the user"):
        read_weight_header(file)


def test_it_is_read_again_only_when_it_was_replaced(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_text("<html>")
    with pytest.raises(WeightsInvalidError):
        read_weight_header(file)
    sparse_file(file, VAE_SHAPES)
    assert read_weight_header(file) is read_weight_header(file)


def test_a_pointer_of_git_lfs_in_a_folder_of_ones_own_is_no_installed_model(settings, tmp_path):
    snapshot = put_in_hub_cache(settings, DEV.repository)
    row = DEV.model_copy(update={"repository": None, "folder": str(snapshot), "origin": tmp_path})
    for path in snapshot.glob("*/*.safetensors"):
        path.unlink()
        empty_file(path)
    assert state_of(row, settings) == "installed"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert state_of(row, settings) == "invalid"


def test_block_types_of_gguf_are_those_of_the_gguf_package(tmp_path):
    import gguf

    ours = {name: (values, size) for name, values, size in GGUF_TYPES.values()}
    theirs = {kind.name: gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGML_QUANT_SIZES}
    assert ours == {name: theirs[name] for name in ours}
    header = read_weight_header(sparse_gguf(tmp_path / "x.gguf", flux1_shapes(), "Q4_K"))
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert header.tensors.keys() == {one.name for one in reader.tensors}
    for one in reader.tensors:
        found = header.tensors[one.name]
        assert (found.offset, found.size_bytes) == (one.data_offset, one.n_bytes)
        assert found.shape == tuple(reversed([int(side) for side in one.shape]))
    assert header.main_number_type() == "Q4_K"


# --- another model's file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (flux1_shapes(), [("transformer", "flux1-12b")]),
        (flux2_shapes(*KLEIN_4B), [("transformer", "flux2-klein-4b")]),
        (flux2_shapes(4096, 8, 24), [("transformer", "flux2-klein-9b")]),
        (flux2_shapes(6144, 8, 48), [("transformer", "flux2-32b")]),
        (flux2_shapes(1024, 2, 2), [("transformer", "")]),
        (T5_SHAPES, [("text", "t5-xxl")]),
        (QWEN_SHAPES, [("text", "qwen3-4b")]),
        ({"model.embed_tokens.weight": (131072, 5120)}, [("text", "")]),
        (CLIP_SHAPES, [("clip", "clip-l")]),
        (VAE_SHAPES, [("vae", "flux1")]),
        (VAE2_SHAPES, [("vae", "flux2")]),
        ({**VAE_SHAPES, "decoder.conv_in.weight": (512, 4, 3, 3)}, [("vae", "")]),
        ({"transformer.x.lora_A.weight": (4, 4)}, [("lora", "")]),
        ({"a": (1,)}, [("other", "")]),
        (
            {f"model.diffusion_model.{name}": shape for name, shape in flux1_shapes().items()}
            | {f"text_encoders.t5xxl.transformer.{n}": shape for n, shape in T5_SHAPES.items()}
            | {f"text_encoders.clip_l.transformer.{n}": shape for n, shape in CLIP_SHAPES.items()}
            | {f"vae.{name}": shape for name, shape in VAE_SHAPES.items()},
            [("transformer", "flux1-12b"), ("text", "t5-xxl"), ("clip", "clip-l"),
             ("vae", "flux1")],
        ),
    ],
)  # fmt: skip
def test_a_file_is_recognised_by_its_names_and_shapes(tmp_path, shapes, expected):
    found = recognise(read_weight_header(sparse_file(tmp_path / "x.safetensors", shapes)))
    assert [(one.role, one.part) for one in found] == expected


@pytest.mark.parametrize(
    ("column", "shapes", "says"),
    [
        ("file", flux1_shapes(), None),
        ("file", flux1_shapes(guidance=False), "has no guidance embedding, against flux1-dev"),
        ("file", flux1_shapes(in_channels=384), "takes 384 channels, but flux1-dev"),
        ("file", flux2_shapes(*KLEIN_4B), "holds FLUX.2 klein 4B, but flux1-dev needs flux1-12b"),
        ("file", {"x.lora_A.weight": (4, 4)}, "holds a LoRA, not a transformer"),
        ("file", VAE_SHAPES, "holds VAE of FLUX.1, not a transformer"),
        ("file", {"a.quant_state.bitsandbytes__nf4": ("U8", (9,))}, "bitsandbytes' nf4"),
        ("text_file", T5_SHAPES, None),
        ("text_file", QWEN_SHAPES, "holds Qwen3 4B, but flux1-dev needs"),
        ("clip_file", CLIP_SHAPES, None),
        ("clip_file", T5_SHAPES, "holds T5 XXL, not a CLIP"),
        ("vae_file", VAE_SHAPES, None),
        ("vae_file", VAE2_SHAPES, "holds VAE of FLUX.2, but flux1-dev needs flux1"),
    ],
)
def test_a_file_of_another_model_is_no_installed_one(tmp_path, column, shapes, says):
    file = sparse_file(tmp_path / "x.safetensors", shapes)
    problem = problem_of_row(DEV.model_copy(update={column: file}))
    assert (problem is None) if says is None else (says in problem.message)


def test_a_gguf_file_in_another_packing_than_its_row_says_is_no_installed_one(tmp_path):
    file = sparse_gguf(tmp_path / "x.gguf", flux2_shapes(*KLEIN_4B), "Q4_K")
    row = KLEIN.model_copy(update={"gguf": file, "precision": "q4_k"})
    assert problem_of_row(row) is None
    problem = problem_of_row(row.model_copy(update={"precision": "q8_0"}))
    assert "holds Q4_K" in problem.message
    assert problem.hint == "Give the row the precision 'q4_k'."


# --- quantised before it was stored ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "precision", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
         "nf4", None),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_quant_type": "nf4"},
         "nf4", "by bitsandbytes as int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
         "nf4", "by bitsandbytes as fp4"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
         "int8", None),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
         "int4", "by torchao as Int8WeightOnlyConfig"),
        ({"quant_method": "gptq"}, "bf16", "by gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bf16", "by bitsandbytes as int8"),
    ],
)  # fmt: skip
def test_weights_stored_quantised_are_loaded_as_what_they_are_or_not(stored, precision, says):
    if says is None:
        check_quantised("transformer", stored, precision)
        return
    with pytest.raises(WeightsInvalidError, match=says):
        check_quantised("transformer", stored, precision)
