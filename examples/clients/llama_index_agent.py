"""An agent of LlamaIndex: python llama_index_agent.py "Draw a red circle".

Needs llama-index-tools-mcp and llama-index-llms-openai-like, `flux-mcp` on the PATH, and
OPENAI_API_KEY. With --url it calls a running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="gpt-5")
    parser.add_argument("--timeout-s", type=int, default=30, help="the library's default is 30")
    options = parser.parse_args()
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        client = BasicMCPClient(options.url, headers=headers, timeout=options.timeout_s)
    else:
        client = BasicMCPClient("flux-mcp", ["serve"], timeout=options.timeout_s)
    model = OpenAILike(
        model=options.model,
        api_base=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        api_key=os.environ["OPENAI_API_KEY"],
        is_chat_model=True,
        is_function_calling_model=True,
    )
    agent = FunctionAgent(tools=await McpToolSpec(client).to_tool_list_async(), llm=model)
    print(await agent.run(options.request, max_iterations=30))


if __name__ == "__main__":
    asyncio.run(main())
