"""Text encoders and VAEs in files of their own, as ComfyUI and Black Forest Labs split them.

The right image is that of the folder from which the files were made.
"""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from flux_mcp.errors import TooLittleMemoryError, WeightsInvalidError
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.device import GIB, is_out_of_memory
from flux_mcp.pipelines.loading.checkpoints import TensorReading, open_checkpoint
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import (
    PartFiles,
    list_parts,
    loaded_bytes,
    part_precision,
)
from flux_mcp.pipelines.loading.progress import ReadProgress
from flux_mcp.pipelines.memory.residency import require_host_room
from tests.models.weight_files import sparse_file
from tests.pipelines.harness import TINY, make_task
from tests.pipelines.loading.gguf_files import write_gguf

pytestmark = pytest.mark.usefixtures("torch_here")

WEIGHTS = ("*.safetensors", "*.bin")
VAE_NAMES = (
    (r"encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"\.resnets\.(\d+)\.", r".block.\1."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.block\.0\.", ".mid.block_1."),
    (r"\.mid_block\.block\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"^quant_conv\.", "encoder.quant_conv."),
    (r"^post_quant_conv\.", "decoder.post_quant_conv."),
)


def in_ldm_names(tensors):
    """Return a VAE's tensors as Black Forest Labs' files name and shape them."""
    blocks = 1 + max(int(found) for n in tensors for found in re.findall(r"up_blocks\.(\d+)", n))
    renamed = {}
    for name, tensor in tensors.items():
        theirs = name
        for old, new in VAE_NAMES:
            theirs = re.sub(old, new, theirs)
        theirs = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", theirs)
        is_projection = "attn_1" in theirs and tensor.ndim == 2
        renamed[theirs] = tensor[:, :, None, None].clone() if is_projection else tensor
    return renamed


def read(folder):
    from safetensors.torch import load_file

    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


def save(path, tensors):
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def described(micro_folder, tmp_path):
    """Micro's folder with everything but weights."""
    return shutil.copytree(
        micro_folder, tmp_path / "described", ignore=shutil.ignore_patterns(*WEIGHTS)
    )


@pytest.fixture
def split(micro_folder, tmp_path):
    """Micro as ComfyUI would split it: a file for each part, in its names."""
    import torch

    t5 = read(micro_folder / "text_encoder_2")
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
    t5["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    clip = {f"text_model.{n}": t for n, t in read(micro_folder / "text_encoder").items()}
    clip |= {"text_projection.weight": torch.zeros(4, 4), "logit_scale": torch.tensor(4.6)}
    return {
        "file": save(tmp_path / "flux.sft", read(micro_folder / "transformer")),
        "text_file": save(tmp_path / "t5xxl.safetensors", t5),
        "clip_file": save(tmp_path / "clip_l.safetensors", clip),
        "vae_file": save(tmp_path / "ae.sft", in_ldm_names(read(micro_folder / "vae"))),
    }


def row_of(micro, folder, files):
    columns = micro.model_dump(exclude_none=True) | {"id": "own", "folder": str(folder)} | files
    return ModelSpec.model_validate(columns)


def drawn(fresh, micro, folder, files):
    task = make_task(row_of(micro, folder, files), **TINY)
    return fresh.draw(task).images[0]


def test_a_model_of_four_files_draws_as_its_folder_does(
    fresh, micro, micro_folder, described, split
):
    right = drawn(fresh, micro, micro_folder, {})
    assert np.array_equal(drawn(fresh, micro, described, split), right)


def test_one_file_may_hold_all_parts(fresh, micro, micro_folder, described, split, tmp_path):
    from safetensors.torch import load_file

    before = {
        "file": "model.diffusion_model.",
        "text_file": "text_encoders.t5xxl.transformer.",
        "clip_file": "text_encoders.clip_l.transformer.",
        "vae_file": "vae.",
    }
    whole = {
        f"{before[column]}{name}": tensor
        for column, path in split.items()
        for name, tensor in load_file(path).items()
    }
    one = save(tmp_path / "checkpoint.safetensors", whole)
    right = drawn(fresh, micro, micro_folder, {})
    assert np.array_equal(drawn(fresh, micro, described, dict.fromkeys(before, one)), right)


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("vae_file", {"decoder.up.9.block.0.conv1.weight": 1}, "does not know"),
        ("vae_file", {"decoder.conv_in.weight": None}, "lacks 1 tensors"),
        ("vae_file", {"decoder.conv_in.weight": 3}, "another shape"),
        ("clip_file", {"text_model.more.weight": 1}, "does not know"),
        ("clip_file", {"text_model.final_layer_norm.weight": None}, "lacks 1 tensors"),
        ("text_file", {"encoder.block.7.x.weight": 1}, "does not know"),
        ("text_file", {"encoder.final_layer_norm.weight": None}, "lacks 1 tensors"),
    ],
)
def test_a_tensor_that_does_not_fit_is_an_error(
    micro, micro_folder, split, tmp_path, column, change, says
):
    import torch
    from safetensors.torch import load_file

    tensors = load_file(split[column])
    for name, size in change.items():
        tensors.pop(name, None)
        if size is not None:
            tensors[name] = torch.zeros(size)
    path = save(tmp_path / "wrong.safetensors", tensors)
    spec = row_of(micro, micro_folder, {column: path})
    parts = list_parts(spec, Snapshot(micro_folder, micro_folder, None))
    with pytest.raises(WeightsInvalidError, match=says):
        load_part(next(part for part in parts if part.file == path), "fp32")


