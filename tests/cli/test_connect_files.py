"""A client's file on a real disk: links, modes, backups, refusals; and where each client's is."""

import json
import os
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml  # comes with huggingface_hub

from flux_mcp.cli.connect.changes import snippet
from flux_mcp.cli.connect.clients import Client, find_client, load_clients
from flux_mcp.cli.connect.connecting import ConnectFlags, Outcome, connect, launch_of, survey
from flux_mcp.cli.connect.entries import COMMAND, Launch, is_ours, own_command, stdio_entry
from flux_mcp.cli.connect.files import ClientFile
from flux_mcp.cli.connect.places import config_file, seems_installed
from flux_mcp.errors import (
    EntryConflictError,
    FluxMcpError,
    InvalidClientFileError,
    InvalidRequestError,
    StorageError,
    UnsupportedOptionError,
)
from flux_mcp.server.transports.tokens import load_tokens
from flux_mcp.settings.files import user_config_file
from flux_mcp.settings.installation import command_file, default_data_dir
from flux_mcp.settings.settings import Settings

CLIENTS = load_clients()
TOKEN = "a-token-of-thirty-two-characters"  # noqa: S105  (admitted nowhere)
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
EDITED = [client for client in CLIENTS if not client.is_printed]
every_client = pytest.mark.parametrize("client", EDITED, ids=lambda client: client.id)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", token=TOKEN)


def texts(client: Client) -> dict[str, str]:
    """Return documents of a client: with another server, with comments, with a foreign `flux`."""
    if client.format == "toml":
        other = '[tui]\nx = 1\n\n[mcp_servers.other]\ncommand = "x"\n'
        foreign = f'{other}\n[mcp_servers.flux]\ncommand = "flux-of-somebody"\n'
        commented = other.replace("x = 1", "x = 1 # one")
        return {"other": other, "foreign": foreign, "commented": commented, "broken": "x = = 1"}
    data = {"z": 1, client.key: {"other": {"command": "x"}}}
    other = json.dumps(data, indent=2) + "\n"
    foreign = {"z": 1, client.key: {"other": {"command": "x"}, "flux": {"command": "y"}}}
    return {
        "other": other,
        "foreign": json.dumps(foreign, indent=2),
        "commented": other.replace('"z": 1,', '"z": 1, // one'),
        "broken": other.replace(":", ""),
    }


# --- every client, every state of its file -------------------------------------------------------


def act(client: Client, settings: Settings, file: Path, task: str, **flags: object) -> Outcome:
    return connect(client, settings, ConnectFlags(file=file, task=task, **flags))  # type: ignore[arg-type]


