"""Configuration files: which counts, what one may hold, and on which line a mistake is."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flux_mcp.errors import SettingsFileError
from flux_mcp.jobs.process_fleet import worker_environment
from flux_mcp.settings.files import ConfigFile, user_config_file
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import WORKER_SETTINGS, Settings

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any setting, whose default places count."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    monkeypatch.delenv("FLUX_MCP_CONFIG")
    monkeypatch.delenv("FLUX_MCP_DATA_DIR")
    monkeypatch.delenv("FLUX_MCP_TORCH_THREADS")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def in_data_folder(folder: Path, text: str) -> Path:
    return write(folder / "config.toml", text)


def for_user(text: str) -> Path:
    return write(user_config_file(), text)


# --- which one counts --------------------------------------------------------------------------


def test_a_flag_wins_over_a_variable_that_over_the_data_folder_that_over_the_user(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = home / "data"

    def limit(**flags: Any) -> int:
        return Settings(data_dir=data, **flags).queue_limit

    assert limit() == Settings.model_fields["queue_limit"].default
    for_user("queue_limit = 2")
    assert limit() == 2
    in_data_folder(data, "queue_limit = 3")
    assert limit() == 3
    monkeypatch.setenv("FLUX_MCP_QUEUE_LIMIT", "4")
    assert limit() == 4
    assert limit(queue_limit=5) == 5


def test_files_are_merged_setting_by_setting(home: Path) -> None:
    for_user('queue_limit = 2\ndevice = "cpu"')
    in_data_folder(home / "data", "queue_limit = 3")
    settings = Settings(data_dir=home / "data")
    assert (settings.queue_limit, settings.device) == (3, "cpu")


def test_the_users_file_says_where_the_data_folder_is_and_the_file_there_counts(home: Path) -> None:
    for_user('data_dir = "~/images"\nqueue_limit = 2')
    in_data_folder(home / "images", "queue_limit = 3")
    assert Settings().data_dir == home / "images"
    assert Settings().queue_limit == 3


def test_the_data_folder_of_a_variable_is_looked_into(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_user(f'data_dir = "{home}/elsewhere"')
    in_data_folder(home / "elsewhere", "queue_limit = 2")
    in_data_folder(home / "mine", "queue_limit = 3")
    monkeypatch.setenv("FLUX_MCP_DATA_DIR", "~/mine")
    assert Settings().queue_limit == 3


def test_a_data_folder_that_is_the_users_configuration_folder_has_one_file(home: Path) -> None:
    """So it is on macOS and Windows; there the file may name another data folder."""
    file = for_user("queue_limit = 2")
    assert Settings(data_dir=file.parent).queue_limit == 2
    for_user(f'queue_limit = 2\ndata_dir = "{file.parent}"')
    assert Settings().data_dir == file.parent


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_named_file_is_the_only_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for_user("queue_limit = 2")
    in_data_folder(home / "data", "max_overtakes = 9")
    named = write(home / "other.toml", f'data_dir = "{home}/data"\npreview_every_steps = 7')
    if how == "variable":
        monkeypatch.setenv("FLUX_MCP_CONFIG", "~/other.toml")
        settings = Settings()
    else:
        settings = Settings(config=named)
    assert settings.config == named
    assert settings.data_dir == home / "data"
    assert settings.preview_every_steps == 7
    assert settings.queue_limit == Settings.model_fields["queue_limit"].default
    assert settings.max_overtakes == Settings.model_fields["max_overtakes"].default


def test_the_flag_names_the_file_rather_than_the_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_MCP_CONFIG", str(write(home / "a.toml", "queue_limit = 2")))
    assert Settings(config=write(home / "b.toml", "queue_limit = 3")).queue_limit == 3


def test_the_null_device_reads_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_user("queue_limit = 2")
    monkeypatch.setenv("FLUX_MCP_CONFIG", os.devnull)
    assert Settings().queue_limit == Settings.model_fields["queue_limit"].default


def test_paths_in_a_file_are_relative_to_it_wherever_it_is_read_from(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    named = write(
        home / "conf" / "my.toml",
        'data_dir = "data"\nallowed_dirs = ["~/Pictures", "shots", "/abs"]\ntoken_file = "tokens"',
    )
    settings = Settings(config=named)
    assert settings.data_dir == home / "conf" / "data"
    assert settings.allowed_dirs == (home / "Pictures", home / "conf" / "shots", Path("/abs"))
    assert settings.token_file == home / "conf" / "tokens"


# --- what it may hold --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queue_limit = \n", "is not TOML: Invalid value (at line 1, column 15)."),
        ("a = 1\na = 2\n", "(at line 2, column 6)"),
        ('config = "x.toml"', "line 1: config cannot be set here. Name the file with --config"),
        ("\n\ndata_dir = '/x'", "line 3: data_dir cannot be set here. This file is found through"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what_to_do(
    home: Path, text: str, says: str
) -> None:
    file = in_data_folder(home / "data", text)
    with pytest.raises(SettingsFileError) as caught:
        Settings(data_dir=home / "data")
    assert str(caught.value).startswith(f"[invalid_settings] {file}")
    assert says in str(caught.value)


def test_bytes_that_are_no_text_are_refused(home: Path) -> None:
    file = for_user("")
    file.write_bytes(b'device = "\xff"')
    with pytest.raises(SettingsFileError, match="is not UTF-8: byte 11 cannot be read"):
        Settings()


def test_a_folder_in_the_place_of_a_file_is_refused(home: Path) -> None:
    user_config_file().mkdir(parents=True)
    with pytest.raises(SettingsFileError, match="is not a file"):
        Settings()


def test_a_named_file_must_exist(home: Path) -> None:
    with pytest.raises(SettingsFileError, match=rf"There is no configuration file {home}/no\.toml"):
        Settings(config=home / "no.toml")


@pytest.mark.parametrize("key", ["Queue_Limit", "QUEUE_LIMIT", "queue-limit", "queue"])
def test_keys_are_spelt_exactly(home: Path, key: str) -> None:
    for_user(f"{key} = 3")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings()


@posix_only
@pytest.mark.parametrize(("mode", "is_open"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_file_with_a_secret_must_be_its_owners_own(
    home: Path, mode: int, *, is_open: bool
) -> None:
    file = for_user('queue_limit = 2\ntoken = "a-very-secret-word"')
    file.chmod(mode)
    if not is_open:
        token = Settings().token
        assert token is not None
        assert token.get_secret_value() == "a-very-secret-word"
        return
    with pytest.raises(SettingsFileError) as caught:
        Settings()
    assert f"{file} line 2: token is a secret" in str(caught.value)
    assert caught.value.hint == f"Run: chmod 600 {file}"
    assert "a-very-secret-word" not in str(caught.value)


@posix_only
def test_a_file_without_a_secret_may_be_open(home: Path) -> None:
    for_user("queue_limit = 2").chmod(0o644)
    assert Settings().queue_limit == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port = 1", 1),
        ("\n# port = 9\n  port=1", 3),
        ('allowed_hosts = [\n"port = 3",\n  "x"]\n"port" = 1', 4),
        ("host = '''\nport = 3\n'''\r\n'port' = 1\r\n", 4),
        ("portal = 1\n[port]\nx = 1", 2),
        ("port.a = 1", 1),
        ('"p\\u006frt" = 1', None),
    ],
    ids=repr,
)
def test_the_line_of_a_key_is_the_one_that_sets_it(
    tmp_path: Path, text: str, line: int | None
) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode())
    file = ConfigFile(Settings, path, {})
    assert "port" in file.values
    assert file.line_of("port") == line


# --- the worker --------------------------------------------------------------------------------


def test_a_worker_has_the_servers_settings_whatever_becomes_of_files_and_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_user('device = "cuda"\ntorch_threads = 9\ntoken = "a-very-secret-word"')
    in_data_folder(home / "data", 'weights_dir = "elsewhere"\nlog_level = "error"')
    monkeypatch.setenv("FLUX_MCP_DEVICE", "mps")
    monkeypatch.setenv("FLUX_MCP_TOKEN", "another-secret-word")
    settings = Settings(data_dir=home / "data", device="cpu", log_level="debug")
    environment = worker_environment(settings)
    assert "secret-word" not in str(environment)
    in_data_folder(home / "data", "half a line that is being written")
    program = (
        "from flux_mcp.settings.settings import Settings; "
        f"print(Settings().model_dump_json(include={set(WORKER_SETTINGS)!r}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    ours = settings.model_dump(mode="json", include=set(WORKER_SETTINGS))
    assert json.loads(told.stdout) == ours
    assert ours["torch_threads"] == 9
    assert ours["weights_dir"] == str(home / "data" / "elsewhere")


def test_a_worker_without_a_choice_of_threads_makes_none(home: Path) -> None:
    settings = Settings(data_dir=home)
    assert settings.torch_threads is None
    assert "FLUX_MCP_TORCH_THREADS" not in worker_environment(settings)


def test_a_worker_keeps_compiled_code_in_the_data_folder_and_no_shell_chooses_its_attention(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flash_hub")
    environment = worker_environment(Settings(data_dir=home))
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == str(home / "cache" / "compiled")
    assert environment["DIFFUSERS_ATTN_BACKEND"] == "native"


def test_the_workers_code_reads_no_setting_that_it_is_not_handed() -> None:
    cache = PACKAGE_DIR / "models" / "hub" / "cache.py"
    files = [*(PACKAGE_DIR / "pipelines").rglob("*.py"), cache]
    read = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and _is_settings(node.value)
    }
    assert read - {"paths"} <= set(WORKER_SETTINGS)
    assert {"device", "weights_dir", "log_level"} <= read


def _is_settings(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.strip("_") == "settings"
