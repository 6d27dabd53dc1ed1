"""docs/clients: a page for each MCP client of clients.toml, and the table of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from flux_mcp.cli.connect.changes import snippet
from flux_mcp.cli.connect.clients import Client, load_clients
from flux_mcp.cli.connect.entries import (
    DEFAULT_URL,
    TOKEN_VARIABLE,
    Launch,
    http_entry,
    stdio_entry,
)
from flux_mcp.cli.connect.printing import WAITING
from reference.markdown import NOTE, page, table

NAME = "flux"
EXAMPLE = Launch("/path/to/flux-mcp")
LANGUAGES = {"toml": "toml", "yaml": "yaml"}
SHOWN_FOLDERS = {
    "linux": {"home": "~", "config": "~/.config", "local": "", "project": "."},
    "darwin": {"home": "~", "config": "~/Library/Application Support", "local": "", "project": "."},
    "win32": {
        "home": "%USERPROFILE%", "config": "%APPDATA%", "local": "%LOCALAPPDATA%", "project": ".",
    },
}  # fmt: skip
PLATFORMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
SECOND_HAND = (
    "The file, its content, what the client shows and its time-out are taken from these sources. "
    "Tests check that `flux-mcp connect` gives exactly this entry, and that a client of the MCP "
    "SDK gets its tools from one; the client itself has not been tried."
)
FIRST_HAND = (
    "Tried in {tried}. The rest is taken from these sources; tests check that `flux-mcp connect` "
    "gives exactly this entry."
)


def clients_page() -> str:
    """Return the table of clients."""
    rows = []
    for client in load_clients():
        how = "no" if client.http is None else "yes" if client.token else "token in the file only"
        file = _shown_file(client, "user", "linux") or (
            "only shown, to be pasted" if client.is_printed else "any, with `--file`"
        )
        http_only = " (only so)" if client.stdio is None else ""
        rows.append((f"[{client.title}]({client.id}.md)", file, how + http_only, client.timeout))
    lines = [
        NOTE,
        "# Clients",
        (
            "`flux-mcp connect` lists the MCP clients it knows, which of them seem to be "
            "installed, and which are connected. `flux-mcp connect cursor` shows the entry, the "
            "file and what would change in it; `flux-mcp connect cursor --write` writes it, and "
            "`flux-mcp connect cursor --remove` removes it."
        ),
        (
            "Before a file is changed, it is copied to a file with the date in its name, in the "
            "same folder. Other entries, their order, comments and layout are kept. A file that "
            "cannot be parsed is not changed, nor is another entry of the same name, unless "
            "`--replace` is given."
        ),
        table("client", "file on Linux", "over HTTP", "limit for a call", rows=rows),
        (
            "Files in YAML are not edited, because that would lose their layout: the entry is "
            "shown, to be pasted. For any other client, see [generic](generic.md)."
        ),
        "## Time-outs",
        (
            f"{WAITING} [Client behaviour](behaviour.md#time-outs-of-clients) says what happens "
            "when a client ends a call sooner."
        ),
        "## What they are sent",
        (
            "Some clients are sent less than others, or answered sooner: [content.md](content.md). "
            "What their models received when they were run: [matrix.md](matrix.md)."
        ),
        "## Frameworks",
        (
            "LangChain, the OpenAI Agents SDK, Google ADK and others have no file to write: "
            "[frameworks.md](frameworks.md) has a program for each."
        ),
        "## Over HTTP",
        (
            f"`--http` makes an entry for a running server, at `{DEFAULT_URL}` or at `--url`. The "
            "token is not written into the file if the client supports environment variables: set "
            f"`{TOKEN_VARIABLE}` for the client. Otherwise `--token-in-file` writes the token of "
            "that variable, or else the one in the server's own file. "
            "[Network](../network.md) says how to run the server."
        ),
        (
            "Each client may start its own server, or all may call one: a data folder has one "
            "queue and one gallery."
        ),
    ]
    return page(lines)


def client_page(client: Client) -> str:
    """Return the page of one client."""
    has_file = bool(client.scopes)
    flags = "" if client.stdio is not None else " --http --token-in-file"
    write = f"flux-mcp connect {client.id}{flags}" + (" --write" if has_file else "")
    steps = [
        f"1. {'Write the entry' if has_file else 'Print the entry'}: `{write}`",
        f"2. {client.after}",
        "3. Ask: *Draw a red circle on a blue background with flux_generate.*",
    ]
    blocks = [
        NOTE,
        f"# {client.title}",
        "After installing flux-mcp ([README](../../README.md)):",
        "\n".join(steps),
        f"What you see: {client.see}",
    ]
    if has_file:
        blocks += [
            "## The file",
            table("scope", "platform", "file", rows=_file_rows(client)),
            *([_moved(client)] if client.variable else []),
            "`--scope` selects one; `--file` names another file.",
        ]
    blocks += [
        "## The entry",
        *_stdio_blocks(client),
        *_http_blocks(client),
        "## Time-outs",
        f"The client's limit for a call: {client.timeout}.",
        WAITING,
        "## Troubleshooting",
        "\n".join(f"- {line}" for line in _troubles(client)),
        "## Sources",
        FIRST_HAND.format(tried=client.tried) if client.tried else SECOND_HAND,
        "\n".join(f"- {source}" for source in client.sources),
    ]
    return page(blocks)


def _troubles(client: Client) -> Iterator[str]:
    yield f"Logs: {client.logs}."
    yield "`flux-mcp doctor` reports what is installed and which model is used."
    if client.scopes:
        yield (
            f"`flux-mcp connect {client.id}` says whether the entry is still right; after a "
            "reinstallation in another folder it is not."
        )
    if client.stdio is not None:
        yield "The path of the command must be absolute: clients start it without a shell."
    yield "The worker process writes to `logs/worker.log` in the data folder."
    yield from client.notes


def _stdio_blocks(client: Client) -> list[str]:
    if client.stdio is None:
        return [f"Over stdio: not possible. {client.no_stdio}."]
    about = f"The client starts the server (`flux-mcp connect {client.id}`):"
    return [about, _fenced(client, stdio_entry(client, NAME, EXAMPLE))]


def _http_blocks(client: Client) -> list[str]:
    if client.http is None:
        return [f"Over HTTP: not possible. {client.no_http}."]
    if client.token is not None:
        about = f"The client calls a running server (`flux-mcp connect {client.id} --http`):"
        return [about, _fenced(client, http_entry(client, NAME, DEFAULT_URL, None))]
    return [
        (
            "The client calls a running server "
            f"(`flux-mcp connect {client.id} --http --token-in-file`). {client.no_token}."
        ),
        _fenced(client, http_entry(client, NAME, DEFAULT_URL, "...")),
    ]


def _fenced(client: Client, entry: Mapping[str, Any]) -> str:
    language = LANGUAGES.get(client.format, "json")
    return f"```{language}\n{snippet(client, NAME, entry)}\n```"


def _file_rows(client: Client) -> Iterator[tuple[str, str, str]]:
    for scope in client.scopes:
        shown = {name: _shown_file(client, scope, name) for name in PLATFORMS}
        if len(set(shown.values())) == 1:
            yield scope, "all", shown["linux"]
        else:
            yield from ((scope, PLATFORMS[name], file) for name, file in shown.items())


def _shown_file(client: Client, scope: str, platform: str) -> str:
    places = (client.user if scope == "user" else client.project) or {}
    files = places.get(platform, places.get("any", ()))
    shown = [file.format(**SHOWN_FOLDERS[platform]).removeprefix("./") for file in files]
    if platform == "win32" and scope == "user":
        shown = [file.replace("/", "\\") for file in shown]
    return ", else ".join(f"`{file}`" for file in shown)


def _moved(client: Client) -> str:
    name = client.variable.name
    moved = client.variable.file.format(value=f"${name}")
    return f"The client's variable `{name}` moves the user's file to `{moved}`."
