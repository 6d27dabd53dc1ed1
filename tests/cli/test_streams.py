"""What goes to which stream, what `-` reads, what the shell completes, and how narrow it may be."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.cli.app import command_tree
from flux_mcp.cli.common import print_table
from flux_mcp.service.service import Service
from tests.jobs.factories import make_plan_row
from tests.server.images import keep_image, noise, queue_job

from .processes import Cli


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Cli:
    return Cli(tmp_path_factory.mktemp("streams") / "data", weights_dir)


@pytest.fixture(scope="module")
def ids(cli: Cli) -> tuple[str, str, str]:
    """Two waiting jobs, and an image."""

    async def fill(service: Service) -> tuple[str, str, str]:
        plan = make_plan_row(kind="kontext", model="flux1-kontext-dev")
        first, second = [await queue_job(service, plan=plan) for _ in range(2)]
        image = await keep_image(service, noise(16, 16), 16, 16, prompt="a fox")
        return first.id, second.id, image.id

    filled: tuple[str, str, str] = cli.prepare(fill)
    return filled


def saying(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("jobs show job_x", 2, "unknown_job"),
        ("jobs show", 2, "usage"),
        ("jobs list --limit many --all", 2, "usage"),
        ("jobs lits", 2, "usage"),
        ("gallery search --cursor x", 2, "invalid_cursor"),
        ("gallery search --kind poem", 2, "invalid_request"),
        ("generate x --model flux1-dev", 1, "weights_missing"),
        ("generate x --width 100 --height 100", 2, "invalid_size"),
        ("models info nothing", 2, "unknown_model"),
        ("models pull --for banana", 2, "invalid_request"),
        ("models pull flux1-dev", 2, "invalid_request"),
        ("models plan --vram 1", 3, "too_little_memory"),
        ("loras show nothing", 2, "unknown_lora"),
        ("packs show nothing", 2, "unknown_pack"),
        ("connect nothing", 2, "invalid_request"),
    ],
)
def test_with_json_a_mistake_is_one_document_as_well(
    cli: Cli, words: str, code: int, error: str
) -> None:
    ended = cli(*words.split(), "--json")
    assert ended.code == code, ended.err
    assert set(ended.json["error"]) == {"code", "message", "hint"}
    assert ended.json["error"]["code"] == error
    assert ended.json["error"]["message"] in " ".join(ended.err.split())


def test_a_setting_that_cannot_be_used_is_one_document_as_well(cli: Cli) -> None:
    ended = cli("jobs", "list", "--json", FLUX_MCP_QUEUE_LIMIT="many")
    assert (ended.code, ended.json["error"]["code"]) == (2, "invalid_settings")
    assert "FLUX_MCP_QUEUE_LIMIT" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("jobs list", "jobs"),
        ("jobs list --all", "jobs"),
        ("gallery search", "images"),
        ("models list", "models"),
        ("loras list", "loras"),
        ("packs list", "packs"),
        ("packs compose micro-shapes", "prompts"),
        ("packs compose micro-shapes --count 2", "prompts"),
        ("connect", "clients"),
    ],
)
def test_a_list_is_a_value_by_the_name_of_what_it_lists(cli: Cli, words: str, key: str) -> None:
    ended = cli(*words.split(), "--json")
    assert ended.code == 0, ended.err
    assert isinstance(ended.json[key], list)


# --- standard input ----------------------------------------------------------------------------


def test_a_dash_reads_prompts_and_ids(
    cli: Cli, ids: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, image = ids
    saying(monkeypatch, "ein rotes Rad, 青い\n".encode())
    planned = cli("generate", "-", "--dry-run", "--json").json
    assert planned["plan"]["prompt"] == "ein rotes Rad, 青い"
    saying(monkeypatch, f"{image}\n".encode())
    assert cli("gallery", "show", "-", "--json").json["id"] == image
    saying(monkeypatch, f"{first} {second}".encode())
    several = cli("jobs", "show", "-")
    assert (several.code, several.out) == (2, "")
    assert "has 2 words" in several.err
    saying(monkeypatch, b"\xff\xfe")
    assert "is no text" in cli("generate", "-", "--dry-run").err
    saying(monkeypatch, f"{first}\njob_x\n".encode())
    assert cli("jobs", "cancel", "-").code == 2
    waiting = {job["job_id"] for job in cli("jobs", "list", "--json").json["jobs"]}
    assert waiting == {first, second}, "one wrong id, and none is cancelled"


# --- completion --------------------------------------------------------------------------------


def params(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for one in command.params:
        yield path, one
    for name, below in getattr(command, "commands", {}).items():
        yield from params(below, f"{path} {name}".strip())


def offered(cli: Cli, path: str, name: str, begun: str = "") -> list[str]:
    """Return what a parameter of a command offers."""
    (found,) = [one for where, one in params(command_tree()) if (where, one.name) == (path, name)]

    class Context:
        params = {"data_dir": cli.data_dir}  # noqa: RUF012 - as typer has it

    return [item.value for item in found.shell_complete(Context(), begun)]


def test_values_complete_to_what_there_is(cli: Cli, ids: tuple[str, str, str]) -> None:
    first, second, image = ids
    assert set(offered(cli, "jobs show", "job_id")) == {first, second}
    assert offered(cli, "jobs cancel", "job_ids", first) == [first]
    assert offered(cli, "gallery show", "image_id") == [image]
    assert "flux1-dev" in offered(cli, "generate", "model", "flux1-")
    assert "flux2-dev" not in offered(cli, "models pull", "models", "flux1-")
    assert offered(cli, "generate", "quality") == ["low", "standard", "high"]
    assert offered(cli, "models plan", "quality", "h") == ["high"]
    assert "micro-shapes" in offered(cli, "packs show", "name")
    assert "claude-code" in offered(cli, "connect", "client", "claude")
    assert offered(cli, "gallery search", "kind", "e") == ["edit"]


def test_completing_writes_nothing_and_breaks_on_nothing(tmp_path: Path, weights_dir: Path) -> None:
    nowhere = Cli(tmp_path / "none", weights_dir)
    assert offered(nowhere, "jobs show", "job_id") == []
    assert not nowhere.data_dir.exists()


# --- words and widths --------------------------------------------------------------------------


LISTS = ("jobs list", "jobs list --all", "models list", "connect", "packs list", "gallery search")
LISTS = (*LISTS, "doctor --vram 12", "models plan --vram 12", "models info flux1-redux-dev")


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize("words", LISTS)
def test_no_table_breaks_or_cuts_a_word(
    cli: Cli, ids: tuple[str, str, str], words: str, columns: str
) -> None:
    narrow, wide = [cli(*words.split(), COLUMNS=one).out for one in (columns, "400")]
    known = set(wide.split())
    # Prompts may be cut at the end of a line; nothing else is.
    broken = {
        word
        for word in narrow.split()
        if word not in known and not word.endswith("…") and not re.fullmatch(r"[\d.]+", word)
    }
    headers = {"file", "here", "entry", "status", "kind", "kinds", "model", "licence", "time"}
    assert broken <= headers, broken
    for one in ids[:2] if words.startswith("jobs") else ():
        assert one in narrow


def test_people_read_the_tools_names_and_programs_the_kinds(
    cli: Cli, ids: tuple[str, str, str]
) -> None:
    told = [cli(*words.split()).out for words in (*LISTS, f"jobs show {ids[0]}")]
    for word in ("text2img", "kontext", "redux"):
        for text in told:
            assert word not in text.replace("flux1-kontext", "").replace("flux1-redux", "").replace(
                "FLUX.1-Kontext", ""
            ).replace("FLUX.1-Redux", "")
    assert "  edit  " in told[0]
    assert cli("jobs", "list", "--json").json["jobs"][0]["kind"] == "kontext"
    assert cli("models", "plan", "--vram", "24", "--kind", "edit", "--json").json["kind"] == (
        "kontext"
    )
    assert cli("gallery", "search", "--kind", "generate", "--json").json["images"]


def test_a_table_without_room_becomes_a_block_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("a-model", "8.5", "of some words"), ("b", "10", "")]
    monkeypatch.setenv("COLUMNS", "60")
    print_table(("id", "GiB", "about"), rows, right=("GiB",))
    assert capsys.readouterr().out.splitlines() == [
        "id       GiB  about",
        "a-model  8.5  of some words",
        "b         10",
    ]
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("id", "GiB", "about"), rows, right=("GiB",))
    assert capsys.readouterr().out.splitlines() == [
        "a-model", "  GiB    8.5", "  about  of some", "         words", "b", "  GiB    10",
    ]  # fmt: skip


def test_notices_go_to_stderr(cli: Cli) -> None:
    ended = cli("generate", "a circle", "--dry-run")
    assert "Note: " not in ended.out
    assert "Note: micro is a demo" in ended.err
    assert json.loads(cli("generate", "a circle", "--dry-run", "--json").out)["notices"]
