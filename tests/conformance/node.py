"""Node and what runs on it: the conformance suite and the Inspector, as `npm ci` put them here."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
INSPECTOR = (
    MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
)
LEAST_NODE = (22, 19)
"""What the Inspector asks for; the suite asks for 22."""
TIMEOUT_S = 300
_RESULT_DIR = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\dZ-]+")


class NotInstalledError(Exception):
    """Node or a package is missing; `make conformance` installs both where it can."""


@dataclass(frozen=True)
class Ended:
    """What a finished process left."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out[-3000:]}\n{self.err[-3000:]}"


@dataclass(frozen=True)
class Check:
    """One check of the suite, as it wrote it down."""

    id: str
    status: str
    message: str


@dataclass(frozen=True)
class SuiteRun:
    """One run of the suite: how it ended, and the checks of each scenario."""

    ended: Ended
    checks: dict[str, list[Check]]

    def count(self, status: str) -> int:
        return sum(check.status == status for one in self.checks.values() for check in one)

    def failures(self, scenario: str) -> dict[str, str]:
        """The checks of a scenario that failed, with what the suite says about them."""
        failed = [check for check in self.checks[scenario] if check.status == "FAILURE"]
        return {check.id: check.message for check in failed}


def find_node() -> str:
    """The Node of the npm registry where it was installed, else the machine's."""
    installed = [*MODULES.glob("node-*/bin/node")]
    node = str(installed[0]) if installed else shutil.which("node")
    if node is None or not SUITE.is_file() or not INSPECTOR.is_file():
        raise NotInstalledError("Run: make conformance")
    version = _run([node, "--version"], {}).out.strip().removeprefix("v")
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_NODE:
        least = ".".join(str(part) for part in LEAST_NODE)
        raise NotInstalledError(f"{node} is Node {version}; install {least} or newer")
    return node


def _run(command: list[str], environment: dict[str, str], cwd: Path | None = None) -> Ended:
    ended = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class Suite:
    """The conformance suite.

    Args:
        node: The Node that runs it.
    """

    def __init__(self, node: str) -> None:
        self._node = node

    def __call__(self, *arguments: str) -> Ended:
        return _run([self._node, str(SUITE), *arguments], {})

    def scenarios(self, *options: str) -> dict[str, frozenset[str]]:
        """Every server scenario with the revisions it belongs to, as the suite lists them."""
        listed = self("list", "--server", *options)
        assert listed.code == 0, str(listed)
        of_servers = listed.out.split("Client scenarios")[0]
        found = re.findall(r"^  - (\S+)(?: \[([^\]]*)\])?", of_servers, re.MULTILINE)
        return {name: frozenset(revisions.split(",")) for name, revisions in found}

    def run(self, url: str, results: Path, *options: str) -> SuiteRun:
        """Run scenarios against a server; `results` is an empty folder."""
        ended = self("server", "--url", url, "--output-dir", str(results), *options)
        checks = {}
        for folder in results.iterdir():
            named = _RESULT_DIR.fullmatch(folder.name)
            assert named is not None, folder.name
            written = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
            checks[named[1]] = [
                Check(one["id"], one["status"], one.get("errorMessage", "")) for one in written
            ]
        return SuiteRun(ended, checks)


class Inspector:
    """The Inspector's command line.

    Args:
        node: The Node that runs it.
        home: A folder of its own: it keeps a catalogue of servers in the user's.
    """

    def __init__(self, node: str, home: Path) -> None:
        self._node = node
        # Without `memory` it looks for the system's keychain, and complains where there is none.
        self._environment = {"HOME": str(home), "MCP_INSPECTOR_SECRET_STORE": "memory"}

    def __call__(self, *arguments: str, cwd: Path | None = None) -> Ended:
        command = [self._node, str(INSPECTOR), "--cli", *arguments, "--format", "json"]
        return _run(command, self._environment, cwd)
