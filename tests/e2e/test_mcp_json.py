"""mcp.json at the top of a checkout starts the server for any client that reads the common form."""

import json
import os
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = json.loads((REPOSITORY / "mcp.json").read_text(encoding="utf-8"))["mcpServers"]["flux"]

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(
    not (REPOSITORY / SERVER["command"]).exists(), reason="'make setup' has not run here"
)
@pytest.mark.parametrize("mode", ["auto", pytest.param("legacy", marks=pytest.mark.torture)])
async def test_mcp_json_starts_the_server(tmp_path: Path, mode: str) -> None:
    parameters = StdioServerParameters(
        command=SERVER["command"],
        args=SERVER["args"],
        env={**os.environ, **SERVER["env"], "FLUX_MCP_DATA_DIR": str(tmp_path)},
        cwd=REPOSITORY,
    )
    async with Client(stdio_client(parameters), mode=mode) as client:
        assert len((await client.list_tools()).tools) == 8
        assert client.server_info.name == "flux-mcp"
