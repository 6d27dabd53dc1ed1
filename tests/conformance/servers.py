"""`flux-mcp`, or the conformance server, as a process that listens."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_LISTENING = re.compile(r"address=(http://\S+)")
END_TIMEOUT_S = 60
REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def listening(
    arguments: Sequence[str], module: str = "flux_mcp", **environment: str
) -> Iterator[str]:
    """Start a server, give its address, and end it; it must exit with status 0."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,  # where `-m tests.conformance.server` is found
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        log: list[str] = []
        address = _address(process, log)
        # Keep reading: a full pipe would block the server.
        reader = threading.Thread(target=log.extend, args=(process.stderr,))
        reader.start()
        try:
            yield address
        finally:
            process.terminate()
            code = process.wait(END_TIMEOUT_S)
            reader.join(END_TIMEOUT_S)
    assert code == 0, f"exit code {code}:\n{''.join(log)[-8000:]}"
    assert "Traceback" not in "".join(log), "".join(log)[-8000:]


def _address(process: subprocess.Popen[str], log: list[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        found = _LISTENING.search(line)
        if found is not None:
            return found[1]
    raise AssertionError(f"the server ended at once:\n{''.join(log)}")
