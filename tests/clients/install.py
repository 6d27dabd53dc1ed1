"""Install the clients, each into a folder of its own: python -m tests.clients.install.

What is there already, and was made from the same pins, is left as it is. `--lock` pins everything
that the packages of clients.toml need, for the Python that runs this, and installs nothing.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"
MODULES = HERE / "node_modules"
UV = "uv==0.13.8"
"""Installs hundreds of packages in seconds, those that several clients share once."""


@dataclass(frozen=True)
class ClientRow:
    """One client of clients.toml."""

    id: str
    title: str
    package: str
    program: str
    slow_s: int
    requires: tuple[str, ...] = ()
    limit_s: int | None = None

    @property
    def lock(self) -> Path:
        """Everything that a Python client needs, pinned."""
        return HERE / "requirements" / f"{self.id}.txt"

    @property
    def environment(self) -> Path:
        """The virtual environment of a Python client."""
        return ENVIRONMENTS / self.id


def client_rows() -> tuple[ClientRow, ...]:
    """Return the clients in the order of the file."""
    text = (HERE / "clients.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["client"]
    return tuple(ClientRow(**{**row, "requires": tuple(row.get("requires", ()))}) for row in rows)


def pinned_version(row: ClientRow) -> str:
    """Return the version that a client is pinned to."""
    if row.requires:
        locked = row.lock.read_text(encoding="utf-8").splitlines()
        pins = dict(line.split(" ;")[0].split("==") for line in locked)
    else:
        package = json.loads((HERE / "package.json").read_text(encoding="utf-8"))
        pins = package["dependencies"] | package["optionalDependencies"]
    return pins[row.package].rpartition("@")[2].strip()


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _uv() -> tuple[str, ...]:
    """Return the command of uv, installed if it is not there."""
    home = ENVIRONMENTS / UV
    program = home / "bin" / "uv"
    if not program.exists():
        _run(sys.executable, "-m", "venv", home)
        pip = (home / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", UV)
    return (str(program), "--quiet", "--cache-dir", str(ENVIRONMENTS / "cache"))


def lock(rows: tuple[ClientRow, ...]) -> None:
    """Pin what each client needs."""
    for row in rows:
        asked = ENVIRONMENTS / f"{row.id}.in"
        asked.write_text("\n".join(row.requires) + "\n", encoding="utf-8")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        options = ("--no-header", "--no-annotate", "--no-emit-index-url", "--universal")
        compiled = ("--python-version", version, asked, "--output-file", row.lock)
        _run(*_uv(), "pip", "compile", *options, *compiled)


def install(rows: tuple[ClientRow, ...]) -> None:
    """Make the environments that are missing or were made from other pins."""
    for row in rows:
        made = row.environment / ".made-from"
        pins = hashlib.sha256(row.lock.read_bytes()).hexdigest()
        if made.is_file() and made.read_text(encoding="utf-8") == pins:
            continue
        print(f"Installing {', '.join(row.requires)} ...", flush=True)  # noqa: T201 - a command
        _run(*_uv(), "venv", "--clear", "--python", sys.executable, row.environment)
        python = row.environment / "bin" / "python"
        _run(*_uv(), "pip", "sync", "--python", python, row.lock)
        made.write_text(pins, encoding="utf-8")


def main() -> None:
    """Install, or lock."""
    parser = argparse.ArgumentParser(description="Install the MCP clients that are driven.")
    parser.add_argument("--lock", action="store_true", help="pin again, and install nothing")
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    rows = tuple(row for row in client_rows() if row.requires)
    (lock if parser.parse_args().lock else install)(rows)


if __name__ == "__main__":
    main()