def backups(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bak"))


@every_client
@pytest.mark.parametrize("text", [None, ""], ids=["no file", "empty file"])
def test_a_file_is_made_and_can_be_read(
    client: Client, text: str | None, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "settings"
    if text is not None:
        file.parent.mkdir()
        file.write_text(text)
    shown = act(client, settings, file, "show")
    assert shown.change is not None
    assert (shown.change.status, shown.change.changes, shown.done) == ("absent", True, False)
    assert file.exists() == (text is not None), "showing writes nothing"
    assert act(client, settings, file, "write").done
    assert file.read_text() == shown.change.after
    assert len(backups(file.parent)) == (text is not None)
    again = act(client, settings, file, "write")
    assert (again.done, again.backup) == (False, None)
    if text is None and os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@every_client
def test_others_stay_and_remove_gives_the_file_back(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    text = texts(client)["other"]
    file.write_text(text)
    file.chmod(0o640)
    written = act(client, settings, file, "write")
    assert written.backup is not None
    assert written.backup.read_text() == text
    assert file.read_text() != text
    act(client, settings, file, "write")
    assert backups(tmp_path) == [written.backup], "the second time nothing changes"
    removed = act(client, settings, file, "remove")
    assert removed.done
    assert file.read_text() == text
    assert not act(client, settings, file, "remove").done
    if os.name == "posix":
        assert {
            stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir() if one.is_file()
        } == {0o640}


@every_client
def test_comments_stay_or_are_refused_where_the_client_cannot_read_them(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    text = texts(client)["commented"]
    file.write_text(text)
    if client.format == "json":
        with pytest.raises(InvalidClientFileError, match="Line 2, column 11"):
            act(client, settings, file, "write")
        assert file.read_text() == text
    else:
        act(client, settings, file, "write")
        assert "one\n" in file.read_text()
        act(client, settings, file, "remove")
        assert file.read_text() == text


@every_client
def test_another_entry_of_our_name_stays_until_we_are_told(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    text = texts(client)["foreign"]
    file.write_text(text)
    shown = act(client, settings, file, "show")
    assert shown.change is not None
    assert shown.change.status == "foreign"
    for task in ("write", "remove"):
        with pytest.raises(EntryConflictError, match="settings"):
            act(client, settings, file, task)
    assert file.read_text() == text
    assert backups(tmp_path) == []
    assert act(client, settings, file, "write", name="flux2").done
    assert act(client, settings, file, "write", replace=True).done
    assert "somebody" not in file.read_text()
    assert '"command": "y"' not in file.read_text()


@every_client
def test_an_unreadable_file_is_named_and_left(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    for content in (texts(client)["broken"].encode(), b"\xff\xfe{}"):
        file.write_bytes(content)
        for task in ("show", "write", "remove"):
            with pytest.raises(InvalidClientFileError) as refused:
                act(client, settings, file, task)
            assert str(file) in refused.value.message
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@every_client
def test_a_file_that_is_none_is_a_clear_error(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "plain").write_text("")
    for file in (folder, tmp_path / "plain" / "settings"):
        with pytest.raises(StorageError, match="cannot be"):
            act(client, settings, file, "write")
    assert list(folder.iterdir()) == []


@posix
@every_client
def test_a_read_only_folder_is_a_clear_error_and_nothing_is_left_in_it(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "settings"
    file.parent.mkdir()
    file.write_text(texts(client)["other"])
    file.parent.chmod(0o500)
    if os.access(file.parent, os.W_OK):
        pytest.skip("root writes where nobody may")
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            act(client, settings, file, "write")
        assert list(file.parent.iterdir()) == [file]
    finally:
        file.parent.chmod(0o700)


@posix
@every_client
def test_a_link_stays_a_link_and_its_target_is_changed(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    target = tmp_path / "dotfiles" / "real"
    target.parent.mkdir()
    link = tmp_path / "settings"
    link.symlink_to("dotfiles/real")
    act(client, settings, link, "write")  # the target is not there yet
    assert link.is_symlink()
    made = target.read_text()
    target.write_text(texts(client)["other"])
    written = act(client, settings, link, "write")
    assert link.is_symlink()
    assert target.read_text() not in {made, texts(client)["other"]}
    assert written.backup is not None
    assert written.backup.parent == target.parent
    link.unlink()
    link.symlink_to("settings")
    with pytest.raises(StorageError, match="cannot be read"):
        act(client, settings, link, "write")


# --- the file itself -----------------------------------------------------------------------------


def test_a_byte_order_mark_and_windows_lines_stay(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    content = b'\xef\xbb\xbf{\r\n  "mcpServers": {\r\n    "a": {}\r\n  }\r\n}\r\n'
    file.write_bytes(content)
    client = find_client("cursor", CLIENTS)
    act(client, settings, file, "write")
    assert file.read_bytes().startswith(b"\xef\xbb\xbf{\r\n")
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")
    act(client, settings, file, "remove")
    assert file.read_bytes() == content


def test_two_backups_of_one_second_do_not_meet(tmp_path: Path) -> None:
    now = datetime(2026, 11, 21, 12, 30, 5, tzinfo=UTC)
    file = tmp_path / "mcp.json"
    file.write_text("one")
    for text, name in (("two", "mcp.json.20261121-123005.bak"), ("three", None)):
        backup = ClientFile.read(file).write(text, now)
        assert backup is not None
        assert backup.name == (name or "mcp.json.20261121-123005-2.bak")
    assert [one.read_text() for one in backups(tmp_path)] == ["two", "one"]
    assert file.read_text() == "three"


def test_what_another_program_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    for before in (None, "{}"):
        if before is not None:
            file.write_text(before)
        read = ClientFile.read(file)
        file.write_text('{"theirs": 1}')
        with pytest.raises(StorageError, match="changed by another program"):
            read.write("ours")
        assert file.read_text() == '{"theirs": 1}'
    assert not list(tmp_path.glob(".flux-mcp-*"))


# --- the entry -----------------------------------------------------------------------------------


@every_client
def test_the_entry_starts_this_installation_by_its_whole_path(
    client: Client, settings: Settings
) -> None:
    entry = connect(client, settings, ConnectFlags(file=Path("/nowhere/at/all"))).entry
    program = command_file(COMMAND)
    expected = [str(program)] if program else [sys.executable, "-m", "flux_mcp"]
    found = entry["command"]
    words = found if isinstance(found, list) else [found, *entry["args"]]
    assert words == [*expected, "serve"]
    assert Path(words[0]).is_absolute()
    data_dir = {"FLUX_MCP_DATA_DIR": str(settings.data_dir)}
    assert entry.get("environment" if client.id == "opencode" else "env") == data_dir


def test_what_a_variable_of_the_shell_moved_is_named_in_the_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = find_client("codex", CLIENTS)

    def env() -> dict[str, str]:
        found: dict[str, str] = connect(
            client, Settings(data_dir=default_data_dir()), ConnectFlags(file=tmp_path / "a")
        ).entry.get("env", {})
        return found

    monkeypatch.delenv("FLUX_MCP_CONFIG", raising=False)
    home = tmp_path / "home"
    for name, folder in (("HOME", home), ("XDG_DATA_HOME", home / ".local/share")):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    assert env() == {}
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert env() == {}
    moved = tmp_path / "moved"
    monkeypatch.setenv("XDG_DATA_HOME", str(moved))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(moved))
    assert env() == {"FLUX_MCP_DATA_DIR": str(default_data_dir())}, "no file is there to be found"
    users = user_config_file()
    assert users is not None
    users.parent.mkdir(parents=True)
    users.write_text("queue_limit = 3\n")
    assert env()["XDG_CONFIG_HOME"] == str(moved)


def test_the_usual_data_folder_is_named_only_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    usual = Settings(data_dir=default_data_dir())
    client = find_client("cursor", CLIENTS)
    assert "env" not in connect(client, usual, ConnectFlags(file=tmp_path / "a")).entry
    pinned = connect(client, usual, ConnectFlags(file=tmp_path / "a", pin_data_dir=True)).entry
    assert pinned["env"] == {"FLUX_MCP_DATA_DIR": str(default_data_dir())}


@every_client
def test_over_http_no_token_is_written_unless_asked(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    url = "http://192.168.0.7:9000/mcp"
    file = tmp_path / "settings"
    if client.http is None:
        with pytest.raises(UnsupportedOptionError, match="takes no URL"):
            act(client, settings, file, "write", url=url)
        return
    if client.token is None:
        with pytest.raises(UnsupportedOptionError) as refused:
            act(client, settings, file, "write", url=url)
        assert "--token-in-file" in refused.value.hint
    else:
        act(client, settings, file, "write", url=url)
        text = file.read_text()
        assert url in text
        assert "FLUX_MCP_TOKEN" in text
        assert TOKEN not in text
        assert act(client, settings, file, "remove", url=url).done
    outcome = act(client, settings, file, "write", url=url, token_in_file=True)
    assert f"Bearer {TOKEN}" in file.read_text()
    assert TOKEN not in outcome.masked(outcome.change.diff("x") if outcome.change else "")
    assert act(client, settings, file, "remove", url=url, token_in_file=True).done


def test_a_token_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    flags = ConnectFlags(file=tmp_path / "a", url="http://127.0.0.1:8421/mcp", token_in_file=True)
    with pytest.raises(InvalidRequestError) as refused:
        connect(find_client("cursor", CLIENTS), Settings(data_dir=tmp_path), flags)
    assert "FLUX_MCP_TOKEN" in refused.value.hint
    assert str(tmp_path / "tokens") in refused.value.hint


def test_the_token_of_the_server_s_own_file_will_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    load_tokens(settings)
    token = settings.paths.tokens.read_text().splitlines()[-1]
    flags = ConnectFlags(file=tmp_path / "a", url="http://127.0.0.1:8421/mcp", token_in_file=True)
    outcome = connect(find_client("cursor", CLIENTS), settings, replace(flags, task="write"))
    assert f"Bearer {token}" in (tmp_path / "a").read_text()
    assert token not in outcome.masked(json.dumps(outcome.entry))


def test_the_token_of_somebody_else_will_not_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.paths.tokens.write_text(f"ada {TOKEN}\n")
    settings.paths.tokens.chmod(0o600)
    flags = ConnectFlags(file=tmp_path / "a", url="http://127.0.0.1:8421/mcp", token_in_file=True)
    with pytest.raises(InvalidRequestError, match="there is none yet"):
        connect(find_client("cursor", CLIENTS), settings, flags)


def test_a_named_configuration_file_goes_into_the_entry(tmp_path: Path) -> None:
    named = tmp_path / "flux.toml"
    named.write_text("queue_limit = 3\n")
    entry = launch_of(Settings(config=named, data_dir=tmp_path)).env
    assert entry == {"FLUX_MCP_CONFIG": str(named), "FLUX_MCP_DATA_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ConnectFlags(name="my flux"), "no name"),
        (ConnectFlags(name=""), "no name"),
        (ConnectFlags(url="ftp://x"), "no address"),
        (ConnectFlags(url="http://127.0.0.1:8421/mcp?token=x"), "no address"),
        (ConnectFlags(token_in_file=True), "goes with --http"),
        (ConnectFlags(task="write"), "no file we know"),
        (ConnectFlags(scope="user", task="write"), "no user scope"),
    ],
)
def test_wrong_flags_are_refused(flags: ConnectFlags, message: str, settings: Settings) -> None:
    with pytest.raises(FluxMcpError, match=message) as refused:
        connect(find_client("generic", CLIENTS), settings, flags)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("entry", "ours"),
    [
        ({"command": "/a/b/flux-mcp", "args": ["serve"]}, True),
        ({"command": r"C:\x\flux-mcp.exe"}, True),
        ({"command": "python", "args": ["-m", "flux_mcp", "serve"]}, True),
        ({"command": "uvx", "args": ["flux-mcp"]}, True),
        ({"command": ["/a/flux-mcp", "serve"]}, True),
        ({"command": ["python", "-m", "flux_mcp", "serve"]}, True),
        ({"command": ["npx", "flux-other"]}, False),
        ({"command": []}, False),
        ({"serverUrl": "http://127.0.0.1:8421/mcp"}, True),
        ({"url": "http://x/mcp", "bearer_token_env_var": "FLUX_MCP_TOKEN"}, True),
        ({"command": "npx", "args": ["flux-other"]}, False),
        ({"url": "http://x/mcp"}, False),
        ({}, False),
        (None, False),
        (["flux-mcp"], False),
        ({"command": None, "args": "flux-mcp"}, False),
    ],
)
def test_our_entries_are_recognized(entry: object, *, ours: bool) -> None:
    assert is_ours(entry) is ours


def test_the_clients_own_command_has_the_same_words() -> None:
    launch = Launch("/a b/flux-mcp", env={"FLUX_MCP_DATA_DIR": "/d"})
    words = own_command(find_client("claude-code", CLIENTS), "project", "flux", launch)
    env = ("--env", "FLUX_MCP_DATA_DIR=/d")
    behind = ("flux", "--", "/a b/flux-mcp", "serve")
    assert words == ("claude", "mcp", "add", *env, "--scope", "project", *behind)
    assert own_command(find_client("zed", CLIENTS), "user", "flux", launch) == ()


# --- what single clients need --------------------------------------------------------------------


def test_codex_waits_for_the_server_before_its_first_turn(settings: Settings) -> None:
    codex = find_client("codex", CLIENTS)
    entry = connect(codex, settings, ConnectFlags()).entry
    # Without `required` its first turn waits one second only, and our start takes as long.
    assert entry["required"] is True
    assert entry["startup_timeout_sec"] >= 30
    http = connect(codex, settings, ConnectFlags(url="http://127.0.0.1:8421/mcp")).entry
    assert "required" not in http, "a server that is not running must not stop Codex"


@pytest.mark.parametrize("name", ["goose", "librechat"])
def test_yaml_is_shown_and_never_edited(name: str, settings: Settings, tmp_path: Path) -> None:
    client = find_client(name, CLIENTS)
    for url in (None, "http://127.0.0.1:8421/mcp"):
        outcome = connect(client, settings, ConnectFlags(url=url, name="no"))
        document = yaml.safe_load(snippet(client, outcome.name, outcome.entry))
        assert document == {client.key: {"no": outcome.entry}}
    file = tmp_path / "config.yaml"
    file.write_text("# mine\n")
    for flags in (ConnectFlags(file=file), ConnectFlags(task="write"), ConnectFlags(task="remove")):
        with pytest.raises(UnsupportedOptionError, match="without losing its layout") as refused:
            connect(client, settings, flags)
        assert "paste it by hand" in refused.value.hint
    assert file.read_text() == "# mine\n"


def test_a_client_that_starts_no_servers_gets_a_list_of_connections(settings: Settings) -> None:
    client = find_client("open-webui", CLIENTS)
    with pytest.raises(UnsupportedOptionError, match="starts no servers") as refused:
        connect(client, settings, ConnectFlags())
    assert "--http" in refused.value.hint
    flags = ConnectFlags(url="http://127.0.0.1:8421/mcp", token_in_file=True)
    outcome = connect(client, settings, flags)
    (connection,) = json.loads(snippet(client, outcome.name, outcome.entry))
    assert (connection["type"], connection["auth_type"]) == ("mcp", "bearer")
    assert (connection["key"], connection["info"]["id"]) == (TOKEN, "flux")
    assert TOKEN not in outcome.masked(json.dumps(connection))


# --- where each client's file is -----------------------------------------------------------------


def folders(root: Path) -> dict[str, Path]:
    return {name: root / name for name in ("home", "config", "local", "project")}


PLACES = {
    ("claude-desktop", "user"): {"any": "config/Claude/claude_desktop_config.json"},
    ("claude-code", "user"): {"any": "home/.claude.json"},
    ("claude-code", "project"): {"any": "project/.mcp.json"},
    ("cursor", "user"): {"any": "home/.cursor/mcp.json"},
    ("cursor", "project"): {"any": "project/.cursor/mcp.json"},
    ("vscode", "user"): {"any": "config/Code/User/mcp.json"},
    ("vscode", "project"): {"any": "project/.vscode/mcp.json"},
    ("windsurf", "user"): {"any": "home/.codeium/windsurf/mcp_config.json"},
    ("zed", "user"): {
        "linux": "config/zed/settings.json",
        "darwin": "home/.config/zed/settings.json",
        "win32": "config/Zed/settings.json",
    },
    ("cline", "user"): {"any": "home/.cline/data/settings/cline_mcp_settings.json"},
    ("codex", "user"): {"any": "home/.codex/config.toml"},
    ("codex", "project"): {"any": "project/.codex/config.toml"},
    ("gemini", "user"): {"any": "home/.gemini/settings.json"},
    ("gemini", "project"): {"any": "project/.gemini/settings.json"},
    ("opencode", "user"): {
        "linux": "config/opencode/opencode.json",
        "any": "home/.config/opencode/opencode.json",
    },
    ("opencode", "project"): {"any": "project/opencode.json"},
    ("lm-studio", "user"): {"any": "home/.lmstudio/mcp.json"},
    ("inspector", "user"): {"any": "home/.mcp-inspector/mcp.json"},
}


@every_client
def test_every_client_has_its_file_on_every_platform(client: Client, tmp_path: Path) -> None:
    assert {(client.id, scope) for scope in client.scopes} == {
        place for place in PLACES if place[0] == client.id
    }
    for scope in client.scopes:
        for platform in ("linux", "darwin", "win32"):
            row = PLACES[client.id, scope]
            found = config_file(client, scope, folders=folders(tmp_path), platform=platform)
            assert found == tmp_path / row.get(platform, row.get("any", ""))


def test_claude_desktop_as_a_windows_package_is_found(tmp_path: Path) -> None:
    client = find_client("claude-desktop", CLIENTS)
    known = folders(tmp_path)
    (known["config"] / "Claude").mkdir(parents=True)
    inside = Path("LocalCache", "Roaming", "Claude")
    first = known["local"] / "Packages" / "Claude_abc" / inside
    (known["local"] / "Packages" / "Claude_empty").mkdir(parents=True)
    plain = config_file(client, "user", folders=known, platform="win32")
    assert plain.parent == known["config"] / "Claude"
    first.mkdir(parents=True)
    packaged = config_file(client, "user", folders=known, platform="win32")
    assert packaged == first / "claude_desktop_config.json"
    (known["local"] / "Packages" / "Claude_xyz" / inside).mkdir(parents=True)
    with pytest.raises(InvalidRequestError, match=r"Claude_abc.*Claude_xyz"):
        config_file(client, "user", folders=known, platform="win32")


def test_a_variable_of_the_client_moves_the_users_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {
        ("codex", "CODEX_HOME"): tmp_path / "moved" / "config.toml",
        ("cline", "CLINE_MCP_SETTINGS_PATH"): tmp_path / "moved",
        ("inspector", "MCP_CATALOG_PATH"): tmp_path / "moved",
    }
    for (name, variable), file in moved.items():
        client = find_client(name, CLIENTS)
        monkeypatch.setenv(variable, "")
        before = config_file(client, "user", folders=folders(tmp_path))
        monkeypatch.setenv(variable, str(tmp_path / "moved"))
        assert config_file(client, "user", folders=folders(tmp_path)) == file != before
    codex = find_client("codex", CLIENTS)
    project = config_file(codex, "project", folders=folders(tmp_path))
    assert project == tmp_path / "project" / ".codex" / "config.toml"


def test_an_unknown_platform_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOptionError) as refused:
        config_file(find_client("zed", CLIENTS), "user", folders={}, platform="plan9")
    assert "--file" in refused.value.hint


def test_a_client_seems_installed_by_its_file_or_its_folder(tmp_path: Path) -> None:
    known = folders(tmp_path)
    known["home"].mkdir()
    in_home, own = known["home"] / ".claude.json", known["home"] / ".cursor" / "mcp.json"
    assert not seems_installed(in_home, known)
    assert not seems_installed(own, known)
    in_home.write_text("{}")
    own.parent.mkdir()
    assert seems_installed(in_home, known)
    assert seems_installed(own, known)


def test_the_list_says_which_are_connected_and_which_cannot_be_read(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    for folder in (home / ".cursor", home / ".codex", home / ".gemini", project):
        folder.mkdir(parents=True)
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(project)
    launch = Launch("/old/flux-mcp")
    connect(find_client("cursor", CLIENTS), settings, ConnectFlags(task="write"))
    act(find_client("gemini", CLIENTS), settings, home / ".gemini" / "settings.json", "write",
        url="http://127.0.0.1:9999/mcp")  # fmt: skip
    old = {"mcpServers": {"flux": stdio_entry(find_client("claude-code", CLIENTS), "flux", launch)}}
    (project / ".mcp.json").write_text(json.dumps(old))
    (home / ".codex" / "config.toml").write_text("= 1")
    found = {
        (one.client.id, one.scope): (one.installed, one.status)
        for one in survey(CLIENTS, settings, "flux")
    }
    assert found["cursor", "user"] == (True, "current")
    assert found["gemini", "user"] == (True, "current"), "an entry over HTTP is up to date, too"
    assert found["claude-code", "user"] == (False, "absent")
    assert found["claude-code", "project"] == (True, "differs")
    assert found["codex", "user"] == (True, None)
    assert ("codex", "project") not in found
    assert "generic" not in {name for name, _ in found}
