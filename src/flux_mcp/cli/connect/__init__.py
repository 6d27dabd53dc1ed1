"""`flux-mcp connect`: show an MCP client's entry for this server, write it, take it out again.

The decisions are pure: `clients` (the rows of clients.toml), `entries` (what an entry says),
`json_text` and `toml_text` (how a document looks with it), `changes` (what is done to a file).
`places` looks for files, `files` writes them, `connecting` puts one call together; `printing` is
what people see, and cli/commands/connect.py has the flags.
"""
