"""`flux-mcp connect`; and the entry it writes, used by the SDK's client."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from flux_mcp.settings.installation import command_file

from .processes import Cli, Ended

TOKEN = "a-token-of-thirty-two-characters"  # noqa: S105  (admitted nowhere)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def cli(tmp_path: Path, home: Path, weights_dir: Path) -> Cli:
    names = ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "APPDATA", "LOCALAPPDATA")
    moving = dict.fromkeys(("CODEX_HOME", "CLINE_MCP_SETTINGS_PATH", "MCP_CATALOG_PATH"), "")
    return Cli(tmp_path / "data", weights_dir, **dict.fromkeys(names, str(home)), **moving)


def clean(ended: Ended) -> Ended:
    assert ended.code == 0, ended
    assert all(line.startswith("Note: ") for line in ended.err.splitlines()), ended
    return ended


def test_connecting_needs_no_torch_no_server_and_no_database(cli: Cli, home: Path) -> None:
    heavy = {"torch", "diffusers", "transformers", "mcp", "sqlite3", "sqlite_utils", "numpy", "PIL"}
    words = ([], ["cursor", "--write"], ["codex", "--write"], ["codex", "--remove"])
    assert not heavy & cli.imports(*(("connect", *one) for one in words))
    assert not cli.data_dir.exists(), "connecting makes no data folder"
    assert (home / ".cursor" / "mcp.json").exists()


def test_the_list_names_every_client_with_its_file(cli: Cli, home: Path) -> None:
    clean(cli("connect", "cursor", "--write"))
    out = clean(cli("connect", COLUMNS="200")).out
    assert re.search(rf"^cursor +yes +connected +{re.escape(str(home))}", out, re.MULTILINE)
    assert re.search(r"^claude-desktop +- +no entry ", out, re.MULTILINE)
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text("x = = 1")
    lines = {one["client"]: one for one in clean(cli("connect", "--json")).json["clients"]}
    assert (lines["cursor"]["status"], lines["cursor"]["installed"]) == ("current", True)
    assert lines["codex"]["status"] is None
    assert "Line 1, column 4" in lines["codex"]["problem"]
    assert lines["zed"]["problem"] is None


def test_a_client_is_shown_written_and_taken_out_again(cli: Cli, home: Path) -> None:
    file = home / ".cursor" / "mcp.json"
    file.parent.mkdir()
    text = '{\n  // mine\n  "mcpServers": {\n    "other": {"command": "x"}\n  }\n}\n'
    file.write_text(text)
    shown = clean(cli("connect", "cursor", FLUX_MCP_QUEUE_LIMIT="3"))
    assert "Note: Set in this shell, and not in the entry: FLUX_MCP_" in shown.err
    assert "FLUX_MCP_QUEUE_LIMIT" in shown.err
    assert f"File: {file} (user)" in shown.out
    assert '+    "flux": {' in shown.out
    assert "Nothing was written. --write does it." in shown.out
    assert file.read_text() == text
    written = clean(cli("connect", "cursor", "--write", "--json")).json
    assert (written["changed"], written["status"]) == (True, "absent")
    assert Path(written["backup"]).read_text() == text
    assert f'"command": "{written["entry"]["command"]}"' in file.read_text()
    again = clean(cli("connect", "cursor", "--write"))
    assert "has this entry already: nothing to change" in again.out
    assert len(list(file.parent.iterdir())) == 2
    removed = clean(cli("connect", "cursor", "--remove"))
    assert '-    "flux": {' in removed.out
    assert file.read_text() == text


def test_an_entry_in_the_way_is_a_conflict_until_replace(cli: Cli, home: Path) -> None:
    clean(cli("connect", "codex", "--write", "--data-dir", str(home / "elsewhere")))
    shown = clean(cli("connect", "codex"))
    assert "-env = {FLUX_MCP_DATA_DIR" in shown.out.replace("{ ", "{")
    assert "--write --replace puts ours in its place" in shown.out
    ended = cli("connect", "codex", "--write")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("[entry_conflict] ")
    clean(cli("connect", "codex", "--write", "--replace"))
    found = tomllib.loads((home / ".codex" / "config.toml").read_text())
    assert found["mcp_servers"]["flux"]["env"] == {"FLUX_MCP_DATA_DIR": str(cli.data_dir)}


def test_a_broken_file_is_named_with_its_place(cli: Cli, home: Path) -> None:
    file = home / ".gemini" / "settings.json"
    file.parent.mkdir()
    file.write_text('{\n  "a": 1\n  "b": 2\n}\n')
    ended = cli("connect", "gemini", "--write")
    assert ended.code == 2
    assert f"[invalid_client_file] {file}: Line 3, column 3: " in ended.err
    assert list(file.parent.iterdir()) == [file]


def test_over_http_the_token_is_seen_nowhere_but_in_a_file_that_was_asked_for(
    cli: Cli, home: Path
) -> None:
    stated = {"FLUX_MCP_TOKEN": TOKEN}
    named = clean(cli("connect", "cursor", "--http", "--write", **stated))
    assert "${env:FLUX_MCP_TOKEN}" in (home / ".cursor" / "mcp.json").read_text()
    refused = cli("connect", "zed", "--http", "--write", **stated)
    assert (refused.code, refused.out) == (2, "")
    assert "--token-in-file" in refused.err
    written = clean(cli("connect", "zed", "--http", "--token-in-file", "--write", **stated))
    file = next(home.rglob("settings.json"))
    assert json.loads(file.read_text())["context_servers"]["flux"] == {
        "url": "http://127.0.0.1:8421/mcp",
        "headers": {"Authorization": f"Bearer {TOKEN}"},
    }
    as_json = cli("connect", "zed", "--http", "--token-in-file", "--json", **stated)
    shown = cli("connect", "zed")
    removed = cli("connect", "zed", "--remove")
    for ended in (named, written, as_json, shown, removed):
        clean(ended)
        assert TOKEN not in ended.out
    assert "Bearer <hidden>" in removed.out
    assert "<FLUX_MCP_TOKEN>" in written.out
    assert as_json.json["entry"]["headers"] == {"Authorization": "Bearer <FLUX_MCP_TOKEN>"}


def test_claude_desktop_takes_no_url_and_says_what_to_do(cli: Cli) -> None:
    ended = cli("connect", "claude-desktop", "--http", "--write")
    assert ended.code == 2
    assert "takes no URL in it. Leave out --http" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cursr"], "Did you mean 'cursor'?"),
        (["--write"], "Which client?"),
        (["cursor", "--write", "--remove"], "exclude each other"),
        (["cursor", "--url", "http://x"], "--url goes with --http"),
        (["cursor", "--name", "a b"], "no name for a server"),
        (["windsurf", "--scope", "project"], "no project scope"),
        (["generic", "--write"], "Name it with --file"),
        (["goose", "--write"], "prints the entry: paste it by hand"),
    ],
)
def test_wrong_calls_are_refused(cli: Cli, words: list[str], message: str) -> None:
    ended = cli("connect", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_generic_prints_a_document_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    printed = clean(cli("connect", "generic", "--name", "images"))
    assert list(json.loads(printed.out)["mcpServers"]) == ["images"]
    assert "Note: Put the document where" in printed.err
    file = tmp_path / "any.json"
    clean(cli("connect", "generic", "--name", "images", "--file", str(file), "--write"))
    assert file.read_text() == printed.out


# --- the entry at work ---------------------------------------------------------------------------


def written_entry(cli: Cli, file: Path, *words: str) -> dict[str, Any]:
    clean(cli("connect", *words, "--write"))
    entry: dict[str, Any] = json.loads(file.read_text())["mcpServers"]["flux"]
    return entry


@pytest.mark.anyio
@pytest.mark.skipif(command_file("flux-mcp") is None, reason="flux-mcp is not installed here")
async def test_an_sdk_client_gets_the_eight_tools_from_the_entry_of_every_project_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = written_entry(cli, tmp_path / "any.json", "generic", "--file", "any.json")
    claude_code = ("claude-code", "--scope", "project")
    project = written_entry(cli, tmp_path / ".mcp.json", *claude_code)
    assert {**project, "type": None} == {**written, "type": None}
    environment = {**os.environ, **written["env"]}
    parameters = StdioServerParameters(
        command=written["command"], args=written["args"], env=environment, cwd=tmp_path
    )
    async with Client(stdio_client(parameters)) as connection:
        assert len((await connection.list_tools()).tools) == 8
        assert connection.server_info.name == "flux-mcp"
        await connection.call_tool("flux_get_job", {})
        assert cli.data_dir.is_dir(), "the entry names the data folder"
