from pathlib import Path

import pytest

from flux_mcp.config import Settings
from flux_mcp.errors import WeightsMissingError
from flux_mcp.models.registry import load_registry
from flux_mcp.models.weights import find_snapshot, is_installed, require_snapshot

REGISTRY = load_registry()
DEV = REGISTRY.find("text2img", "flux1-dev")
REDUX = REGISTRY.find("redux", "flux1-redux-dev")
MICRO_FILL = REGISTRY.find("fill", "micro")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", weights_dir=tmp_path / "weights")


def put_in_hub_cache(settings: Settings, repository: str, commit: str = COMMIT) -> Path:
    """Lay a snapshot out as huggingface_hub does: refs, blobs, links."""
    folder = settings.paths.hf_cache / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for path in (folder / "refs", folder / "blobs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit, encoding="utf-8")
    (folder / "blobs" / "aaa").write_text("{}", encoding="utf-8")
    (snapshot / "model_index.json").symlink_to("../../blobs/aaa")
    return snapshot


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


def test_the_packages_own_weights_need_their_shared_parts(settings):
    for name in ("micro/fill", "micro/text2img"):
        assert find_snapshot(MICRO_FILL, settings) is None
        (settings.weights_dir / name).mkdir(parents=True)
        (settings.weights_dir / name / "model_index.json").write_text("{}", encoding="utf-8")
    found = find_snapshot(MICRO_FILL, settings)
    assert found.folder == settings.weights_dir / "micro/fill"
    assert found.parts_folder == settings.weights_dir / "micro/text2img"
    assert found.revision is None


@pytest.mark.parametrize("spec", [DEV, MICRO_FILL], ids=["hub", "package"])
def test_missing_weights_are_refused_with_the_command_that_installs_them(settings, spec):
    with pytest.raises(WeightsMissingError) as refused:
        require_snapshot(spec, settings)
    assert ("hf download black-forest-labs/FLUX.1-dev" in refused.value.hint) == (spec is DEV)
    assert ("accept its licence" in refused.value.hint) == spec.gated
