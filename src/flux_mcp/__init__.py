"""flux-mcp: FLUX on your own GPU, for every MCP client."""

__version__ = "0.1.0"
