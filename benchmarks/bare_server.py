"""The yardstick: a server that is nothing but the SDK and eight tools that do nothing.

Run as a process of its own by start.py and status.py.
"""

from mcp.server import MCPServer

server = MCPServer("bare")


def _add(number: int) -> None:
    @server.tool(name=f"noop_{number}", description=f"Do nothing, the {number}. way.")
    def noop(text: str = "") -> dict[str, str]:
        return {"text": text}


for _number in range(8):
    _add(_number)

if __name__ == "__main__":
    server.run("stdio")
