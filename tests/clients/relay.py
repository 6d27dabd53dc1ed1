"""Stand between a client and a server over stdio, and write down every line of both.

python relay.py LOG COMMAND...   each line of LOG is {"from": "client" or "server", "at": s, "line"}
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    """Carry lines until the server ends; return its exit status."""
    log = Path(sys.argv[1]).open("a", encoding="utf-8")  # noqa: SIM115 - open as long as we are
    lock = threading.Lock()
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def note(sender: str, line: bytes) -> None:
        with lock:
            text = line.decode("utf-8", "replace").rstrip("\n")
            log.write(json.dumps({"from": sender, "at": time.time(), "line": text}) + "\n")
            log.flush()

    def from_client() -> None:
        assert server.stdin is not None
        try:
            for line in sys.stdin.buffer:
                note("client", line)
                server.stdin.write(line)
                server.stdin.flush()
        except BrokenPipeError:
            return
        server.stdin.close()

    threading.Thread(target=from_client, daemon=True).start()
    assert server.stdout is not None
    for line in server.stdout:
        note("server", line)
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            server.terminate()
            break
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
