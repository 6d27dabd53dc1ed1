"""An agent of Pydantic AI: python pydantic_agent.py "Draw a red circle".

Needs pydantic-ai-slim[mcp,openai], `flux-mcp` on the PATH, and OPENAI_API_KEY. With --url it calls
a running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="openai-chat:gpt-5")
    options = parser.parse_args()
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        tools = MCPToolset(options.url, headers=headers)
    else:
        tools = MCPToolset(StdioTransport("flux-mcp", ["serve"]))
    async with Agent(options.model, toolsets=[tools]) as agent:
        answer = await agent.run(options.request)
    print(answer.output)


if __name__ == "__main__":
    asyncio.run(main())
