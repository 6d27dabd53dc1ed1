"""An agent of Google's ADK: python adk_agent.py "Draw a red circle".

Needs google-adk[mcp] and litellm, `flux-mcp` on the PATH, and the key of the model's provider,
such as OPENAI_API_KEY. With --url it calls a running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from google.adk.agents import LlmAgent
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import (
    McpToolset,
    StdioConnectionParams,
    StreamableHTTPConnectionParams,
)
from mcp import StdioServerParameters


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="openai/gpt-5", help="a model's name for LiteLLM")
    parser.add_argument("--timeout-s", type=float, default=5, help="the ADK's own default is 5")
    options = parser.parse_args()
    server: StdioConnectionParams | StreamableHTTPConnectionParams = StdioConnectionParams(
        server_params=StdioServerParameters(command="flux-mcp", args=["serve"]),
        timeout=options.timeout_s,
    )
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        server = StreamableHTTPConnectionParams(
            url=options.url, headers=headers, timeout=options.timeout_s
        )
    tools = McpToolset(connection_params=server)
    agent = LlmAgent(name="artist", model=LiteLlm(model=options.model), tools=[tools])
    runner = InMemoryRunner(agent=agent)
    for event in await runner.run_debug(options.request, quiet=True):
        if event.is_final_response() and event.content and event.content.parts:
            print(event.content.parts[0].text)
    await runner.close()


if __name__ == "__main__":
    asyncio.run(main())
