"""`flux-mcp models plan` as a person and as a program uses it."""

from pathlib import Path
from typing import Any

import pytest

from .processes import Cli


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path, weights_dir)


def planned(cli: Cli, *flags: str) -> Any:
    ended = cli("models", "plan", "--json", *flags)
    assert ended.code == 0, ended.err
    return ended.json


def test_a_plan_for_programs_has_what_draws_and_what_it_takes(cli: Cli) -> None:
    found = planned(cli, "--quality", "high", "--vram", "16", "--ram", "32")
    assert (found["model"], found["precision"]) == ("flux1-dev", "int8")
    assert found["placement"] == "model_offload"
    assert 10 < found["peak_gib"] <= 16
    assert found["ram_gib"] <= 32
    assert found["seconds"] > 0
    assert any("licence" in notice for notice in found["notices"])


def test_a_plan_for_people_says_the_same_and_why(cli: Cli) -> None:
    found = cli("models", "plan", "--quality", "high", "--vram", "16", "--explain")
    assert found.code == 0
    assert "flux1-dev" in found.out
    assert "takes 36.7 GiB of the GPU, 16.0 are free" in found.out
    assert found.out.count("taken") == 1
    assert "Note: flux1-dev is loaded in 8 bit" in found.err


def test_what_does_not_fit_ends_with_its_code_in_both_forms(cli: Cli) -> None:
    found = cli("models", "plan", "--vram", "1", "--json")
    assert found.code == 3
    assert "[too_little_memory]" in found.err
    assert found.json["error"]["code"] == "too_little_memory"


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
def test_a_flag_that_cannot_be_used_is_named(cli: Cli, flags: tuple[str, ...], says: str):
    found = cli("models", "plan", *flags)
    assert found.code == 2
    assert says in found.err


def test_the_users_own_models_can_be_planned_with(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[[model]]\nid = "mine"\nextends = "flux1-dev"\ngguf = "m.gguf"\nprecision = "q4_k"\n',
        encoding="utf-8",
    )
    found = planned(cli, "--vram", "12", "--model", "mine")
    assert (found["model"], found["precision"]) == ("mine", "q4_k")
