"""Commands where something around them is missing: streams, a home, a locale, a width."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.cli.entry import open_missing_streams
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.environment import forget_unusable_width
from flux_mcp.settings.settings import Settings

from .processes import Cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells and locales")
PROMPT = "a blue square \N{LARGE BLUE SQUARE}"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> Cli:
    """A data folder with one job in it."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("around") / "data", weights_dir=weights_dir
    )

    async def submit() -> None:
        service = Service(settings, executes=False)
        await service.submit(GenerateRequest(prompt=PROMPT))
        await service.close()

    asyncio.run(submit())
    return Cli(settings.data_dir, weights_dir)


def in_a_shell(cli: Cli, tail: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command as a shell does that closes or moves its streams."""
    command = ["sh", "-c", f'"$@" {tail}', "sh", *cli.command(*words)]
    # Bytes: what a terminal in that locale would get.
    return subprocess.run(
        command, env=cli.environment(**environment), capture_output=True, check=False
    )


def test_a_terminal_that_knows_ascii_only_and_has_no_width_shows_everything(cli: Cli) -> None:
    shown = in_a_shell(cli, "", "jobs", "list", "--all", COLUMNS="0", **ASCII)
    assert shown.returncode == 0
    (note,) = shown.stderr.splitlines()
    assert note.startswith(b"Note: No process runs the jobs")
    assert b"a blue square \\U0001f7e6" in shown.stdout


def test_closed_streams_end_no_command_and_hide_no_exit_code(cli: Cli) -> None:
    assert in_a_shell(cli, "<&- >&- 2>&-", "jobs", "list", "--all").returncode == 0
    assert in_a_shell(cli, "2>&-", "jobs", "show", "job_nowhere").returncode == 2


def test_a_folder_of_another_encoding_is_refused_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "d\N{LATIN SMALL LETTER A WITH DIAERESIS}ta").decode("latin-1")
    refused = in_a_shell(cli, "", "jobs", "list", "--data-dir", folder, **ASCII)
    assert refused.returncode == 2
    (line,) = refused.stderr.decode().splitlines()
    assert line.startswith("--data-dir: ")
    assert "PYTHONUTF8=1" in line


def test_a_closed_stream_becomes_the_null_device_and_no_file_gets_its_number(
    tmp_path: Path,
) -> None:
    program = (
        "import sys\n"
        "from flux_mcp.cli.entry import open_missing_streams\n"
        "assert sys.stderr is None\n"
        "open_missing_streams()\n"
        "sys.stderr.write('lost')\n"
        f"assert open({str(tmp_path / 'a')!r}, 'w').fileno() > 2\n"
    )
    command = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, check=False).returncode == 0
    before = sys.stdin, sys.stdout, sys.stderr
    open_missing_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("given", "kept"), [("0", None), ("-5", None), ("wide", None), ("", None), ("40", "40")]
)
def test_a_width_that_nothing_fits_into_is_forgotten(
    given: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", given)
    forget_unusable_width()
    assert os.environ.get("COLUMNS") == kept
