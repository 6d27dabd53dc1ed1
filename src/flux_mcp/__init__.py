"""flux-mcp: FLUX on your own graphics card, for every MCP client."""

__version__ = "0.1.0"
