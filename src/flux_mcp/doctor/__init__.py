"""What `flux-mcp doctor` finds out about a machine and a data folder."""
