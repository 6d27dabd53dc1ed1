"""`python -m flux_mcp.models.hub DATA_DIR`: the downloading process, the only one that goes online.

It reads one `PullRequest` from stdin and writes events to stdout, one JSON document a line. It ends
at once when stdin is closed, so a command that is killed leaves nothing behind that downloads;
whatever was received stays and is taken up again. A process of its own, because the hub's libraries
read their settings when they are imported (`hub_environment`), and so that the token is nowhere
else. Holds `download.lock` while it works.
"""

import os
import sys
import threading
from pathlib import Path

from pydantic import BaseModel

from flux_mcp.errors import FluxMcpError, StorageError
from flux_mcp.models.download_lock import hold_download_lock
from flux_mcp.models.hub_messages import PullFailed, PullFinished, PullRequest
from flux_mcp.models.pull import Pull
from flux_mcp.paths import Paths, ensure_dirs


def main() -> int:
    """Do what stdin asks; return the exit code."""
    wire, sys.stdout = sys.stdout.buffer, sys.stderr

    def say(event: BaseModel) -> None:
        wire.write(event.model_dump_json().encode() + b"\n")
        wire.flush()

    paths = Paths(Path(sys.argv[1]))
    request = PullRequest.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        ensure_dirs(paths)
        with hold_download_lock(paths):
            Pull(paths, request, say).run()
    except FluxMcpError as error:
        say(PullFailed(code=error.code, message=error.message, hint=error.hint))
        return 1
    except OSError as error:
        refused = StorageError(
            f"The disk refused: {error.strerror or type(error).__name__}.",
            "Look at its free space and at the permissions of the data folder; what is downloaded "
            "is kept.",
        )
        say(PullFailed(code=refused.code, message=refused.message, hint=refused.hint))
        return 1
    say(PullFinished())
    return 0


def _end_with_stdin() -> None:
    """End when whoever started us is gone. Bytes are written as they come: nothing is lost."""
    # Not through the buffer: its lock is held while we read, and the interpreter wants it at exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
