"""A host of FastMCP's client without a model, as python_sdk.py is one of the SDK."""

import argparse
import asyncio
import json
import os
import urllib.request

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport


def ask(message):
    url = os.environ["MODEL_URL"] + "/neutral"
    request = urllib.request.Request(url, json.dumps(message).encode())  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as response:  # noqa: S310 - the same
        return json.load(response)["call"]


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url")
    options = parser.parse_args()
    server = StdioTransport("flux-mcp", ["serve"])
    if options.url:
        headers = {"Authorization": "Bearer " + os.environ["FLUX_MCP_TOKEN"]}
        server = StreamableHttpTransport(options.url, headers=headers)
    async with Client(server) as client:
        listed = [tool.model_dump(mode="json", by_alias=True) for tool in await client.list_tools()]
        tools = [
            {
                "name": tool["name"],
                "description": tool["description"],
                "input_schema": tool["inputSchema"],
            }
            for tool in listed
        ]
        call = ask({"tools": tools})
        while call is not None:
            try:
                got = await client.call_tool(call["name"], call["arguments"])
                content = [
                    block.model_dump(mode="json", by_alias=True, exclude_none=True)
                    for block in got.content
                ]
                result = {"content": content, "structuredContent": got.structured_content}
            except Exception as error:  # noqa: BLE001 - what a host's model would be told
                result = {"raised": f"{type(error).__name__}: {error}"}
            call = ask({"tools": tools, "call_id": call["id"], "result": result})


asyncio.run(main())
