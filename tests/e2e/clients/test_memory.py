"""Many calls and large ones leave the server as large as it was."""

import asyncio
import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from mcp import Client
from PIL import Image

from tests.e2e.calls import FAST, call, job

from .transports import OVER_HTTP, Server, connected

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
IMAGE_BYTES = 5 * MIB
WARMING, USING = (2, 1), (10, 4)
"""How many small and how many large calls each client makes."""
ALLOWED_BYTES = 40 * MIB
"""What malloc may keep for itself. All the images together are twice as much."""


@pytest.fixture(scope="module")
def image() -> str:
    side_px = int((IMAGE_BYTES / 3) ** 0.5) + 1
    noise = np.random.default_rng(2).integers(0, 256, (side_px, side_px, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


async def use(client: Client, image: str, job_id: str, small: int, large: int) -> None:
    for _ in range(small):
        await client.list_tools(cache_mode="bypass")
        await call(client, "flux_get_job", job_id=job_id, preview="none")
    asked = {"prompt": "make it red", "images": [image], "dry_run": True}
    for _ in range(large):
        assert not (await call(client, "flux_edit", **asked)).is_error


@pytest.mark.torture
async def test_many_calls_and_many_large_images_leave_no_memory(server: Server, image: str) -> None:
    assert len(OVER_HTTP) * USING[1] * IMAGE_BYTES >= 2 * ALLOWED_BYTES
    sizes_bytes = []
    for calls in (WARMING, USING):
        for route in OVER_HTTP:
            async with connected(server, route) as client:
                drawn = await job(client, "flux_generate", **FAST, wait_s=200)
                await use(client, image, drawn.job_id or "", *calls)
        sizes_bytes.append(server.as_process().memory_info().rss)
    warm_bytes, used_bytes = sizes_bytes
    assert used_bytes - warm_bytes < ALLOWED_BYTES


LARGE_SIDE_PX = 7000
"""Just below the 50 million pixels that may come in; such a PNG of one colour has 0.2 MB."""
MOST_BYTES = 800 * MIB
"""The budget of decoding (640 MiB), and some. Six such images, each decoded once, take 1.2 GB."""


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory is read from /proc")
async def test_many_calls_with_the_largest_images_take_the_memory_of_one(server: Server) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (LARGE_SIDE_PX, LARGE_SIDE_PX)).save(buffer, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    asked = {"prompt": "make it red", "images": [image], "dry_run": True}
    process = server.as_process()
    async with connected(server, OVER_HTTP[0]) as client:
        await call(client, "flux_generate", prompt="a circle", dry_run=True)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        before_bytes = process.memory_info().rss
        answers = await asyncio.gather(*(call(client, "flux_edit", **asked) for _ in range(6)))
        assert not any(answer.is_error for answer in answers)
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (highest,) = (line for line in status if line.startswith("VmHWM"))
    assert 1024 * int(highest.split()[1]) - before_bytes < MOST_BYTES
    assert process.memory_info().rss - before_bytes < 2 * ALLOWED_BYTES
