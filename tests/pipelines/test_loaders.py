"""What may be loaded, and what is refused before anything is imported or drawn."""

import json
import shutil

import pytest

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.hub.cache import Snapshot, require_snapshot
from flux_mcp.models.registry import load_registry
from flux_mcp.pipelines.loading.loaders import load_part
from flux_mcp.pipelines.loading.part_files import list_parts

pytestmark = pytest.mark.usefixtures("torch_here")


@pytest.fixture
def spec(registry):
    return registry.find("text2img", "micro")


@pytest.fixture
def folder(spec, settings, tmp_path):
    """A copy of micro's text2img folder, to be damaged."""
    source = require_snapshot(spec, load_registry(), settings).folder
    return shutil.copytree(source, tmp_path / "text2img")


@pytest.fixture
def snapshot(folder):
    return Snapshot(folder, folder, revision=None)


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def part_named(name, spec, snapshot):
    return next(part for part in list_parts(spec, snapshot) if part.name == name)


def test_every_part_of_an_intact_folder_is_found(spec, snapshot):
    assert {part.name for part in list_parts(spec, snapshot)} == {
        *("vae", "transformer", "scheduler"),
        *("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def test_parts_a_folder_leaves_out_come_from_the_parts_folder(registry, settings):
    spec = registry.find("fill", "micro")
    snapshot = require_snapshot(spec, registry, settings)
    folders = {part.name: part.folder.parent.name for part in list_parts(spec, snapshot)}
    assert folders["transformer"] == folders["scheduler"] == "fill"
    assert folders["vae"] == folders["text_encoder_2"] == folders["tokenizer"] == "text2img"


def test_a_transformer_with_other_channels_is_refused(spec, snapshot):
    for_fill = spec.model_copy(update={"in_channels": 320})
    with pytest.raises(WeightsInvalidError, match="takes 32 channels, not 320"):
        list_parts(for_fill, snapshot)


def test_another_kinds_pipeline_is_refused(spec, snapshot):
    change_json(snapshot.folder / "model_index.json", _class_name="FluxKontextPipeline")
    with pytest.raises(WeightsInvalidError, match="FluxKontextPipeline, not FluxPipeline"):
        list_parts(spec, snapshot)


@pytest.mark.parametrize(
    "entry",
    [
        ["os", "system"],
        ["diffusers", "UNet2DModel"],
        ["my_module", "AutoencoderKL"],
        ["os"],
        [1, 2],
    ],
)
def test_a_class_that_is_not_on_the_list_is_refused(spec, snapshot, entry):
    change_json(snapshot.folder / "model_index.json", vae=entry)
    with pytest.raises(WeightsInvalidError, match="for vae, which is never loaded"):
        list_parts(spec, snapshot)


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
def test_weights_that_are_only_pickled_are_refused(spec, snapshot, name):
    for path in (snapshot.folder / name).glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(WeightsInvalidError, match=f"{name} has no safetensors file"):
        list_parts(spec, snapshot)


def test_a_part_whose_folder_is_missing_is_refused(spec, snapshot):
    shutil.rmtree(snapshot.folder / "vae")
    with pytest.raises(WeightsInvalidError, match="folder of vae is missing"):
        list_parts(spec, snapshot)


@pytest.mark.parametrize("text", ["{", "[]", '"a"'])
def test_an_index_that_is_not_a_json_object_is_refused(spec, snapshot, text):
    (snapshot.folder / "model_index.json").write_text(text)
    with pytest.raises(WeightsInvalidError, match=r"model_index\.json"):
        list_parts(spec, snapshot)


@pytest.mark.parametrize("name", ["transformer", "text_encoder_2"])
def test_a_truncated_file_is_refused(spec, snapshot, name):
    path = next((snapshot.folder / name).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsInvalidError, match=rf"{name}/\w+\.safetensors is cut short"):
        load_part(part_named(name, spec, snapshot), "fp32")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("transformer", "proj_out.weight"),
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder_2", "encoder.final_layer_norm.weight"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused(spec, snapshot, name, tensor):
    from safetensors.torch import load_file, save_file

    path = next((snapshot.folder / name).glob("*.safetensors"))
    tensors = load_file(path)
    lacking = next(key for key in tensors if key.endswith(tensor))
    del tensors[lacking]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsInvalidError, match=name):
        load_part(part_named(name, spec, snapshot), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_part_gets_the_precision_that_is_named(spec, snapshot, precision):
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for name in ("vae", "transformer", "text_encoder", "text_encoder_2"):
        loaded = load_part(part_named(name, spec, snapshot), precision)
        assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}, name
        assert not loaded.training