def test_a_file_larger_than_memory_is_read_tensor_by_tensor(tmp_path):
    import torch
    from safetensors import safe_open

    shapes = {"small.weight": (4, 4), "big.weight": (2**20, 2**19)}
    file = sparse_file(tmp_path / "one_terabyte.safetensors", shapes)
    with pytest.raises(RuntimeError, match="Cannot allocate memory") as refused:
        safe_open(file, framework="pt").get_tensor("small.weight")
    assert is_out_of_memory(refused.value)
    with open_checkpoint([file]) as checkpoint:
        assert torch.equal(checkpoint.entries["small.weight"].read(), torch.zeros(4, 4).bfloat16())


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_tensor_that_was_read_is_not_copied_again(split, tmp_path, kind):
    import torch

    path = split["file"]
    if kind == "gguf":
        tensors = {"a.weight": np.ones((4, 32), np.float32), "b.weight": np.ones(3, np.float32)}
        path = tmp_path / "x.gguf"
        write_gguf(path, "flux", tensors, "Q8_0")
    read = []

    def remembering(entry):
        def once():
            read.append(entry.read())
            return read[-1]

        return replace(entry, read=once)

    with open_checkpoint([path]) as checkpoint:
        entries = checkpoint.entries
        progress = ReadProgress("", lambda _message: None)
        reading = TensorReading("transformer", tmp_path, checkpoint, "cpu", progress)
        handles = reading.handles({name: remembering(one) for name, one in entries.items()})
        found = {name: handle[...] for name, handle in handles.items()}
        # A copy for a moment leaves holes in memory: 1.6 GiB of them beside Qwen3 4B in fp8.
        assert [one.data_ptr() for one in found.values()] == [one.data_ptr() for one in read]
        # And what was read is no view of the file, else it were the same memory again.
        again = {name: entry.read() for name, entry in entries.items()}
        assert all(again[name].data_ptr() != one.data_ptr() for name, one in found.items())
        assert all(torch.equal(again[name], one) for name, one in found.items())


