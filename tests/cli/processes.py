"""`flux-mcp` called by a test: in this process, or as one of its own where that is the promise."""

import asyncio
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flux_mcp.cli.app import run_command
from flux_mcp.service.answers import JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

TIMEOUT_S = 180
_IMPORTS = """
import json, sys
from flux_mcp.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["flux-mcp", *words]
    try:
        main()
    except SystemExit as left:
        assert not left.code, left.code
    print("loaded:", *sys.modules, file=sys.stderr)
"""


@dataclass(frozen=True)
class Ended:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Drawn:
    """One command that generated, and where to look for what it left."""

    cli: "Cli"
    ended: Ended
    answer: JobAnswer


class Cli:
    """Runs `flux-mcp` on one data folder."""

    def __init__(self, data_dir: Path, weights_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self.weights_dir = weights_dir
        self._environment = {
            "FLUX_MCP_DATA_DIR": str(data_dir),
            "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
            "COLUMNS": "80",
            "PYTHONUNBUFFERED": "",
            **environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flux_mcp", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, **self._environment, **more}

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        """Run a command in this process: its streams, its variables, its exit code."""
        assert arguments[0] != "serve" or "--help" in arguments, "it takes file descriptor 1"
        out, err = _stream(), _stream()
        with (
            patch.dict(os.environ, self.environment(**environment), clear=True),
            patch.object(sys, "argv", ["flux-mcp", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
            _log_kept(),
            pytest.raises(SystemExit) as left,
        ):
            run_command()
        code = left.value.code or 0
        assert isinstance(code, int)
        return Ended(code, _text(out), _text(err))

    def process(self, *arguments: str, **environment: str) -> Ended:
        """Run a command as a process."""
        ended = subprocess.run(
            self.command(*arguments),
            env=self.environment(**environment),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def imports(self, *commands: tuple[str, ...]) -> set[str]:
        """Run commands one after another in one process; return every module it loaded."""
        return self.imports_after_each(*commands)[-1]

    def imports_after_each(self, *commands: tuple[str, ...]) -> list[set[str]]:
        """Return every module that was loaded when each of the commands had ended."""
        ended = subprocess.run(
            [sys.executable, "-c", _IMPORTS, json.dumps(commands)],
            env=self.environment(),
            check=True,
            timeout=TIMEOUT_S,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        loaded = [line for line in ended.stderr.splitlines() if line.startswith("loaded: ")]
        assert len(loaded) == len(commands)
        return [set(line.split()[1:]) for line in loaded]

    def update_database(self) -> None:
        """Make the data folder's database one that a newer version has changed."""
        assert self("jobs", "list").code == 0
        with closing(sqlite3.connect(self.data_dir / "gallery.sqlite")) as database, database:
            database.execute(
                "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
                "SELECT migration_set, 'of_tomorrow', applied_at FROM _sqlite_migrations LIMIT 1"
            )

    def prepare(self, work: Callable[[Service], Any]) -> Any:
        """Put something into the data folder through a service that runs nothing."""

        async def prepared() -> Any:
            settings = Settings(data_dir=self.data_dir, weights_dir=self.weights_dir)
            service = Service(settings, executes=False)
            await service.open()
            try:
                return await work(service)
            finally:
                await service.close()

        return asyncio.run(prepared())


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    raw = stream.detach()
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode()


@contextmanager
def _log_kept() -> Iterator[None]:
    """Give the log back as it was: a command sends it to its own stderr."""
    root, ours = logging.getLogger(), logging.getLogger("flux_mcp")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    root.handlers.clear()
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
