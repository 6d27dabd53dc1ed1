"""The use cases. The MCP server and the command line call these and nothing below."""
