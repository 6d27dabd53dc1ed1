import errno
import json
import os
from pathlib import Path

import pytest

from flux_mcp.errors import StorageError, WeightsMissingError
from flux_mcp.models.hub.cache import (
    find_snapshot,
    install_hint,
    is_installed,
    require_snapshot,
    state_of,
)
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.settings import Settings
from tests.models.weight_files import empty_file, empty_gguf

from .hub import COMMIT, FILES, INDEX, put_in_hub_cache

REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev")
REDUX = REGISTRY.find("redux", "flux1-redux-dev")
MICRO_FILL = REGISTRY.find("fill", "micro")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", weights_dir=tmp_path / "weights")


def test_a_snapshot_in_the_hub_cache_is_found_with_its_commit(settings):
    folder = put_in_hub_cache(settings, DEV.repository)
    found = find_snapshot(DEV, settings)
    assert (found.folder, found.parts_folder, found.revision) == (folder, folder, COMMIT)


def test_a_pinned_revision_is_the_only_one_that_counts(settings):
    put_in_hub_cache(settings, DEV.repository)
    assert find_snapshot(DEV.model_copy(update={"revision": COMMIT}), settings)
    assert find_snapshot(DEV.model_copy(update={"revision": "f" * 40}), settings) is None


def test_an_empty_cache_holds_nothing(settings):
    assert find_snapshot(DEV, settings) is None
    assert not is_installed(DEV, REGISTRY, settings)


def test_redux_needs_its_base_as_well(settings):
    put_in_hub_cache(settings, REDUX.repository)
    assert not is_installed(REDUX, REGISTRY, settings)
    put_in_hub_cache(settings, DEV.repository)
    assert is_installed(REDUX, REGISTRY, settings)


def test_weights_that_cannot_be_read_are_not_there_and_named_it_is_said(settings, monkeypatch):
    put_in_hub_cache(settings, DEV.repository)
    listdir = os.listdir

    def refuse(folder):
        if "FLUX.1-dev" in str(folder):  # permissions do not stop the root user of a test
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    assert find_snapshot(DEV, settings) is None
    assert state_of(DEV, settings) == "partial"
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        require_snapshot(DEV, REGISTRY, settings)


@pytest.mark.parametrize("lacking", FILES)
def test_a_download_that_was_broken_off_does_not_count(settings, lacking):
    put_in_hub_cache(settings, DEV.repository, [name for name in FILES if name != lacking])
    assert find_snapshot(DEV, settings) is None


def test_a_link_to_a_blob_that_is_not_there_does_not_count(settings):
    snapshot = put_in_hub_cache(settings, DEV.repository)
    (snapshot / FILES[-1]).resolve().unlink()
    assert find_snapshot(DEV, settings) is None


def test_the_packages_own_weights_need_their_shared_parts(settings):
    own, shared = settings.weights_dir / "micro/fill", settings.weights_dir / "micro/text2img"
    own.mkdir(parents=True)
    (own / "model_index.json").write_text(json.dumps(INDEX), encoding="utf-8")
    for folder, names in ((own, FILES[1:]), (shared, FILES[:1])):
        assert find_snapshot(MICRO_FILL, settings) is None
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            empty_file(folder / name)
    found = find_snapshot(MICRO_FILL, settings)
    assert (found.folder, found.parts_folder, found.revision) == (own, shared, None)


@pytest.mark.parametrize("spec", [DEV, MICRO_FILL], ids=["hub", "package"])
def test_missing_weights_are_refused_with_the_command_that_installs_them(settings, spec):
    with pytest.raises(WeightsMissingError) as refused:
        require_snapshot(spec, REGISTRY, settings)
    assert ("flux-mcp models pull flux1-dev " in refused.value.hint) == (spec is DEV)
    assert ("accept the licence" in refused.value.hint) == spec.gated


def test_redux_is_installed_by_one_command_into_the_servers_own_data_folder(settings):
    hint = install_hint(REDUX, settings)
    assert f"models pull flux1-redux-dev --data-dir {settings.data_dir}" in hint
    assert "https://huggingface.co/black-forest-labs/FLUX.1-Redux-dev" in hint


def test_a_folder_with_only_some_files_is_partial(settings):
    assert state_of(DEV, settings) == "missing"
    put_in_hub_cache(settings, DEV.repository, FILES[:2])
    assert state_of(DEV, settings) == "partial"
    assert state_of(MICRO_FILL, settings) == "missing"


def test_a_file_of_its_own_stands_for_a_parts_weights_but_not_for_its_description(
    settings, tmp_path
):
    snapshot = put_in_hub_cache(settings, DEV.repository, FILES[:2])
    file = tmp_path / "flux1-dev-Q8_0.gguf"
    row = DEV.model_copy(update={"gguf": file, "precision": "q8_0"})
    assert find_snapshot(row, settings) is None  # neither weights nor file
    empty_gguf(file)
    assert find_snapshot(row, settings) is not None
    other = empty_file(tmp_path / "flux1-dev.sft")
    changes = {"gguf": None, "file": other, "precision": "bf16"}
    assert find_snapshot(row.model_copy(update=changes), settings) is not None
    assert find_snapshot(DEV, settings) is None
    (snapshot / "transformer" / "config.json").unlink()
    assert find_snapshot(row, settings) is None


def test_a_file_stands_for_the_large_text_encoder_only(settings, tmp_path):
    snapshot = put_in_hub_cache(settings, DEV.repository)
    index = {**INDEX, "text_encoder_2": ["transformers", "T5EncoderModel"]}
    (snapshot / "model_index.json").unlink()
    (snapshot / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (snapshot / "text_encoder_2").mkdir()
    (snapshot / "text_encoder_2" / "config.json").write_text("{}", encoding="utf-8")
    file = tmp_path / "t5-Q8_0.gguf"
    empty_gguf(file)
    row = DEV.model_copy(update={"text_gguf": file, "text_precision": "q8_0"})
    assert find_snapshot(DEV, settings) is None
    assert find_snapshot(row, settings) is not None
