"""The clipboard over each kind of connection: of the user's own machine, or of any."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import TextContent
from PIL import Image

from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.calls import call, dry_run
from tests.e2e.clients.inprocess import served
from tests.e2e.clients.transports import HTTP, LEGACY_HTTP, connected

pytestmark = pytest.mark.anyio

ASKED: dict[str, Any] = {"prompt": "red", "images": ["clipboard"], "seed": 1}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an image in the clipboard of this machine."""
    Image.new("RGB", (80, 64), "red").save(tmp_path / "copied.png")
    program = tmp_path / "bin" / "xclip"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec /bin/cat "{tmp_path}/copied.png"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.mark.usefixtures("copied")
async def test_the_clipboard_is_read_for_who_started_the_server_and_never_over_http(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, clipboard=True) as (server, _):
        for route in (HTTP, LEGACY_HTTP):
            async with connected(server, route) as client:
                refused = await call(client, "flux_edit", **ASKED)
                assert refused.is_error
                assert isinstance(refused.content[0], TextContent)
                assert refused.content[0].text.startswith("[clipboard] ")
                assert "own machine" in refused.content[0].text
    service = Service(Settings(data_dir=tmp_path / "data", clipboard=True), executes=False)
    async with Client(build_server(service)) as client:
        answer = await dry_run(client, "flux_edit", **ASKED)
    await service.close()
    assert "clipboard is an image of 80x64." in answer.notices
