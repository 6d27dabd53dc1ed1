"""A real server over stdio whose log is kept."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


@dataclass
class Observed:
    """A server process, a client that talks to it, and what it has written to stderr."""

    client: Client
    process: psutil.Process
    log: Path

    def worker(self) -> psutil.Process:
        return next(
            child
            for child in self.process.children()
            if "flux_mcp.pipelines.worker" in child.cmdline()
        )

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def said(self, words: str) -> int:
        """Return how many lines have these words."""
        return sum(words in line for line in self.lines())


Start = Callable[..., AbstractAsyncContextManager[Observed]]


def starter(folder: Path) -> Start:
    """Return what starts servers on `folder/data`; settings are given as variables."""
    environment = {
        **os.environ,
        "FLUX_MCP_DATA_DIR": str(folder / "data"),
        "FLUX_MCP_TORCH_THREADS": "1",
    }

    @asynccontextmanager
    async def start(**variables: str) -> AsyncIterator[Observed]:
        before = {child.pid for child in psutil.Process().children()}
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "flux_mcp", "serve"],
            env={**environment, **variables},
        )
        path = folder / f"stderr-{len(list(folder.glob('stderr-*')))}"
        with path.open("w", encoding="utf-8") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                process = next(
                    child for child in psutil.Process().children() if child.pid not in before
                )
                yield Observed(client, process, path)

    return start
