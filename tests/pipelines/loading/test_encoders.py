"""Text encoders in every format that a CPU can encode with."""

import json

import gguf
import numpy as np
import pytest

from flux_mcp.errors import JobCancelledError, WeightsInvalidError
from flux_mcp.models.families import PART_CLASSES
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import PartFiles
from tests.pipelines.harness import TINY
from tests.pipelines.loading.conftest import tensors_of
from tests.pipelines.loading.gguf_files import write_gguf
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")


def test_only_large_text_encoders_are_read_from_gguf_files():
    texts = {name for name, part in PART_CLASSES.items() if part.loader == "text"}
    packed = {name for name, part in PART_CLASSES.items() if part.gguf is not None}
    assert packed < texts
    assert all(hasattr(gguf.MODEL_ARCH, PART_CLASSES[name].gguf) for name in packed)


def encoder_gguf(path, folder, class_name, block_type):
    """Write the weights of a folder as llama.cpp's converter names them."""
    layers = json.loads((folder / "config.json").read_text())
    blocks = layers.get("num_hidden_layers") or layers["num_layers"]
    architecture = getattr(gguf.MODEL_ARCH, PART_CLASSES["transformers", class_name].gguf)
    names = gguf.get_tensor_name_map(architecture, blocks)
    tensors = {
        names.get_name(name, try_suffixes=(".weight",)): values
        for name, values in tensors_of(folder).items()
    }
    assert None not in tensors
    write_gguf(path, gguf.MODEL_ARCH_NAMES[architecture], tensors, block_type)
    return path


@pytest.fixture
def t5(micro_folder):
    return PartFiles(
        "text_encoder_2", "transformers", "T5EncoderModel", micro_folder / "text_encoder_2"
    )


@pytest.fixture
def qwen3(klein_dir):
    folder = klein_dir / "klein" / "text_encoder"
    return PartFiles("text_encoder", "transformers", "Qwen3ForCausalLM", folder)


def in_file(part, path):
    return PartFiles(part.name, part.library, part.class_name, part.folder, path)


def states(model):
    """What a model makes of some tokens, (1, tokens, channels)."""
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.tensor([[5, 9, 20, 3]]), output_hidden_states=True)
    return out.hidden_states[-1].float()


@pytest.mark.parametrize("which", ["t5", "qwen3", "mistral3"])
def test_reading_tensor_by_tensor_gives_what_transformers_itself_loads(request, klein_dir, which):
    import torch
    import transformers

    part = (
        PartFiles(
            "text_encoder",
            "transformers",
            "Mistral3ForConditionalGeneration",
            klein_dir / "dev" / "text_encoder",
        )
        if which == "mistral3"
        else request.getfixturevalue(which)
    )
    ours = load_part(part, "bf16").state_dict()
    stock = getattr(transformers, part.class_name).from_pretrained(
        part.folder, dtype=torch.bfloat16, local_files_only=True
    )
    theirs = stock.state_dict()
    assert theirs.keys() - ours.keys() <= {"lm_head.weight"}  # images are made of hidden states
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize("precision", ["fp8", "fp8wo", "int8"])
@pytest.mark.parametrize("which", ["t5", "qwen3"])
def test_a_quantised_encoder_says_nearly_the_same(request, which, precision):
    part = request.getfixturevalue(which)
    exact = states(load_part(part, "bf16"))
    said = []
    near = states(load_part(part, precision, report=said.append))
    assert said[-1].endswith("100 %")
    assert not near.equal(exact)
    assert (near - exact).norm() < 0.1 * exact.norm()


def test_every_matrix_of_t5_is_stored_as_fp8_and_tables_are_not(t5):
    import torch

    model = load_part(t5, "fp8")
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert {m.weight.dtype for m in linear} == {torch.float8_e4m3fn}
    assert model.shared.weight.dtype == torch.bfloat16
    states(model)
    assert {m.weight.dtype for m in linear} == {torch.float8_e4m3fn}  # and so afterwards


