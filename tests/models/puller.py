"""`python -m tests.models.puller`: the downloading process for many requests, one JSON line each.

Importing the hub's libraries takes a second; a test that asks nothing of the process itself shares
this one. It carries each request out as the downloading process does the one on its stdin.
"""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from flux_mcp.models.hub.messages import PullRequest
from flux_mcp.models.hub.process import carry_out
from flux_mcp.settings.paths import Paths


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    def send(event: BaseModel) -> None:
        tell(event.model_dump_json())

    for line in sys.stdin:
        asked = json.loads(line)
        request = PullRequest.model_validate(asked["request"])
        has_succeeded = carry_out(Paths(Path(asked["data_dir"])), request, send)
        tell(json.dumps({"code": 0 if has_succeeded else 1}))


if __name__ == "__main__":
    main()
