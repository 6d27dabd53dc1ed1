"""`flux-mcp models plan` as a person and as a program uses it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def plan(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flux_mcp", "models", "plan", "--data-dir", str(tmp_path), *flags],
        capture_output=True,
        text=True,
        check=False,
    )


def planned(tmp_path: Path, *flags: str) -> dict[str, Any]:
    found = plan(tmp_path, "--json", *flags)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_a_plan_for_programs_has_what_draws_and_what_it_takes(tmp_path: Path) -> None:
    found = planned(tmp_path, "--quality", "standard", "--vram", "16", "--ram", "32")
    assert (found["model"], found["precision"]) == ("flux1-dev", "int8")
    assert found["placement"] == "model_offload"
    assert 10 < found["peak_gib"] <= 16
    assert found["ram_gib"] <= 32
    assert found["seconds"] > 0
    assert any("licence" in notice for notice in found["notices"])


def test_a_plan_for_people_says_the_same_and_why(tmp_path: Path) -> None:
    found = plan(tmp_path, "--quality", "high", "--vram", "16", "--explain")
    assert found.returncode == 0
    assert "flux1-dev" in found.stdout
    assert "takes 36.7 GiB of the GPU, 16.0 are free" in found.stdout
    assert found.stdout.count("taken") == 1
    assert "loaded in 8 bit" in found.stdout


def test_what_does_not_fit_ends_with_its_code_in_both_forms(tmp_path: Path) -> None:
    found = plan(tmp_path, "--vram", "1", "--json")
    assert found.returncode == 3
    assert "[too_little_memory]" in found.stderr
    assert json.loads(found.stdout)["error"]["code"] == "too_little_memory"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--quality", "best", "--vram", "8"), "--quality"),
        (("--kind", "poem", "--vram", "8"), "--kind"),
        (("--vram", "-4"), "--vram"),
        (("--vram", "8", "--width", "512"), "--width and --height"),
        (("--vram", "8", "--model", "flux1-dex"), "Did you mean 'flux1-dev'"),
        (("--vram", "8", "--kind", "control", "--structure", "smell"), "--structure"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(tmp_path: Path, flags: tuple[str, ...], says: str):
    found = plan(tmp_path, *flags)
    assert found.returncode == 2
    assert says in found.stderr


def test_the_users_own_models_can_be_planned_with(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[[model]]\nid = "mine"\nextends = "flux1-dev"\ngguf = "m.gguf"\nprecision = "q4_k"\n',
        encoding="utf-8",
    )
    found = planned(tmp_path, "--vram", "12", "--model", "mine")
    assert (found["model"], found["precision"]) == ("mine", "q4_k")
