"""Real servers whose worker is a light one: for tests to which it does not matter what is drawn."""

import os
from pathlib import Path


def light_worker(*, holds: bool) -> dict[str, str]:
    """Return variables that give a server a light worker: "patient" of jobs/bad_worker.py.

    Args:
        holds: Whether it only begins a job of many steps: until that is cancelled, or somebody ends
            the worker or the server it belongs to.
    """
    path = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "LIGHT_WORKER_HOLDS": "yes" if holds else "no",
    }
