"""How commands are called, and how packages are installed beside this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from flux_mcp.settings import installation
from flux_mcp.settings.installation import command_path, install_command
from flux_mcp.settings.settings import Settings
from flux_mcp.settings.sources import problems_of


def python_in(folder: Path, *, has_pip: bool) -> Path:
    scripts = folder / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", *(("pip",) if has_pip else ())):
        (scripts / name).touch()
    return scripts / "python"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX paths")
@pytest.mark.parametrize(
    ("has_pip", "finds_pip", "expected"),
    [
        (True, True, ".venv/bin/pip install 'gguf>=0.17.0' torchao"),
        (False, True, ".venv/bin/python -m pip install 'gguf>=0.17.0' torchao"),
        (False, False, "uv pip install --python .venv/bin/python 'gguf>=0.17.0' torchao"),
    ],
)
def test_packages_are_installed_where_this_python_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_pip: bool,
    finds_pip: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "executable", str(python_in(tmp_path, has_pip=has_pip)))
    monkeypatch.setattr(
        installation.importlib.util, "find_spec", lambda _name: object() if finds_pip else None
    )
    monkeypatch.chdir(tmp_path)
    assert install_command("gguf>=0.17.0", "torchao") == expected
    monkeypatch.chdir("/")
    assert str(tmp_path) in install_command("torchao")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in passwd, as containers have them."""

    def getpwuid(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "FLUX_MCP_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("FLUX_MCP_CONFIG", raising=False)
    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.setattr(installation, "_checkout", lambda: None)


@pytest.mark.skipif(sys.platform == "win32", reason="passwd")
@pytest.mark.usefixtures("no_home")
def test_without_a_home_only_the_data_folder_must_be_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.allowed_dirs == ()
    assert settings.models_file == Path(os.devnull)
    with pytest.raises(ValidationError, match="there is no home folder") as refused:
        Settings()
    assert [one.split(":")[0] for one in problems_of(refused.value, {})] == ["FLUX_MCP_DATA_DIR"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="XDG")
def test_a_relative_xdg_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_checkout", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert installation.default_data_dir().expanduser() == tmp_path / ".local/share/flux-mcp"
    assert installation.user_config_dir() == tmp_path / ".config/flux-mcp"


def test_a_home_in_another_encoding_is_no_folder_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/h\udce4m")
    assert installation.user_pictures_dirs() == ()


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_working_folder_that_was_removed_is_no_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        f"import os, shutil; shutil.rmtree({str(gone)!r}); "
        "from flux_mcp.settings.installation import command_path, install_command; "
        "print(command_path('flux-mcp'), install_command('torchao'))"
    )
    environment = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=gone, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "install torchao" in done.stdout
    assert command_path("flux-mcp")
