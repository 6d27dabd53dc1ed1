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

EXAMPLE = Launch("/path/to/flux-mcp")
SHOWN_FOLDERS = {
    "linux": {"home": "~", "config": "~/.config", "local": "", "project": "."},
    "darwin": {"home": "~", "config": "~/Library/Application Support", "local": "", "project": "."},
    "win32": {
        "home": "%USERPROFILE%", "config": "%APPDATA%", "local": "%LOCALAPPDATA%", "project": ".",
    },
}  # fmt: skip
PLATFORMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
LEFT_OUT = (
    "**Left out.** Goose keeps its servers in YAML, which we cannot edit without laying the file "
    "out again, and the sources differ on an entry's shape: `goose configure` adds one, of the type "
    "command-line extension. For every client that is not here, [generic](generic.md)."
)
SECOND_HAND = (
    "Where the file is, what stands in it, what the client shows and when it gives up is taken "
    "from these sources. Of this page, the tests try that `flux-mcp connect` writes exactly this "
    "entry, and that a client of the MCP SDK gets its tools from such an entry; the client itself "
    "has not been tried."
)


def clients_page() -> str:
    """Return the table of clients."""
    rows = []
    for client in load_clients():
        how = "no" if client.http is None else "yes" if client.token else "token in the file only"
        file = _shown_file(client, "user", "linux") or "any, with `--file`"
        rows.append((f"[{client.title}]({client.id}.md)", file, how, client.timeout))
    lines = [
        NOTE,
        "# Clients",
        (
            "`flux-mcp connect` lists the MCP clients it knows, which of them seem to be here, and "
            "which are connected. `flux-mcp connect cursor` shows the entry, the file and what "
            "would change in it; `flux-mcp connect cursor --write` writes it, and "
            "`flux-mcp connect cursor --remove` takes it out again."
        ),
        (
            "Before a file is changed, a copy is laid beside it, with the date in its name. Other "
            "entries, their order, comments and layout stay. A file that cannot be read is left "
            "as it is, and so is another entry of the same name, unless `--replace` is given."
        ),
        table("client", "file on Linux", "over HTTP", "limit for a call", rows=rows),
        LEFT_OUT,
        "## Time-outs",
        f"{WAITING} So no client's time-out loses an image.",
        "## Over HTTP",
        (
            f"`--http` makes an entry for a server that runs already, at `{DEFAULT_URL}` or at "
            f"`--url`. The token stays out of the file where the client can name a variable: set "
            f"`{TOKEN_VARIABLE}` where the client is started. Elsewhere `--token-in-file` writes "
            f"it: that of the variable, else the one in the server's own file. "
            "[Network](../network.md) has what the server needs."
        ),
        (
            "Whether each client starts its own server or all call one, there is one queue and one "
            "gallery for a data folder."
        ),
    ]
    return page(lines)


def client_page(client: Client) -> str:
    """Return how one client is connected."""
    has_file = bool(client.scopes)
    write = f"flux-mcp connect {client.id}" + (" --write" if has_file else "")
    steps = [
        f"1. {'Write the entry' if has_file else 'Print the entry'}: `{write}`",
        f"2. {client.after}",
        "3. Ask: *Draw a red circle on a blue background with flux_generate.*",
    ]
    blocks = [
        NOTE,
        f"# {client.title}",
        "From nothing to an image, once flux-mcp is installed ([README](../../README.md)):",
        "\n".join(steps),
        f"What you see: {client.see}",
    ]
    if has_file:
        blocks += [
            "## The file",
            table("scope", "platform", "file", rows=_file_rows(client)),
            *([_moved(client)] if client.variable else []),
            "`--scope` chooses, `--file` names another one.",
        ]
    blocks += [
        "## The entry",
        f"The client starts the server (`flux-mcp connect {client.id}`):",
        _fenced(client, stdio_entry(client, EXAMPLE)),
        *_http_blocks(client),
        "## Time-outs",
        f"The client's limit for a call: {client.timeout}.",
        WAITING,
        "## When it does not work",
        "\n".join(f"- {line}" for line in _troubles(client)),
        "## Second-hand",
        SECOND_HAND,
        "\n".join(f"- {source}" for source in client.sources),
    ]
    return page(blocks)


def _troubles(client: Client) -> Iterator[str]:
    yield f"Logs: {client.logs}."
    yield "`flux-mcp doctor` says what is installed and what draws."
    if client.scopes:
        yield (
            f"`flux-mcp connect {client.id}` says whether the entry is still the right one; after "
            "flux-mcp was installed elsewhere it is not."
        )
    yield "The path of the command must be whole: clients start it without a shell."
    yield "What the worker wrote last is in `logs/worker.log` of the data folder."
    yield from client.notes


def _http_blocks(client: Client) -> list[str]:
    if client.http is None:
        return [f"Over HTTP: not possible. {client.no_http}."]
    if client.token is not None:
        about = f"The client calls a server that runs (`flux-mcp connect {client.id} --http`):"
        return [about, _fenced(client, http_entry(client, DEFAULT_URL, None))]
    return [
        (
            "The client calls a server that runs "
            f"(`flux-mcp connect {client.id} --http --token-in-file`). {client.no_token}."
        ),
        _fenced(client, http_entry(client, DEFAULT_URL, "...")),
    ]


def _fenced(client: Client, entry: Mapping[str, Any]) -> str:
    language = "toml" if client.format == "toml" else "json"
    return f"```{language}\n{snippet(client, 'flux', entry)}\n```"


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
