"""A host of the Python SDK 1.x without a model: lists the tools, and calls what it is told to.

The results go to the model endpoint as the SDK hands them over. Runs in the SDK's own environment.
"""

import argparse
import asyncio
import json
import os
import urllib.request

from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamablehttp_client


def ask(message):
    """Tell the endpoint what there is; return the call that it wants."""
    url = os.environ["MODEL_URL"] + "/neutral"
    request = urllib.request.Request(url, json.dumps(message).encode())  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as response:  # noqa: S310 - the same
        return json.load(response)["call"]


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url")
    options = parser.parse_args()
    server = stdio_client(StdioServerParameters(command="flux-mcp", args=["serve"]))
    if options.url:
        headers = {"Authorization": "Bearer " + os.environ["FLUX_MCP_TOKEN"]}
        server = streamablehttp_client(options.url, headers=headers)
    async with server as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        listed = (await session.list_tools()).tools
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.inputSchema}
            for tool in listed
        ]
        call = ask({"tools": tools})
        while call is not None:
            try:
                got = await session.call_tool(call["name"], call["arguments"])
                result = got.model_dump(mode="json", by_alias=True, exclude_none=True)
            except Exception as error:  # noqa: BLE001 - what a host's model would be told
                result = {"raised": f"{type(error).__name__}: {error}"}
            call = ask({"tools": tools, "call_id": call["id"], "result": result})


asyncio.run(main())
