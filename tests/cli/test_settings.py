"""`flux-mcp doctor --settings`: what is set where, also when it cannot be used."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import stdio_client

from flux_mcp.cli.app import command_tree
from flux_mcp.cli.settings import MACHINE_DEFAULTS, SECTIONS, entries, example_config
from flux_mcp.server.demo import server_parameters
from flux_mcp.settings.files import NEVER_IN_A_FILE, user_config_file
from flux_mcp.settings.settings import Settings

from .processes import Cli

SECRET = "a-very-secret-word"  # noqa: S105 - made up, to be looked for in what is printed


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path, config: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir, FLUX_MCP_CONFIG=str(config))


def write(config: Path, text: str) -> None:
    config.write_text(text, encoding="utf-8")
    config.chmod(0o600)


# --- where a value comes from ------------------------------------------------------------------


def test_every_value_is_shown_with_its_source(cli: Cli, config: Path, tmp_path: Path) -> None:
    write(config, f'# mine\nqueue_limit = 7\ntoken = "{SECRET}"\nport = 9000\n')
    flag = ("--data-dir", str(tmp_path / "flagged"))
    ended = cli("doctor", "--settings", "--json", *flag, FLUX_MCP_PORT="9001")
    assert (ended.code, ended.err) == (0, "")
    told = ended.json
    rows = {row["name"]: (row["value"], row["source"]) for row in told["settings"]}
    assert rows["data_dir"] == (str(tmp_path / "flagged"), "flag --data-dir")
    assert rows["port"] == (9001, "FLUX_MCP_PORT")
    assert rows["queue_limit"] == (7, f"{config} line 2")
    assert rows["token"] == ("set", f"{config} line 3")
    assert rows["max_overtakes"] == (4, "default")
    assert rows["token_file"] == (None, "default")
    assert list(rows) == list(Settings.model_fields)
    assert told["files"] == {str(config): True}
    assert told["problems"] == []
    assert SECRET not in ended.out
    assert not (tmp_path / "flagged").exists(), "looking changes nothing"


def test_people_get_a_table(cli: Cli, config: Path) -> None:
    write(config, f'queue_limit = 7\ntoken = "{SECRET}"\n')
    ended = cli("doctor", "--settings", COLUMNS="200")
    assert (ended.code, ended.err) == (0, "")
    assert f"read       {config}\n" in ended.out
    assert re.search(rf"^queue_limit +7 +{config} line 1 *$", ended.out, re.MULTILINE)
    assert re.search(rf"^token +set +{config} line 2 *$", ended.out, re.MULTILINE)
    assert re.search(r"^token_file +unset +default *$", ended.out, re.MULTILINE)
    assert SECRET not in ended.out


def test_the_usual_places_are_named_whether_or_not_a_file_is_there(
    tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLUX_MCP_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    user_config_file().parent.mkdir(parents=True)
    write(user_config_file(), "queue_limit = 7")
    ended = Cli(tmp_path / "data", weights_dir)("doctor", "--settings", "--json")
    places = {str(tmp_path / "data" / "config.toml"): False, str(user_config_file()): True}
    assert list(ended.json["files"].items()) == list(places.items())


# --- what is wrong, and where ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("\nqueue_limt = 1", 2, "queue_limt: there is no such setting. Did you mean queue_limit?"),
        ("FLUX_MCP_PORT = 1", 1, "FLUX_MCP_PORT: there is no such setting. Did you mean port?"),
        ("Device = 'cpu'", 1, "Device: there is no such setting. Did you mean device?"),
        ("zzz = 1", 1, "zzz: there is no such setting."),
        ("[queue]\nqueue_limit = 1", 1, "queue: there are no tables here; write name = value"),
        ('queue_limit = "many"', 1, "queue_limit: Input should be a valid integer"),
        ("queue_limit = 0", 1, "queue_limit: Input should be greater than or equal to 1."),
        ("device = 'tpu'", 1, "device: Input should be 'auto', 'cpu', 'cuda' or 'mps'."),
        ("allowed_dirs = '/x'", 1, "allowed_dirs: wrong type. It takes: list of path."),
        ("preload = []", 1, "preload: wrong type. It takes: boolean."),
        ("packs_dir = 1979-05-27", 1, "packs_dir: wrong type. It takes: path."),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(
    cli: Cli, config: Path, text: str, line: int, says: str
) -> None:
    write(config, text)
    wanted = f"{config} line {line}: {says}"
    ended = cli("jobs", "list")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(wanted)
    assert ended.err.count("\n") == 1


def test_all_mistakes_are_told_at_once_beside_the_values(cli: Cli, config: Path) -> None:
    write(config, f'queue_limit = 0\nprot = 1\ntoken = "{SECRET[:5]}"\nmax_overtakes = 1')
    ended = cli("doctor", "--settings", "--json", FLUX_MCP_DEVICE="tpu")
    assert ended.code == 2
    problems = ended.json["problems"]
    assert len(problems) == 4
    for place in (
        "FLUX_MCP_DEVICE: ",
        f"{config} line 1: queue_limit: ",
        f"{config} line 2: prot: ",
        f"{config} line 3: token: ",
    ):
        assert any(problem.startswith(place) for problem in problems), place
    rows = {row["name"]: (row["value"], row["source"]) for row in ended.json["settings"]}
    assert rows["queue_limit"] == (0, f"{config} line 1")
    assert rows["max_overtakes"] == (1, f"{config} line 4")
    assert rows["device"] == ("tpu", "FLUX_MCP_DEVICE")
    assert rows["token"] == ("set", f"{config} line 3")
    assert SECRET[:5] not in ended.out + ended.err


def test_what_an_unreadable_file_would_set_is_not_called_a_default(cli: Cli, config: Path) -> None:
    write(config, "queue_limit = 7\nport =")
    ended = cli("doctor", "--settings", FLUX_MCP_HOST="::1", COLUMNS="200")
    assert ended.code == 2
    assert f"{config} is not TOML" in ended.err
    assert re.search(r"^queue_limit +unset +unknown until ", ended.out, re.MULTILINE)
    assert re.search(r"^host +::1 +FLUX_MCP_HOST *$", ended.out, re.MULTILINE)


def test_a_misspelt_variable_is_told_without_a_place_of_its_own(cli: Cli, config: Path) -> None:
    write(config, "")
    ended = cli("jobs", "list", FLUX_MCP_QUEUE_LIMT="3")
    meant = "Did you mean FLUX_MCP_QUEUE_LIMIT?"
    assert ended.err == f"There is no setting FLUX_MCP_QUEUE_LIMT. {meant}\n"
    assert ended.code == 2


# --- the flag ----------------------------------------------------------------------------------


def test_every_command_that_takes_a_data_folder_takes_a_configuration_file() -> None:
    waiting: list[Any] = [command_tree()]
    both = 0
    for command in waiting:
        waiting.extend(getattr(command, "commands", {}).values())
        options = {option for param in command.params for option in param.opts}
        assert ("--data-dir" in options) == ("--config" in options), command.name
        both += "--config" in options
    assert both > 10


def test_the_flag_wins_over_the_variable(cli: Cli, config: Path, tmp_path: Path) -> None:
    write(config, "queue_limit = 0")
    assert cli("jobs", "list").code == 2
    other = tmp_path / "other.toml"
    write(other, "queue_limit = 1")
    assert cli("jobs", "list", "--config", str(other)).code == 0
    ended = cli("jobs", "list", "--config", str(tmp_path / "no.toml"))
    assert ended.code == 2
    assert ended.err.startswith(f"[invalid_settings] There is no configuration file {tmp_path}")


@pytest.mark.anyio
async def test_a_server_that_the_demo_starts_reads_the_same_file(
    tmp_path: Path, config: Path
) -> None:
    packs = Settings().packs_dir
    shutil.copytree(packs / "product-shot", tmp_path / "packs" / "product-shot")
    write(config, 'packs_dir = "packs"')
    settings = Settings(config=config, data_dir=tmp_path / "data")
    async with Client(stdio_client(server_parameters(settings))) as client:
        listed = {prompt.name for prompt in (await client.list_prompts()).prompts}
    shipped = {folder.name for folder in packs.iterdir() if folder.is_dir()}
    assert listed & shipped == {"product-shot"}


# --- what people are told ----------------------------------------------------------------------


def uncommented(text: str) -> dict[str, Any]:
    """Return what the example says if every setting that has a value is taken."""
    return tomllib.loads("".join(re.findall(r"^#(\w+ = .+\n)", text, re.MULTILINE)))


def test_every_setting_is_in_one_section() -> None:
    named = [name for section in SECTIONS for name in section.names]
    assert sorted(named) == sorted(Settings.model_fields)


def test_every_default_that_differs_from_machine_to_machine_is_said_in_words() -> None:
    differ = {
        name
        for name, field in Settings.model_fields.items()
        if field.default_factory is not None or isinstance(field.default, Path)
    }
    assert differ == set(MACHINE_DEFAULTS)


def test_the_example_changes_nothing_as_it_is_and_nothing_when_it_is_taken_whole(
    cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = cli("doctor", "--example-config").out
    assert text == example_config()
    assert tomllib.loads(text) == {}
    monkeypatch.delenv("FLUX_MCP_TORCH_THREADS")
    values = uncommented(text)
    assert len(values) > 10
    write(config, "".join(re.findall(r"^#(\w+ = .+\n)", text, re.MULTILINE)))
    # The constructor's own defaults, against those of the file.
    assert Settings(config=config) == Settings().model_copy(update={"config": config})


def test_the_example_names_every_setting_once() -> None:
    named = re.findall(r"^#(\w+) =", example_config(), re.MULTILINE)
    assert sorted(named) == sorted(set(Settings.model_fields) - set(NEVER_IN_A_FILE))
    shown = {entry.name for section in SECTIONS for entry in entries(section) if entry.default}
    assert shown == set(uncommented(example_config()))