@pytest.mark.parametrize(("block_type", "bound"), [("Q8_0", 0.03), ("Q4_0", 0.25)])
def test_t5_from_a_gguf_file_says_nearly_the_same_and_stays_packed(t5, tmp_path, block_type, bound):
    path = encoder_gguf(tmp_path / "t5.gguf", t5.folder, t5.class_name, block_type)
    exact = states(load_part(t5, "bf16"))
    model = load_part(in_file(t5, path), block_type.lower())
    near = states(model)
    assert not near.equal(exact)
    assert (near - exact).norm() < bound * exact.norm()
    linear = model.encoder.block[0].layer[1].DenseReluDense.wo
    assert linear.weight.nbytes < 1.1 * linear.in_features * linear.out_features
    assert model.encoder.embed_tokens.weight is model.shared.weight
    assert not model.training


def test_qwen3_from_a_gguf_file_says_nearly_the_same(qwen3, tmp_path):
    # 16 and 32 channels: only what has 32 can be packed.
    path = encoder_gguf(tmp_path / "qwen3.gguf", qwen3.folder, qwen3.class_name, "Q8_0")
    exact = states(load_part(qwen3, "bf16"))
    near = states(load_part(in_file(qwen3, path), "q8_0"))
    assert not near.equal(exact)
    assert (near - exact).norm() < 0.03 * exact.norm()


def test_mistral_is_not_read_from_gguf(klein_dir, t5, tmp_path):
    path = encoder_gguf(tmp_path / "t5.gguf", t5.folder, t5.class_name, "Q8_0")
    part = PartFiles(
        "text_encoder",
        "transformers",
        "Mistral3ForConditionalGeneration",
        klein_dir / "dev" / "text_encoder",
        path,
    )
    with pytest.raises(WeightsInvalidError, match="Mistral3ForConditionalGeneration is not read"):
        load_part(part, "q8_0")


def test_another_encoders_gguf_file_is_refused(t5, qwen3, tmp_path):
    path = encoder_gguf(tmp_path / "qwen3.gguf", qwen3.folder, qwen3.class_name, "Q8_0")
    with pytest.raises(WeightsInvalidError, match=r"text_encoder_2 lacks \d+ tensors, such as"):
        load_part(in_file(t5, path), "q8_0")


def test_an_image_is_drawn_with_an_encoder_of_another_precision(
    fresh, micro, task_for, t5, tmp_path
):
    def drawn(**changes):
        spec = micro.model_copy(update={"precision": "bf16", **changes})
        return fresh.draw(task_for(spec, **TINY)).images[0].astype(int)

    path = encoder_gguf(tmp_path / "t5.gguf", t5.folder, t5.class_name, "Q8_0")
    exact = drawn()
    for changes in (
        {"text_precision": "int8"},
        {"text_precision": "fp32"},
        {"text_precision": "q8_0", "text_gguf": path},
    ):
        difference = np.abs(drawn(**changes) - exact)
        assert 0 < difference.mean() < 1, changes


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_loading_an_encoder_can_be_stopped(t5, precision):
    def stop(_message):
        raise JobCancelledError("The job was cancelled.")

    with pytest.raises(JobCancelledError):
        load_part(t5, precision, report=stop)


def test_a_text_precision_is_part_of_what_is_loaded(fresh, klein_dir):
    row = klein_row("text2img", klein_dir / "klein", precision="bf16")
    snapshot = Snapshot(klein_dir / "klein", klein_dir / "klein", revision=None)
    assert snapshot.folder.is_dir()
    plain = fresh.load(row)
    small = fresh.load(row.model_copy(update={"id": "small", "text_precision": "int8"}))
    assert fresh.encoder(plain).text_encoder is not fresh.encoder(small).text_encoder
    assert plain.pipe.transformer is small.pipe.transformer
