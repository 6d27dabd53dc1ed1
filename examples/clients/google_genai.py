"""Gemini through google-genai, which calls MCP tools by itself: python google_genai.py "Draw ...".

Needs google-genai and mcp, `flux-mcp` on the PATH, and GEMINI_API_KEY. With --url it calls a
running server, with the token in FLUX_MCP_TOKEN.
"""

import argparse
import asyncio
import os

from google import genai
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def main() -> None:
    """Answer one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url", help="a running server instead of one of its own")
    parser.add_argument("--model", default="gemini-2.5-flash")
    options = parser.parse_args()
    server = stdio_client(StdioServerParameters(command="flux-mcp", args=["serve"]))
    if options.url:
        headers = {"Authorization": f"Bearer {os.environ['FLUX_MCP_TOKEN']}"}
        server = streamablehttp_client(options.url, headers=headers)
    async with server as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        # A dict: google-genai 3.6 cannot copy a GenerateContentConfig that has a session in it.
        config = {
            "tools": [session],
            "automatic_function_calling": {"maximum_remote_calls": 30},
        }
        answer = await genai.Client().aio.models.generate_content(
            model=options.model, contents=options.request, config=config
        )
    print(answer.text)


if __name__ == "__main__":
    asyncio.run(main())
