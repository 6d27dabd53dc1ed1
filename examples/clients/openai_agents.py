"""An agent of the OpenAI Agents SDK: python openai_agents.py "Draw a red circle".

Needs openai-agents, `flux-mcp` on the PATH, and OPENAI_API_KEY. With --url it calls a running
server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from agents import Agent, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="gpt-5")
    parser.add_argument("--timeout-s", type=float, default=5, help="the SDK's own default is 5")
    options = parser.parse_args()
    set_tracing_disabled(True)
    server: MCPServerStdio | MCPServerStreamableHttp = MCPServerStdio(
        params={"command": "flux-mcp", "args": ["serve"]},
        client_session_timeout_seconds=options.timeout_s,
    )
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        server = MCPServerStreamableHttp(
            params={"url": options.url, "headers": headers},
            client_session_timeout_seconds=options.timeout_s,
        )
    async with server:
        agent = Agent(name="Artist", model=options.model, mcp_servers=[server])
        answer = await Runner.run(agent, options.request, max_turns=30)
    print(answer.final_output)


if __name__ == "__main__":
    asyncio.run(main())
