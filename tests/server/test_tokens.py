"""Whose token is whose, and the file they are kept in."""

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from flux_mcp.errors import TokenFileError
from flux_mcp.principals import LOCAL
from flux_mcp.server.transports.tokens import Tokens, load_tokens, token_file
from flux_mcp.settings.settings import Settings

ADA, BOB = "a" * 24, "b" * 24

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")


def write(settings: Settings, text: str, mode: int = 0o600) -> Path:
    path = settings.paths.tokens
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@posix
def test_the_first_start_makes_a_token_that_only_the_owner_can_read(settings: Settings) -> None:
    previous = os.umask(0)
    try:
        load_tokens(settings)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(settings.paths.tokens.stat().st_mode) == 0o600
    token = settings.paths.tokens.read_text().splitlines()[-1]
    assert len(token) >= 43  # 256 bits
    assert load_tokens(settings).principal_of(token) == LOCAL


def test_each_data_folder_gets_a_token_of_its_own(tmp_path: Path) -> None:
    made = set()
    for name in ("one", "two"):
        settings = Settings(data_dir=tmp_path / name)
        load_tokens(settings)
        made.add(settings.paths.tokens.read_text())
    assert len(made) == 2


def test_a_second_start_keeps_the_tokens(settings: Settings) -> None:
    load_tokens(settings)
    before = settings.paths.tokens.read_bytes()
    load_tokens(settings)
    assert settings.paths.tokens.read_bytes() == before


def test_names_and_comments(settings: Settings) -> None:
    write(settings, f"# people\n\nada {ADA}\n  bob\t{BOB}  \n{'c' * 24}\n")
    tokens = load_tokens(settings)
    assert tokens.principal_of(ADA) == "ada"
    assert tokens.principal_of(BOB) == "bob"
    assert tokens.principal_of("c" * 24) == LOCAL
    for other in ("", "ada", "#", ADA[:-1], ADA + "a", ADA.upper(), f"ada {ADA}", "# people"):
        assert tokens.principal_of(other) is None


def test_one_name_may_have_several_tokens(settings: Settings) -> None:
    write(settings, f"ada {ADA}\nada {BOB}\n")
    tokens = load_tokens(settings)
    assert {tokens.principal_of(ADA), tokens.principal_of(BOB)} == {"ada"}


def test_a_token_in_the_settings_stands_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", token=SecretStr(ADA))
    assert load_tokens(settings).principal_of(ADA) == LOCAL
    assert not settings.paths.tokens.exists()
    assert ADA not in repr(settings)


def test_another_file_can_be_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", token_file=tmp_path / "etc" / "people")
    load_tokens(settings)
    assert token_file(settings).is_file()
    assert not settings.paths.tokens.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# nothing\n\n", "holds no token"),
        ("short\n", "line 1: the token is shorter than 16"),
        (f"{ADA}\nada short\n", "line 2: the token is shorter than 16"),
        (f"ada {ADA} admin\n", "line 1: there are more than two words"),
        (f"ada! {ADA}\n", "line 1: the name may hold"),
        (f"{'n' * 65} {ADA}\n", "line 1: the name may hold"),
        (f"ada {'ä' * 24}\n", "line 1: the token holds characters"),
        (f"ada {ADA}\nbob {ADA}\n", "line 2: the token stands there twice"),
    ],
)
def test_a_wrong_line_is_named_and_never_shown(settings: Settings, text: str, said: str) -> None:
    write(settings, text)
    with pytest.raises(TokenFileError, match=said) as caught:
        load_tokens(settings)
    assert ADA not in str(caught.value)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_fix(settings: Settings, mode: int) -> None:
    write(settings, f"{ADA}\n", mode)
    with pytest.raises(TokenFileError, match="chmod 600"):
        load_tokens(settings)


def test_a_file_that_is_no_text_is_refused(settings: Settings) -> None:
    path = write(settings, "")
    path.write_bytes(b"\xff\xfe" + ADA.encode())
    with pytest.raises(TokenFileError, match="cannot be read"):
        load_tokens(settings)


def test_a_folder_in_its_place_is_refused(settings: Settings) -> None:
    settings.paths.tokens.mkdir(parents=True, mode=0o700)
    with pytest.raises(TokenFileError, match="cannot be read"):
        load_tokens(settings)


@given(st.text())
def test_any_text_is_nobodys_token(text: str) -> None:
    tokens = Tokens({ADA: "ada"})
    assert tokens.principal_of(text) == ("ada" if text == ADA else None)
