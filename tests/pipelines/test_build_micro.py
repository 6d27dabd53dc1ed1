"""The script that builds the embedded weights."""

import hashlib
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_micro.py"


def build(out, *options, python=()):
    command = [sys.executable, *python, SCRIPT, "--out", out, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_builds_the_same_bytes_each_time_and_only_when_asked(tmp_path):
    out = tmp_path / "weights" / "micro"
    # An incomplete folder, from before builds were renamed into place, is built anew.
    (out / "text2img").mkdir(parents=True)
    (out / "text2img" / "model_index.json").write_text("{}")
    result = build(out)
    assert result.stdout.count("\n") == 1
    first = hashes(out)
    assert {name.split("/")[0] for name in first} == {
        "text2img",
        "kontext",
        "fill",
        "control",
        "redux",
    }
    assert {name.split("/")[1] for name in first if name.startswith("fill/")} == {
        "model_index.json",
        "transformer",
        "scheduler",
    }
    assert not [name for name in first if "text_encoder" in name and "text2img" not in name]

    # Nothing to do: said at once, without importing torch.
    again = build(out, python=("-X", "importtime"))
    assert "already" in again.stdout
    assert " torch" not in again.stderr

    build(out, "--force")
    assert hashes(out) == first
    assert [path.name for path in out.parent.iterdir()] == ["micro"]  # no half-built folder beside
