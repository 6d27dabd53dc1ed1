"""An agent of AutoGen: python autogen_agent.py "Draw a red circle".

Needs autogen-agentchat, autogen-ext[mcp,openai] and mcp below 2, `flux-mcp` on the PATH, and
OPENAI_API_KEY. With --url it calls a running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, StreamableHttpServerParams


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="gpt-4o")
    parser.add_argument("--timeout-s", type=float, default=5, help="the library's default is 5")
    options = parser.parse_args()
    server: StdioServerParams | StreamableHttpServerParams = StdioServerParams(
        command="flux-mcp", args=["serve"], read_timeout_seconds=options.timeout_s
    )
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        server = StreamableHttpServerParams(url=options.url, headers=headers)
    async with McpWorkbench(server) as tools:
        model = OpenAIChatCompletionClient(model=options.model)
        agent = AssistantAgent("artist", model, workbench=tools, max_tool_iterations=30)
        answer = await agent.run(task=options.request)
    print(answer.messages[-1].to_text())


if __name__ == "__main__":
    asyncio.run(main())
