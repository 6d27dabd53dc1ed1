"""The bare pipeline of bare_pipe.py, driven from here."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from common import THREADS, script_command

from flux_mcp.settings.installation import PACKAGE_DIR

WEIGHTS = PACKAGE_DIR / "weights" / "micro" / "text2img"


class BarePipe:
    """The process that has nothing but diffusers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncIterator["BarePipe"]:
        """Start it, and end it afterwards."""
        process = await asyncio.create_subprocess_exec(
            *script_command("bare_pipe.py"),
            str(WEIGHTS),
            str(THREADS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield cls(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    async def draw(self, plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Draw plans one after another; return seconds and pixel hash of each.

        Raises:
            RuntimeError: the process is gone.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the bare pipeline has no pipes")
        stdin.write(json.dumps(list(plans)).encode() + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise RuntimeError("the bare pipeline ended")
        drawn: list[dict[str, Any]] = json.loads(line)
        return drawn