def test_a_file_that_is_replaced_or_gone_while_it_is_loaded_is_not_damaged(
    micro, micro_folder, split
):
    spec = row_of(micro, micro_folder, {"vae_file": split["vae_file"]})
    parts = list_parts(spec, Snapshot(micro_folder, micro_folder, None))
    part = next(part for part in parts if part.file)
    with open_checkpoint(part.files) as checkpoint:
        entry = next(iter(checkpoint.entries.values()))
        split["vae_file"].write_bytes(b"other")
        with pytest.raises(OSError, match="replaced while it was loaded"):
            entry.read()
    split["vae_file"].unlink()
    with pytest.raises(WeightsInvalidError, match=r"ae\.sft is not there"):
        load_part(part, "fp32")


def test_t5_with_only_its_other_name_for_the_table_is_read(micro, micro_folder, split, tmp_path):
    import torch
    from safetensors.torch import load_file

    tensors = load_file(split["text_file"])
    table = tensors.pop("shared.weight")
    path = save(tmp_path / "t5.safetensors", tensors)
    spec = row_of(micro, micro_folder, {"text_file": path})
    parts = list_parts(spec, Snapshot(micro_folder, micro_folder, None))
    model = load_part(next(part for part in parts if part.file == path), "fp32")
    assert torch.equal(model.shared.weight, table)
    assert torch.equal(model.encoder.embed_tokens.weight, table)


def test_a_vae_of_flux2_and_an_encoder_without_its_head_are_read(klein_dir, tmp_path):
    import torch

    folder = klein_dir / "klein"
    text = read(folder / "text_encoder")
    text.pop("lm_head.weight", None)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    for name in ("vae", "text_encoder"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / name / "config.json", tmp_path / name)
    untied = json.dumps(config | {"tie_word_embeddings": False})
    (tmp_path / "text_encoder" / "config.json").write_text(untied)
    vae = in_ldm_names(read(folder / "vae"))
    vae.pop("bn.num_batches_tracked")
    files = {
        "vae": save(tmp_path / "flux2-vae.safetensors", vae),
        "text_encoder": save(tmp_path / "qwen_3_4b.safetensors", text),
    }
    classes = {"vae": ("diffusers", "AutoencoderKLFlux2"),
               "text_encoder": ("transformers", "Qwen3ForCausalLM")}  # fmt: skip
    for name, file in files.items():
        right = load_part(PartFiles(name, *classes[name], folder / name), "fp32")
        ours = load_part(PartFiles(name, *classes[name], tmp_path / name, file), "fp32")
        expected, found = right.state_dict(), ours.state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), key
            assert found[key].dtype == tensor.dtype


def test_what_weights_will_take_is_known_from_headers(
    micro, micro_folder, described, split, tmp_path
):
    from safetensors.torch import load_file

    def needed(spec, folder):
        parts = list_parts(spec, Snapshot(folder, folder, None))
        return {part.name: loaded_bytes(part, part_precision(part, spec)) for part in parts}

    whole = needed(micro, micro_folder)
    transformer = read(micro_folder / "transformer").values()
    assert whole["transformer"] == sum(4 * tensor.numel() for tensor in transformer)
    assert whole["tokenizer"] == whole["scheduler"] == 0
    changes = {"precision": "bf16", "text_precision": "bf16"}
    half = needed(micro.model_copy(update=changes), micro_folder)
    assert half["transformer"] * 2 == whole["transformer"]
    one = {
        f"{prefix}{name}": tensor
        for prefix, column in (("model.diffusion_model.", "file"), ("vae.", "vae_file"))
        for name, tensor in load_file(split[column]).items()
    }
    path = save(tmp_path / "checkpoint.safetensors", one)
    both = needed(row_of(micro, micro_folder, {"file": path, "vae_file": path}), micro_folder)
    assert (both["transformer"], both["vae"]) == (whole["transformer"], whole["vae"])


def test_what_does_not_fit_into_host_memory_is_refused_before_it_is_loaded():
    require_host_room("big", 8 * GIB, 8 * GIB)
    with pytest.raises(TooLittleMemoryError, match=r"big needs 33.1 GiB of host memory, and 23.5"):
        require_host_room("big", int(33.1 * GIB), int(23.5 * GIB))
