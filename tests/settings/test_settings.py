"""Settings: paths as people write them, mistakes that are said, the worker's environment."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from flux_mcp.jobs.downloads import hub_environment
from flux_mcp.jobs.process_fleet import worker_environment
from flux_mcp.settings.installation import command_path, default_data_dir
from flux_mcp.settings.settings import Settings


def test_a_tilde_is_expanded_because_clients_pass_variables_without_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLUX_MCP_DATA_DIR", "~/flux")
    monkeypatch.setenv("FLUX_MCP_ALLOWED_DIRS", '["~/Pictures", "relative"]')
    settings = Settings()
    assert settings.data_dir == tmp_path / "flux"
    assert settings.allowed_dirs == (tmp_path / "Pictures", Path.cwd() / "relative")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("FLUX_MCP_QUEUE_LIMT", "FLUX_MCP_QUEUE_LIMIT"), ("FLUX_MCP_DATADIR", "FLUX_MCP_DATA_DIR")],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "7")
    with pytest.raises(ValidationError, match=rf"no setting {variable}. Did you mean {meant}\?"):
        Settings()


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLUX_MCP_QUEUE_LIMIT", "7")
    assert Settings().queue_limit == 7
    assert Settings(queue_limit=8, data_dir=tmp_path).queue_limit == 8


def test_a_checkout_keeps_its_data_beside_its_code() -> None:
    assert default_data_dir() == Path(__file__).resolve().parents[2] / "data"


def test_images_may_be_read_from_the_data_folders_own_and_the_allowed_ones(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path, allowed_dirs=(tmp_path / "mine",))
    assert settings.readable_dirs == (tmp_path / "uploads", tmp_path / "images", tmp_path / "mine")


def test_a_worker_is_offline_and_runs_no_remote_code_whatever_the_shell_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("DIFFUSERS_DISABLE_REMOTE_CODE", "false")
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    environment = worker_environment(Settings(data_dir=tmp_path, torch_threads=3, device="cpu"))
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["DIFFUSERS_DISABLE_REMOTE_CODE"] == "true"
    assert environment["HF_HOME"] == str(tmp_path / "hf-cache")
    assert "PYTHONUNBUFFERED" not in environment


def test_a_command_is_named_as_a_person_can_call_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    python = Path(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert command_path(python.name) == str(python)
    monkeypatch.chdir(python.parents[2])
    assert command_path(python.name) == str(python.relative_to(python.parents[2]))
    (tmp_path / python.name).touch(mode=0o755)
    assert command_path(python.name) == python.name
    assert command_path("no-such-command") == "no-such-command"


def test_the_downloading_process_goes_online_and_keeps_the_users_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DEBUG", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("FLUX_MCP_TOKEN", "a secret of the server")
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "theirs"))
    settings = Settings(data_dir=tmp_path)
    environment = hub_environment(settings)
    assert environment["HF_HOME"] == str(tmp_path / "hf-cache")
    assert environment["HF_TOKEN_PATH"] == str(tmp_path / "theirs" / "token")
    assert environment["HF_TOKEN"] == "secret"  # noqa: S105 - nobody has it
    gone = {"HF_HUB_OFFLINE", "HF_DEBUG", "FLUX_MCP_TOKEN", "FLUX_MCP_DATA_DIR"}
    assert not gone & set(environment)
    assert "HF_TOKEN" not in worker_environment(settings)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_TOKEN_PATH": "~/t"}, "~/t"),
        ({"HF_HOME": "~/hf"}, "~/hf/token"),
        ({"XDG_CACHE_HOME": "~/c"}, "~/c/huggingface/token"),
        ({}, "~/.cache/huggingface/token"),
    ],
)
def test_the_hubs_token_is_looked_for_where_its_own_programs_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    for name in ("HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = hub_environment(Settings(data_dir=tmp_path))["HF_TOKEN_PATH"]
    assert found == str(Path(expected).expanduser())
