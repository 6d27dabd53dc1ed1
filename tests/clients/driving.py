"""Run one client against the server: a process of its own in a home of its own.

The client finds a `flux-mcp` on its PATH that writes down every line of stdio (`relay.py`) and has
the light worker of `tests/e2e/clients/light.py`; over HTTP it is given the address of a server with
the same worker. Its model is a `Recorder`. Nothing but loopback can be reached.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.conversation import every_call, image_call
from tests.clients.install import HERE, MODULES, ClientRow
from tests.clients.model_endpoint import Recorder, listening
from tests.e2e.clients import transports

REPOSITORY = HERE.parents[1]
ENDS_AFTER_S = 240
"""Longer than any client takes; one that hangs is ended."""
STAYS_S = 10
"""How long a client may take to end after its model has ended the conversation."""
NOWHERE = "http://127.0.0.1:9"
"""The discard port (RFC 863): what is not for loopback goes there, and nowhere."""


@dataclass
class Run:
    """What one run of a client left.

    Attributes:
        recorder: What its model was sent.
        lines: What went over stdio: sender and message, in order.
        jobs: Rows of the database, oldest first.
        code: Its exit status; negative if it had to be ended.
        output: What it printed.
    """

    recorder: Recorder
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    code: int = 0
    output: str = ""


def filled_gallery(folder: Path) -> Path:
    """Return a data folder with more images than one answer of a search has."""
    command = [sys.executable, *transports.SERVE[:-1], "generate", "a square of patches"]
    options = ["--count", "8", "--width", "64", "--height", "64"]
    for _ in range(3):
        subprocess.run(
            [*command, *options],
            env=transports.environment(folder),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return folder


def drive(row: ClientRow, transport: str, folder: Path, gallery: Path) -> Run:
    """Run a client over stdio, with every call, or over "http", with one.

    Args:
        row: The client.
        transport: "stdio" or "http".
        folder: A folder that is not there yet.
        gallery: A data folder, of which the client's server has a copy.
    """
    home, log = folder / "home", folder / "lines.jsonl"
    (home / "work").mkdir(parents=True)
    data = Path(shutil.copytree(gallery, folder / "data"))
    _write_command(folder / "bin" / "flux-mcp", log, data)
    run = Run(Recorder(every_call(row.slow_s) if transport == "stdio" else image_call()))
    with ExitStack() as stack:
        model_url = stack.enter_context(listening(run.recorder))
        words = [*_program(row), "Draw a red circle."]
        if transport == "http":
            server = stack.enter_context(transports.listening(data))
            words += ["--url", f"{server.url}/mcp"]
        environment = _environment(row, folder, model_url)
        run.code, run.output = _finish(words, environment, home / "work", run.recorder.is_over)
    if log.exists():
        run.lines = [_line(text) for text in log.read_text(encoding="utf-8").splitlines()]
    if (data / "gallery.sqlite").exists():
        run.jobs = [dict(job) for job in transports.stored_jobs(data)]
    return run


def _line(text: str) -> tuple[str, dict[str, Any]]:
    noted = json.loads(text)
    try:
        return noted["from"], json.loads(noted["line"])
    except ValueError:
        return noted["from"], {"unreadable": noted["line"]}


def _write_command(file: Path, log: Path, data: Path) -> None:
    """Write the `flux-mcp` that the client starts."""
    file.parent.mkdir()
    variables = transports.environment(data)
    kept = {name: variables[name] for name in variables if name.startswith("FLUX_MCP_")}
    kept["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    kept["FLUX_MCP_CONFIG"] = os.devnull
    given = [f"{name}={value}" for name, value in kept.items()]
    light = str(REPOSITORY / "tests" / "e2e" / "clients" / "light.py")
    relay = [sys.executable, str(HERE / "relay.py"), str(log)]
    words = ["env", *given, *relay, sys.executable, "-P", light]
    file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    file.chmod(0o755)


def node() -> str:
    """Return the Node of the npm registry where it was installed, else the machine's."""
    installed = [str(path) for path in MODULES.glob("node-*/bin/node")]
    return (installed or ["node"])[0]


def _program(row: ClientRow) -> list[str]:
    program = str(REPOSITORY / row.program)
    if row.program.endswith(".mjs"):
        return [node(), program]
    own = row.environment / "bin" / "python"
    return [str(own) if row.requires else sys.executable, program]


def _environment(row: ClientRow, folder: Path, model_url: str) -> dict[str, str]:
    """Return the whole environment of a client: of ours it gets next to nothing."""
    home = folder / "home"
    path = [folder / "bin", Path(node()).parent, "/usr/local/bin", "/usr/bin", "/bin"]
    given = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    if row.requires:
        given = {}
    return {
        **given,
        "PATH": os.pathsep.join(map(str, path)),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "NODE": node(),
        "NODE_PATH": str(MODULES),
        "CLIENT_ID": row.id,
        "SDK_PACKAGE": row.package,
        "MODEL_URL": model_url,
        "OPENAI_BASE_URL": f"{model_url}/v1",
        "OPENAI_API_KEY": "none",
        "GOOGLE_GEMINI_BASE_URL": model_url,
        "GEMINI_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # else it looks for prices on the network
        "FLUX_MCP_TOKEN": transports.TOKENS["local"],
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    }


def _finish(
    words: list[str], environment: dict[str, str], cwd: Path, is_over: threading.Event
) -> tuple[int, str]:
    with subprocess.Popen(
        words,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        threading.Thread(target=_end_late, args=(process, is_over), daemon=True).start()
        out, _ = process.communicate()
        return process.returncode, out


def _end_late(process: "subprocess.Popen[str]", is_over: threading.Event) -> None:
    """End a client that hangs, or stays after its model has nothing more to say."""
    with suppress(subprocess.TimeoutExpired):
        if is_over.wait(ENDS_AFTER_S):
            process.wait(STAYS_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
