"""The weights inside the package: small, safe to read, and plain diffusers folders."""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from flux_mcp.models.families import MICRO as MICRO_FAMILY
from flux_mcp.models.registry import ROW_KINDS, load_registry
from flux_mcp.settings.installation import PACKAGE_DIR

pytestmark = pytest.mark.usefixtures("torch_here")

MICRO = PACKAGE_DIR / "weights" / "micro"
MAX_BYTES = 25_000_000
"""Of what draws. It is cloned with the repository and downloaded with the package."""
MAX_BYTES_OF_HELPERS = {"segmentation": 3_000_000, "depth": 1_000_000, "upscaling": 1_000_000}
"""Of each that looks at images or makes them larger."""
SHARED = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
OWN = ("transformer", "scheduler")
MACHINE_PATH = re.compile(r"(?:^|[\s\"'=:])(?:/|~/|[A-Za-z]:[\\/])\w")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def strings_in(value):
    """Every string of a JSON document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)


def test_there_is_a_folder_for_each_kind_and_those_of_helpers_and_nothing_else():
    helpers = (row.folder for row in load_registry().helpers.values() if row.folder)
    wanted = {*ROW_KINDS, *(folder.removeprefix("micro/") for folder in helpers)}
    assert set(ROW_KINDS) <= {path.name for path in MICRO.iterdir()} <= wanted


def test_it_holds_weights_that_cannot_run_code_and_text_and_is_small():
    files = files_of(MICRO)
    # JSON is what configurations and the tokenizers are; anything else would be a surprise.
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    sizes = {
        folder.name: sum(one.stat().st_size for one in files_of(folder))
        for folder in MICRO.iterdir()
    }
    assert sum(sizes[kind] for kind in ROW_KINDS) <= MAX_BYTES
    for helper in sizes.keys() - set(ROW_KINDS):
        assert sizes[helper] <= MAX_BYTES_OF_HELPERS[helper], helper


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_tensor_is_in_half_precision_and_a_finite_number(kind):
    import torch

    for path in files_of(MICRO / kind):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                tensor = tensors.get_tensor(name)
                assert tensor.dtype == torch.float16, (path, name)
                assert tensor.isfinite().all(), (path, name)


def test_parts_that_kinds_share_are_stored_once():
    parts = {
        kind: {path.name for path in (MICRO / kind).iterdir() if path.is_dir()}
        for kind in ROW_KINDS
    }
    assert parts["text2img"] == {*SHARED, *OWN}
    assert parts["kontext"] == parts["fill"] == parts["control"] == set(OWN)
    assert parts["redux"] == {"image_encoder", "image_embedder", "feature_extractor"}


@pytest.mark.parametrize("path", files_of(MICRO), ids=lambda path: str(path.relative_to(MICRO)))
def test_no_text_names_a_place_on_the_machine_that_made_it(path):
    if path.suffix == ".json":
        document = json.loads(path.read_text(encoding="utf-8"))
        assert not [text for text in strings_in(document) if MACHINE_PATH.search(text)]
    else:
        with safe_open(path, framework="pt") as tensors:
            assert set(tensors.metadata() or {}) <= {"format"}


@pytest.mark.parametrize("spec", [row for row in load_registry() if row.is_demonstration])
def test_every_index_names_stock_classes_only(spec):
    index = json.loads((MICRO / spec.kind / "model_index.json").read_text(encoding="utf-8"))
    assert index.pop("_class_name") == spec.pipeline
    del index["_diffusers_version"]
    named = {tuple(entry) for entry in index.values()} - {(None, None)}
    assert named <= set(MICRO_FAMILY.part_classes)


def test_the_text2img_folder_is_a_pipeline_as_it_is():
    import torch
    from diffusers import FluxPipeline

    folder = MICRO / "text2img"
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red circle", width=64, height=64, num_inference_steps=1).images
    assert image.size == (64, 64)


@pytest.mark.parametrize("kind", ["kontext", "fill", "control"])
def test_the_folder_of_a_kind_is_a_pipeline_with_the_shared_parts(kind):
    import diffusers

    shared = diffusers.FluxPipeline.from_pretrained(MICRO / "text2img", local_files_only=True)
    stock = getattr(diffusers, load_registry().find(kind, "micro").pipeline)
    pipe = stock.from_pretrained(
        MICRO / kind, local_files_only=True, **{name: getattr(shared, name) for name in SHARED}
    )
    assert type(pipe) is stock
    assert pipe.transformer is not shared.transformer
    assert pipe.vae is shared.vae


def test_the_redux_folder_is_the_prior_of_the_others():
    import diffusers

    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(MICRO / "redux", local_files_only=True)
    base = diffusers.FluxPipeline.from_pretrained(MICRO / "text2img", local_files_only=True)
    embedded = prior.image_embedder.config
    assert embedded.redux_dim == prior.image_encoder.config.hidden_size
    assert embedded.txt_in_features == base.transformer.config.joint_attention_dim
