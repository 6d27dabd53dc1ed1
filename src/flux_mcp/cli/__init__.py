"""The command `flux-mcp`: people's way to the same service the server uses.

Exit codes: 0 done; 1 the machine could not (weights, worker, disk); 2 the request is wrong; 3 busy,
try again later; 130 Ctrl-C, 143 SIGTERM, 129 a
closed terminal.
"""

from flux_mcp.cli.entry import main

__all__ = ["main"]
