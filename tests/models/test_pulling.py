"""The decisions of a pull, without a hub: which files, which models, whether they fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.errors import (
    InvalidRequestError,
    StorageError,
    UnknownModelError,
    WeightsInvalidError,
)
from flux_mcp.models.hub.process import SPEED_WINDOW_S, DownloadSpeed
from flux_mcp.models.hub.selection import (
    GIB,
    HubFile,
    check_disk,
    needed_files,
    rows_to_pull,
    users_of,
)
from flux_mcp.models.registry import load_registry

REGISTRY = load_registry()
INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "image_encoder": [None, None],
}
SCHNELL = (
    # black-forest-labs/FLUX.1-schnell, its listing shortened to four parts.
    ".gitattributes",
    "LICENSE.md",
    "README.md",
    "ae.safetensors",
    "flux1-schnell.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "schnell_grid.jpeg",
    "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/spiece.model",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00003.safetensors",
    "transformer/diffusion_pytorch_model-00003-of-00003.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
NEEDED = tuple(p for p in SCHNELL if p == "model_index.json" or p.split("/")[0] in INDEX)


def listed(*paths: str) -> list[HubFile]:
    return [HubFile(path, 1, "0" * 40) for path in paths]


def paths_of(*paths: str, index: dict[str, object] | None = INDEX) -> list[str]:
    return [file.path for file in needed_files("a/b", index, listed(*paths))]


def test_what_the_named_parts_need_is_taken():
    assert paths_of(*SCHNELL) == sorted(NEEDED)


@pytest.mark.parametrize(
    "path",
    [
        "transformer/diffusion_pytorch_model.bin",
        "transformer/pytorch_model.pt",
        "transformer/model.ckpt",
        "transformer/weights.pkl",
        "transformer/model.onnx",
        "transformer/flax_model.msgpack",
        "transformer/modeling.py",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/openvino/model.safetensors",
        "transformer/adapter.safetensors",
        "../transformer/config.json",
        "transformer/../../outside.json",
        "/etc/passwd.json",
        "transformer/.hidden.json",
        "transformer\\config.json",
        "transformer/a\nb.json",
        "safety_checker/model.safetensors",
    ],
)
def test_nothing_else_ever_is(path: str):
    assert paths_of(*SCHNELL, path) == sorted(NEEDED)


@given(st.lists(st.text(max_size=30), max_size=5))
def test_whatever_a_hub_lists_stays_below_the_snapshot(paths: list[str]):
    for path in paths_of(*SCHNELL, *paths, *(f"transformer/{path}" for path in paths)):
        assert ".." not in path.split("/")
        assert path == path.strip("/")
        assert path.endswith((".json", ".txt", ".model", ".jinja", ".safetensors"))


@pytest.mark.parametrize(
    ("index", "without", "says"),
    [
        ({}, (), "any part"),
        ({"_class_name": "FluxPipeline"}, (), "any part"),
        (INDEX, ("tokenizer_2/",), "tokenizer_2"),
        (INDEX, ("transformer/diffusion_pytorch_model-",), "transformer"),
        (None, ("ae.", "flux1-schnell."), "neither"),
    ],
)
def test_a_part_without_anything_to_open_is_refused(
    index: dict[str, object] | None, without: tuple[str, ...], says: str
):
    kept = [path for path in SCHNELL if not path.startswith(without or ("-",))]
    with pytest.raises(WeightsInvalidError, match=says):
        paths_of(*kept, index=index)


def test_a_repository_without_parts_gives_the_files_at_its_top():
    assert paths_of("README.md", "lora.safetensors", "old.bin", "a/b.json", index=None) == [
        "lora.safetensors"
    ]


@pytest.mark.parametrize(
    ("missing", "free", "reserve", "fits"),
    [
        (10, 12, 2, True),
        (10, 12, 3, False),
        (10, 5, 0, False),
        (0, 1, 99, True),  # nothing is to come: a full disk is no reason to refuse
    ],
)
def test_a_download_leaves_the_reserve_free(missing: int, free: int, reserve: int, *, fits: bool):
    sizes = (missing * GIB, free * GIB, reserve * GIB)
    if fits:
        check_disk(*sizes, "the disk")
        return
    with pytest.raises(StorageError) as refused:
        check_disk(*sizes, "the disk")
    assert f"Free {missing + reserve - free}.0 GiB" in refused.value.hint


# --- which models ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "here", "pulled"),
    [
        (("flux1-schnell",), (), ["flux1-schnell"]),
        (("flux1-schnell", "flux1-schnell"), (), ["flux1-schnell"]),
        (("flux1-redux-dev",), (), ["flux1-dev", "flux1-redux-dev"]),
        (("flux1-redux-dev",), ("flux1-dev",), ["flux1-redux-dev"]),
        (("flux1-redux-dev", "flux1-dev"), ("flux1-dev",), ["flux1-redux-dev", "flux1-dev"]),
        # What was named is looked at again, also if it is here: it may be damaged or old.
        (("flux1-dev",), ("flux1-dev",), ["flux1-dev"]),
    ],
)
def test_each_repository_is_pulled_once_and_bases_where_they_are_missing(
    models: tuple[str, ...], here: tuple[str, ...], pulled: list[str]
):
    rows = rows_to_pull(REGISTRY, models, lambda row: row.id in here)
    assert [row.id for row in rows] == pulled


@pytest.mark.parametrize(
    ("model", "error"), [("micro", InvalidRequestError), ("flux9", UnknownModelError)]
)
def test_what_cannot_be_pulled_is_refused(model: str, error: type[Exception]):
    with pytest.raises(error):
        rows_to_pull(REGISTRY, (model,), lambda _: False)


def test_users_of_a_repository_are_its_models_and_those_that_stand_on_it():
    dev = REGISTRY.find("text2img", "flux1-dev").repository
    assert set(users_of(REGISTRY, dev)) == {
        "flux1-dev",
        "flux1-canny-dev-lora",
        "flux1-depth-dev-lora",
        "flux1-redux-dev",
    }


# --- speed -------------------------------------------------------------------------------------


def after(*moments: tuple[float, int]) -> DownloadSpeed:
    measured = DownloadSpeed()
    for moment in moments:
        measured.see(*moment)
    return measured


@pytest.mark.parametrize(
    ("moments", "speed", "left"),
    [
        ((), None, None),
        (((0, 0),), None, None),
        (((0, 0), (0.5, 100)), None, None),
        (((0, 0), (2, 100)), 50, 2),
        (((0, 100), (10, 100)), 0, None),
        # The first minute was slow, the last seconds were not.
        (((0, 0), (60, 10), (60 + SPEED_WINDOW_S, 10 + 50 * int(SPEED_WINDOW_S))), 50, 2),
        # A wrong file was deleted: what came before says nothing.
        (((0, 0), (5, 500), (6, 0), (8, 100)), 50, 2),
    ],
)
def test_the_speed_is_that_of_the_last_seconds(
    moments: tuple[tuple[float, int], ...], speed: float | None, left: float | None
):
    measured = after(*moments)
    assert measured.bytes_s == speed
    assert measured.left_s(100) == left
