"""For what torch was built is read from its files, as torch itself says it."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from flux_mcp.models.planning.device import (
    LEAST_DRIVER,
    Torch,
    constants,
    installed_torch,
    torch_build,
)

# As torch 2.13 writes it (tools/generate_torch_version.py).
VERSION_PY = """
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
hip: Optional[str] = {hip}
"""


def built(version: str, cuda: str | None = None, hip: str | None = None) -> Torch:
    source = VERSION_PY.format(version=version, cuda=repr(cuda), hip=repr(hip))
    return torch_build(version, constants(source), is_known=True)


def test_the_installed_torch_is_told_as_it_tells_itself():
    import torch

    told = installed_torch()
    assert (told.version, told.cuda) == (torch.__version__, torch.version.cuda)
    assert (told.build == "cuda") == (torch.version.cuda is not None)


def test_builds_are_told_apart():
    # The index's own wheel for Linux has no suffix in its metadata.
    assert built("2.13.0", cuda="13.0").build == "cuda"
    assert built("2.13.0+cu130", cuda="13.0").least_driver == LEAST_DRIVER["13"] == 580
    assert built("2.9.1+cu126", cuda="12.6").least_driver == 525
    assert built("2.13.0+cpu").build == "cpu"
    assert built("2.13.0").build == "cpu", "the index's own wheel for Windows and macOS"
    assert built("2.13.0+rocm7.0", hip="7.0.51").build == "rocm"


@pytest.mark.parametrize(
    ("version", "build", "cuda"),
    [
        ("2.13.0+cu130", "cuda", "13.0"),
        ("2.13.0+cpu", "cpu", None),
        ("2.13.0+rocm7.0", "rocm", None),
        ("2.13.0", "unknown", None),
    ],
)
def test_without_its_file_the_version_tells_what_it_can(version, build, cuda):
    told = torch_build(version, {}, is_known=False)
    assert (told.build, told.cuda) == (build, cuda)


def test_a_torch_of_which_only_the_name_is_left_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info = tmp_path / "torch-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert metadata.version("torch") == "2.13.0"
    assert installed_torch().build == "unknown"
    monkeypatch.setattr(sys, "path", [])
    assert installed_torch().version is None


def test_names_are_read_and_nothing_is_run():
    source = "a = b = 'x'\nc: str | None = None\nd = print('never')\ne = 3\nclass F: g = 'h'\n"
    assert constants(source) == {"a": "x", "b": "x", "c": None}
