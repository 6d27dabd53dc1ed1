"""Equal fingerprints for equal weights, however they came here."""

import hashlib
import json
import shutil

import pytest

from flux_mcp.pipelines.loading.fingerprints import Fingerprints

WEIGHTS = b"weights" * 100


@pytest.fixture
def folder(tmp_path):
    part = tmp_path / "vae"
    part.mkdir()
    (part / "config.json").write_text(json.dumps({"channels": 16, "_name_or_path": "somewhere"}))
    (part / "model.safetensors").write_bytes(WEIGHTS)
    return part


def test_a_copy_has_the_same_fingerprint(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Fingerprints().folder(copy) == Fingerprints().folder(folder)


def test_who_saved_a_configuration_does_not_matter_but_what_it_says_does(folder):
    before = Fingerprints().folder(folder)
    config = folder / "config.json"
    config.write_text(
        json.dumps(
            {"_name_or_path": "elsewhere", "channels": 16, "transformers_version": "5.0"}, indent=4
        )
    )
    assert Fingerprints().folder(folder) == before
    config.write_text(json.dumps({"channels": 32}))
    assert Fingerprints().folder(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda part: (part / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!"),
        lambda part: (part / "model.safetensors").rename(part / "other.safetensors"),
        lambda part: (part / "more.safetensors").write_bytes(b""),
    ],
)
def test_other_files_have_another_fingerprint(folder, change):
    before = Fingerprints().folder(folder)
    change(folder)
    assert Fingerprints().folder(folder) != before


def test_a_changed_file_is_read_again(folder):
    fingerprints = Fingerprints()
    before = fingerprints.folder(folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert fingerprints.folder(folder) != before


def test_pickles_beside_the_weights_do_not_count(folder):
    before = Fingerprints().folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    assert Fingerprints().folder(folder) == before


def test_a_blob_of_the_hub_cache_is_known_by_its_name_and_not_read(folder, tmp_path):
    """A snapshot's files are links to blobs named by their SHA-256, where they are in LFS."""
    expected = Fingerprints().folder(folder)
    blob = tmp_path / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"not read: 24 GB in production")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blob)
    assert Fingerprints().folder(folder) == expected
