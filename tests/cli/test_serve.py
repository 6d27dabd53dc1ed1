"""`flux-mcp serve`: a plain call is read without typer, as typer would read it.

tests/server/test_start.py keeps what is imported before the first answer.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.cli.app import load
from flux_mcp.cli.entry import SWITCHES, VALUES, plain_serve_flags

from .processes import Cli


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


def read_by_typer(*words: str) -> dict[str, str]:
    """Return the flags that the command itself would be called with."""
    context: Any = load("serve").make_context("serve", list(words))
    return {name: str(value) for name, value in context.params.items() if value is not None}


def test_the_plain_flags_are_those_of_the_command() -> None:
    flags = {param.name: param for param in load("serve").params}
    assert set(flags) == {*VALUES, *SWITCHES}
    for name, flag in flags.items():
        assert (flag.opts, flag.secondary_opts) == ([f"--{name.replace('_', '-')}"], [])
        assert flag.is_flag == (name in SWITCHES), name


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--data-dir /a/b --config=c.toml --preload --log-level debug",
        "--transport http --host ::1 --port 0 --sse --loopback-without-token",
        "--data-dir=/a=b",
        "--port=8421",
        "--host sse",
    ],
)
def test_a_plain_call_is_read_as_typer_reads_it(words: str) -> None:
    plain = plain_serve_flags(["serve", *words.split()])
    assert plain is not None
    assert {name: str(value) for name, value in plain.items()} == read_by_typer(*words.split())


@pytest.mark.parametrize(
    "words",
    [
        "",
        "jobs list",
        "--version",
        "serve --help",
        "serve -h",
        "serve stray",
        "serve --nothing 1",
        "serve --data_dir /a",
        "serve --port",
        "serve --port= --sse",
        "serve --port many",
        "serve --port -1",
        "serve --sse=1",
        "serve --host --sse",
        "serve --host a --host b",
        "serve --data-dir ~/data",
        "serve --data-dir $HOME",
        "serve -- --sse",
    ],
)
def test_any_other_call_is_left_to_typer(words: str) -> None:
    assert plain_serve_flags(words.split()) is None


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "by typer"])
def test_settings_that_cannot_be_used_are_told_either_way(cli: Cli, *, plain: bool) -> None:
    flags = ("--log-level", "loud", *(() if plain else ("--log-level", "loud")))
    ended = cli.process("serve", *flags)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("--log-level: Input should be 'debug', ")
    assert "Traceback" not in ended.err


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_that_is_taken_ends_it_with_a_sentence(cli: Cli, taken_port: int) -> None:
    ended = cli.process("serve", "--transport", "http", "--port", str(taken_port))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith(f"[address] 127.0.0.1, port {taken_port}, cannot")
    assert "Traceback" not in ended.err
