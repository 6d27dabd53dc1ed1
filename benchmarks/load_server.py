"""The server of the load benchmark: a process of its own, and what it uses meanwhile."""

import asyncio
import json
import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from common import THREADS, server_command

SETTLED_SHARE = 1 / 3
"""Memory is watched from here on: caches have been filled, the worker has been started."""
SAMPLE_S = 0.5
MIB = 1024 * 1024


class Server:
    """A running server process, and what it wrote that it should not have to."""

    def __init__(self, data_dir: Path) -> None:
        command = [*server_command(), "--transport", "http", "--port", "0"]
        settings = {"data_dir": data_dir, "torch_threads": THREADS, "log_format": "json"}
        environment = {f"FLUX_MCP_{name.upper()}": str(value) for name, value in settings.items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_MCP_")}
        self._process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**inherited, **environment},
        )
        self.trouble: list[str] = []
        self.url = f"{self._listening()}/mcp"
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.seen = psutil.Process(self._process.pid)

    def _listening(self) -> str:
        for line in self._process.stderr or ():
            if address := json.loads(line).get("address"):
                return str(address)
        raise RuntimeError("the server ended before it listened")

    def _listen(self) -> None:
        for line in self._process.stderr or ():
            if not line.startswith("{") or json.loads(line)["level"] not in ("debug", "info"):
                self.trouble.append(line.strip())

    def stop(self) -> None:
        """End it in order."""
        self._process.terminate()
        self._process.wait()
        self._listener.join()


@dataclass
class Watch:
    """What the server used, sampled while clients visit."""

    data_dir: Path
    server: psutil.Process
    seconds: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    database_bytes: list[int] = field(default_factory=list)

    cpu_s: list[dict[str, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Sample for ever; run as a task and cancel it."""
        while True:
            self.cpu_s.append(self._cpu_s())
            self.seconds.append(time.perf_counter())
            self.rss_bytes.append(self.server.memory_info().rss)
            self.fds.append(self.server.num_fds())
            files = self.data_dir.glob("gallery.sqlite*")
            self.database_bytes.append(sum(file.stat().st_size for file in files))
            await asyncio.sleep(SAMPLE_S)

    def _cpu_s(self) -> dict[str, float]:
        server, worker = self.server.cpu_times(), 0.0
        for child in self.server.children():
            used = child.cpu_times()
            worker += used.user + used.system
        return {"server": server.user + server.system, "worker": worker}

    def cores_used(self) -> dict[str, float]:
        """Return how many cores server and worker used, on average."""
        wall_s = self.seconds[-1] - self.seconds[0]
        first, last = self.cpu_s[0], self.cpu_s[-1]
        return {name: round((last[name] - first[name]) / wall_s, 2) for name in first}

    def rss_mib(self) -> list[int]:
        """Return the server's memory at first, at last, and at most."""
        found = (self.rss_bytes[0], self.rss_bytes[-1], max(self.rss_bytes))
        return [round(value / MIB) for value in found]

    def slope_mib_per_min(self) -> float:
        """Return how fast memory grows once things have settled."""
        first = int(len(self.seconds) * SETTLED_SHARE)
        found = statistics.linear_regression(self.seconds[first:], self.rss_bytes[first:])
        return round(found.slope * 60 / MIB, 2)
