"""The downloading process as a test runs it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.jobs.downloads import hub_environment
from flux_mcp.models.hub.messages import PullOrder, PullRequest
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings

from .hub_server import HubServer, folder_as_files

TIMEOUT_S = 60
ROOT = Path(__file__).resolve().parents[2]
SCHNELL = "black-forest-labs/FLUX.1-schnell"
DEV = "black-forest-labs/FLUX.1-dev"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
MICRO = PACKAGE_DIR / "weights" / "micro" / "text2img"
TOKEN = "hf_ThisIsASecretThatNobodyMayEverSee"  # noqa: S105 - of this test's own hub


def micro_files() -> dict[str, bytes]:
    return folder_as_files(MICRO)


def environment(hub: HubServer, settings: Settings, **more: str) -> dict[str, str]:
    """Return the process's environment: no login of the developer reaches it."""
    return {
        **hub_environment(settings),
        **alone(hub, settings.data_dir),
        **more,
    }


def alone(hub: HubServer, folder: Path) -> dict[str, str]:
    """Return variables that lead to this hub and to no login."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "",
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "20",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


@dataclass
class Ran:
    """What a process that ended said."""

    code: int
    events: list[dict[str, object]]
    err: str

    @property
    def last(self) -> dict[str, object]:
        return self.events[-1]

    def only(self, kind: str) -> dict[str, object]:
        (event,) = (event for event in self.events if event["type"] == kind)
        return event


def request(*repositories: str, revision: str | None = None, **more: object) -> PullRequest:
    orders = [PullOrder(model=name, repository=name, revision=revision) for name in repositories]
    return PullRequest.model_validate(
        {"orders": tuple(orders), "reserve_bytes": 0, "tries": 3, "backoff_s": 0.01, **more}
    )


def start(
    hub: HubServer, settings: Settings, asked: PullRequest, **more: str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flux_mcp.models.hub.process", str(settings.data_dir)],
        env=environment(hub, settings, **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(asked.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def pull(hub: HubServer, settings: Settings, asked: PullRequest, **more: str) -> Ran:
    with start(hub, settings, asked, **more) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        code = process.wait(TIMEOUT_S)
    return Ran(code, [json.loads(line) for line in out.splitlines()], err)


class Puller:
    """Pulls in one process that lives as long as the hub it asks."""

    def __init__(self, hub: HubServer, settings: Settings, **more: str) -> None:
        self._log = (settings.data_dir / "puller.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.models.puller"],
            cwd=ROOT,
            env=environment(hub, settings, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def pull(self, settings: Settings, asked: PullRequest) -> Ran:
        """Have a request carried out; return what was said of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = {"data_dir": str(settings.data_dir), "request": asked.model_dump(mode="json")}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        events = []
        for answer in self._process.stdout:
            event = json.loads(answer)
            if "code" in event and "type" not in event:
                self._log.seek(0)
                return Ran(event["code"], events, self._log.read())
            events.append(event)
        raise AssertionError(f"the process ended with {self._process.wait(TIMEOUT_S)}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(TIMEOUT_S) == 0
        self._process.stdout.close()
        self._log.close()


def wait_for_bytes(process: subprocess.Popen[str], path: str, at_least: int) -> None:
    """Read events until so much of a file is on the disk."""
    assert process.stdout is not None
    for line in process.stdout:
        for file in json.loads(line).get("files", []) if '"progress"' in line else []:
            if file["path"] == path and file["done_bytes"] >= at_least:
                return
    raise AssertionError("it ended before")
