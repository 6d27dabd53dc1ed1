"""Where this package is installed: in a checkout or not, and how its commands are called."""

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def default_data_dir() -> Path:
    """`data/` in a checkout, else the platform's folder for a user's data."""
    checkout = _checkout()
    if checkout is not None:
        return checkout / "data"
    return _user_folder(platformdirs.user_data_dir, ".local/share")


def user_config_dir() -> Path | None:
    """Return the platform's folder for a user's configuration; `None` where there is no home."""
    folder = _user_folder(platformdirs.user_config_dir, ".config")
    try:
        return folder.expanduser()
    except RuntimeError:  # neither HOME nor a passwd entry
        return None


def user_pictures_dirs() -> tuple[Path, ...]:
    """`Pictures` in the user's home; nothing where there is no home that can be named."""
    try:
        folder = Path.home() / "Pictures"
        str(folder).encode()
    except (RuntimeError, UnicodeEncodeError):
        return ()
    return (folder,)


def _user_folder(of_platform: Callable[..., str], usual: str) -> Path:
    """Return a folder of this program; it begins with `~` where there is no home.

    A relative XDG variable is ignored, as its specification says (XDG base directories 0.8).
    """
    name = "flux-mcp"
    try:
        folder = Path(of_platform(name, appauthor=False))
    except RuntimeError:
        return Path("~", usual, name)
    return folder if folder.is_absolute() else Path("~", usual, name)


def default_packs_dir() -> Path:
    """`packs/` in a checkout, else the copy inside the installed package."""
    return (_checkout() or PACKAGE_DIR) / "packs"


def _checkout() -> Path | None:
    folder = PACKAGE_DIR.parents[1]
    is_ours = (folder / "pyproject.toml").is_file() and (folder / "mcp.json").is_file()
    return folder if is_ours else None


def command_path(name: str) -> str:
    """Return how a person calls a command that was installed with us.

    By name where that works, as `.venv/bin/...` in a checkout's folder, else by its whole path.
    """
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) or not beside.exists():
        return name
    return _as_typed(beside)


def own_command(words: str, data_dir: Path) -> str:
    """Return a command of ours for a person to copy, on the data folder that this process uses."""
    # A person's shell does not have the environment in which a client starts its server.
    is_usual = data_dir == default_data_dir()
    place = "" if is_usual else f" --data-dir {shlex.quote(str(data_dir))}"
    return f"{command_path('flux-mcp')} {words}{place}"


def _as_typed(path: Path) -> str:
    """Return a program's path as a person types it: `.venv/bin/...` in a checkout's folder."""
    try:
        here = Path.cwd()
    except OSError:
        return str(path)  # the folder this process was started in was removed
    in_checkout = len(path.parents) > 2 and path.parents[2] == here  # noqa: PLR2004
    return str(path.relative_to(here)) if in_checkout else str(path)


def install_command(*requirements: str) -> str:
    """Return the command that installs packages beside this one, for a person to copy.

    It names packages, never this distribution: what an index has under its name need not be ours.

    Args:
        requirements: As pip takes them, such as `gguf>=0.17.0`.
    """
    wanted = " ".join(f"'{one}'" if re.search(r"[<>=\[ ]", one) else one for one in requirements)
    python = Path(sys.executable)
    pip = python.with_name("pip.exe" if sys.platform == "win32" else "pip")
    if pip.exists():
        return f"{_as_typed(pip)} install {wanted}"
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {_as_typed(python)} {wanted}"
    return f"{_as_typed(python)} -m pip install {wanted}"


def command_file(name: str) -> Path | None:
    """Return the whole path of a command that was installed with us; None if there is none.

    Not resolved: the link in a virtual environment is what stays when Python is upgraded.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    beside = Path(sys.executable).with_name(f"{name}{suffix}")
    found = str(beside) if beside.exists() else shutil.which(name)
    return Path(found).absolute() if found else None


def platform_name() -> str:
    """Return the operating system and Python version, for provenance and `doctor`."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"{sys.platform} python-{version}"
