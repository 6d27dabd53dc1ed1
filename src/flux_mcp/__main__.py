"""`python -m flux_mcp`: the same as the command `flux-mcp`."""

from flux_mcp.cli import main

if __name__ == "__main__":
    main()
