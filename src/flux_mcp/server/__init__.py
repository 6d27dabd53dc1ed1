"""The MCP surface; the only room that imports the SDK."""
