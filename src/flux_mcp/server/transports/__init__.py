"""How clients reach the MCP server: stdio, HTTP, SSE, and the guard in front of HTTP."""
