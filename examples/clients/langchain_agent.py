"""An agent of LangChain with flux-mcp's tools: python langchain_agent.py "Draw a red circle".

Needs langchain, langchain-mcp-adapters and langchain-openai, `flux-mcp` on the PATH, and
OPENAI_API_KEY. With --url it calls a running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os
from importlib.metadata import version
from typing import Any

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI
from mcp.types import Implementation


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="gpt-5")
    options = parser.parse_args()
    server: dict[str, Any] = {"transport": "stdio", "command": "flux-mcp", "args": ["serve"]}
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        server = {"transport": "streamable_http", "url": options.url, "headers": headers}
    # With a name of its own its model is shown images: the server cannot tell other programs of
    # the MCP SDK apart.
    name = Implementation(name="langchain", version=version("langchain"))
    server["session_kwargs"] = {"client_info": name}
    client = MultiServerMCPClient({"flux": server})
    # One session for all calls. `client.get_tools()` would start a server for each call.
    async with client.session("flux") as session:
        agent = create_agent(ChatOpenAI(model=options.model), await load_mcp_tools(session))
        answer = await agent.ainvoke({"messages": [("user", options.request)]})
    print(answer["messages"][-1].content)


if __name__ == "__main__":
    asyncio.run(main())
