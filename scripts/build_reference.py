"""Write the reference pages of docs/ from the code, and the schema of prompt packs.

python scripts/build_reference.py            write docs/tools.md, settings.md, errors.md,
                                             prompting.md, models/README.md, clients/ and
                                             packs/pack.schema.json
python scripts/build_reference.py --check    fail if one of them is not what the code says
"""

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from flux_mcp import errors
from flux_mcp.cli import common
from flux_mcp.cli.app import build_app
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
from flux_mcp.cli.origins import variable_of
from flux_mcp.cli.settings_guide import SECTIONS, Entry, Section, entries, example_config
from flux_mcp.compose.guide import guide
from flux_mcp.compose.schema import SCHEMA_FILE, pack_schema_text
from flux_mcp.config import Settings
from flux_mcp.models.candidates import Card, Machine, Wanted, as_if_installed
from flux_mcp.models.engine import engine_with
from flux_mcp.models.formats import load_formats
from flux_mcp.models.parts import PLACEMENTS, load_parts
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import KINDS, QUALITIES, ModelSpec, load_registry
from flux_mcp.models.tiers import choose_tier
from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.schema_words import Schema, default_of, kind_of
from flux_mcp.server.results import MAX_PREVIEW_BYTES, MAX_PREVIEWS
from flux_mcp.server.schema import input_schema, output_schema
from flux_mcp.server.tools import TOOLS, ToolRow
from flux_mcp.settings_files import NEVER_IN_A_FILE

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKS = DOCS.parent / "packs"
NOTE = "<!-- Written by scripts/build_reference.py from the code: change that, then run it. -->"


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "tools.md": tools_page(),
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "prompting.md": prompting_page(),
        "models/README.md": models_page(),
        "clients/README.md": clients_page(),
        **{f"clients/{client.id}.md": client_page(client) for client in load_clients()},
    }


# --- tools ---------------------------------------------------------------------------------------


def tools_page() -> str:
    """Return what the eight tools take and give."""
    drawing = [row for row in TOOLS if row.request in DRAW_REQUESTS.values()]
    common_names = _common([input_schema(row.request)["properties"] for row in drawing])
    shared = input_schema(drawing[0].request)
    lines = [
        NOTE,
        "# The tools",
        (
            f"{len(TOOLS)} tools, always listed in this order. "
            "This page says what they take and what they give; the [README](../README.md) says "
            "what they are for."
        ),
        (
            "An argument of another name, type or range is refused, not repaired: the answer is a "
            "tool error `[code] what is wrong. what to do.` with a code of [errors.md](errors.md)."
        ),
        _table(
            "tool", "in short", rows=((f"[`{row.name}`](#{row.name})", row.title) for row in TOOLS)
        ),
        "## What an answer holds",
        (
            "- a **text** with every fact a model needs that cannot see pictures: id, size, seed, "
            "model, file, URI, notices;\n"
            f"- **previews** as WebP, at most {MAX_PREVIEWS} of {MAX_PREVIEW_BYTES:,} bytes; "
            "more pictures come as one numbered contact sheet; the whole answer stays below 1 MB;\n"
            "- a **resource link** to each full PNG, `flux://images/{id}` "
            "(`flux://images/{id}/thumbnail` is a WebP of 512 px, `flux://jobs/{id}` a job as "
            "JSON);\n"
            "- **structured content** as listed under [Answers](#answers), with a published schema."
        ),
        "## Arguments the drawing tools share",
        f"{', '.join(f'`{row.name}`' for row in drawing)} all take these.",
        _fields(shared, only=common_names),
        *(_tool(row, common_names if row in drawing else frozenset()) for row in TOOLS),
        "## Answers",
        (
            "Structured content; the command line prints the same objects with `--json`. "
            "`null` is a value here."
        ),
        *(_answer(model) for model in dict.fromkeys(row.answer for row in TOOLS)),
    ]
    return _page(lines)


def _common(properties: Sequence[Schema]) -> frozenset[str]:
    first, *others = properties
    return frozenset(
        name for name in first if all(other.get(name) == first[name] for other in others)
    )


def _tool(row: ToolRow, without: frozenset[str]) -> str:
    schema = input_schema(row.request)
    own = frozenset(schema["properties"]) - without
    beside = (
        " Beside the [shared arguments](#arguments-the-drawing-tools-share):" if without else ""
    )
    answer = f"Answer: [`{row.answer.__name__}`](#{row.answer.__name__.lower()}).{beside}"
    return "\n\n".join([f"## {row.name}", row.description, answer, _fields(schema, only=own)])


def _answer(model: Any) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    return "\n\n".join([f"### {model.__name__}", about, _fields(output_schema(model), answer=True)])


def _fields(schema: Schema, *, only: frozenset[str] | None = None, answer: bool = False) -> str:
    names = ("field", "type", "meaning") if answer else ("argument", "type", "default", "meaning")
    rows = []
    for name, field, is_required in _walk(schema):
        if only is not None and name.split(".")[0].removesuffix("[]") not in only:
            continue
        cells = [f"`{name}`", kind_of(field), field.get("description", "")]
        if not answer:
            cells.insert(2, "required" if is_required else default_of(field))
        rows.append(cells)
    return _table(*names, rows=rows)


def _walk(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Yield every field, also of nested objects (`mask.box.x`) and lists (`images[].id`)."""
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}", field, name in schema.get("required", ())
        for inner in (field, *field.get("anyOf", ())):
            yield from _walk(inner, f"{prefix}{name}.")
            yield from _walk(inner.get("items", {}), f"{prefix}{name}[].")


# --- settings ------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return every setting with its key, its variable and its flag, and how a file looks."""
    flags = flags_of_settings()
    lines = [
        NOTE,
        "# Settings",
        (
            "Each setting is a key of `config.toml`, an environment variable, and in some commands "
            "a flag. A flag wins over the environment, the environment over the files, a file over "
            "the default. An MCP client sets variables in the `env` of its entry for this server."
        ),
        (
            "`flux-mcp doctor --settings` shows every value with the place it comes from, and "
            "what is wrong; with `--json` for programs. Secrets are shown as set or unset."
        ),
        "## Configuration files",
        (
            "`flux-mcp doctor --example-config` prints a file to begin with; "
            "[it stands below](#an-example). It is looked for in two places, and the first wins, "
            "setting by setting:"
        ),
        (
            "1. `config.toml` in the data folder, for everybody who draws with it: servers on one "
            "data folder share one queue, so they had better agree. It cannot set `data_dir`, "
            "because it is found through it.\n"
            "2. `config.toml` in your own folder for configuration: `~/.config/flux-mcp` on Linux, "
            "`~/Library/Application Support/flux-mcp` on macOS, `%LOCALAPPDATA%\\flux-mcp` on "
            "Windows. It can say where the data folder is."
        ),
        (
            "`--config FILE` or `FLUX_MCP_CONFIG` names one file, which must exist, and no other "
            "is read. `FLUX_MCP_CONFIG=/dev/null` reads none."
        ),
        (
            "- Every key is the name of a setting; there are no tables. Unknown keys are errors.\n"
            "- Paths: `~` is your home. A relative path in a file is relative to that file's "
            "folder, one in a flag or a variable to the working directory.\n"
            "- A file that holds a secret must not be readable by other users of the machine: "
            "`chmod 600 config.toml`. (Not checked on Windows.)\n"
            "- Changes count from the next start of a command or server."
        ),
        (
            f"Settings that cannot be used end a command with exit code {common.EXIT_REQUEST} "
            "and a line that names the flag, the variable, or the file and its line."
        ),
        *(_section(section, flags) for section in SECTIONS),
        "## An example",
        "Everything there is, with its default, and all of it commented out:",
        f"```toml\n{example_config()}```",
    ]
    return _page(lines)


def _section(section: Section, flags: Mapping[str, str]) -> str:
    names = ("key", "variable", "flag", "default", "allowed", "meaning")
    rows = (_setting(entry, flags) for entry in entries(section))
    return f"## {section.title}\n\n{_table(*names, rows=rows)}"


def _setting(entry: Entry, flags: Mapping[str, str]) -> tuple[str, ...]:
    default = entry.default.strip('"')
    return (
        "" if entry.name in NEVER_IN_A_FILE else f"`{entry.name}`",
        f"`{variable_of(entry.name)}`",
        f"`{flags[entry.name]}`" if entry.name in flags else "",
        entry.default_in_words or (f"`{default}`" if default else ""),
        entry.allowed,
        entry.about,
    )


def flags_of_settings() -> dict[str, str]:
    """Return the flag of every setting that a command has one for."""
    found: dict[str, str] = {}
    waiting: list[Any] = [typer.main.get_command(build_app())]
    for command in waiting:
        waiting.extend(getattr(command, "commands", {}).values())
        found |= {one.name: one.opts[0] for one in command.params if one.opts[0].startswith("--")}
    return {name: flag for name, flag in found.items() if name in Settings.model_fields}


# --- errors --------------------------------------------------------------------------------------


def errors_page() -> str:
    """Return the error tree with its codes, and the exit codes of the command line."""
    branches = errors.FluxMcpError.__subclasses__()
    lines = [
        NOTE,
        "# Errors",
        (
            "Every deliberate error is `[code] what is wrong. what to do.` "
            "The codes are stable; the wording may improve. "
            "Tools answer them as tool errors; a job that failed keeps its error as `code`, "
            "`message` and `hint`."
        ),
        *(_branch(branch) for branch in branches if branch.__subclasses__()),
        "## Others",
        _error_rows([branch for branch in branches if not branch.__subclasses__()]),
        "## Exit codes of the command line",
        _table(
            "exit code",
            "when",
            rows=(
                ("0", "it was done"),
                (str(common.EXIT_ENGINE), "weights, worker, disk or database; or the job failed"),
                (str(common.EXIT_REQUEST), "the request, an argument or a setting is wrong"),
                (str(common.EXIT_BUSY), "the queue is full, or the job does not fit"),
                (str(common.EXIT_INTERRUPTED), "Ctrl-C"),
            ),
        ),
    ]
    return _page(lines)


def _branch(branch: type[errors.FluxMcpError]) -> str:
    return f"## {branch.__name__}\n\n{_about(branch)}\n\n{_error_rows(branch.__subclasses__())}"


def _error_rows(classes: Sequence[type[errors.FluxMcpError]]) -> str:
    rows = ((f"`{one.code}`", f"`{one.__name__}`", _about(one)) for one in classes)
    return _table("code", "class", "meaning", rows=rows)


def _about(one: type) -> str:
    return (one.__doc__ or "").strip().splitlines()[0]


# --- prompting -----------------------------------------------------------------------------------


def prompting_page() -> str:
    """Return what a calling model is taught about prompts."""
    title, _, text = guide().partition("\n\n")
    about = (
        "The server gives this text to a calling model that asks how to write a prompt, "
        "whole or for one family of models. It helps people as well."
    )
    return _page([NOTE, title, about, text.strip()])


# --- clients -------------------------------------------------------------------------------------

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
    "out anew, and the sources differ on an entry's shape: `goose configure` adds one, of the type "
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
        _table("client", "file on Linux", "over HTTP", "limit for a call", rows=rows),
        LEFT_OUT,
        "## Time-outs",
        f"{WAITING} So no client's time-out loses a picture.",
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
    return _page(lines)


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
        "From nothing to a picture, once flux-mcp is installed ([README](../../README.md)):",
        "\n".join(steps),
        f"What you see: {client.see}",
    ]
    if has_file:
        blocks += [
            "## The file",
            _table("scope", "platform", "file", rows=_file_rows(client)),
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
    return _page(blocks)


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


# --- models --------------------------------------------------------------------------------------

CARDS_GIB = (8, 12, 16, 24, 32, 48, 141)
"""Sizes of cards the table of qualities shows."""
SKIPPED_COLUMNS = {"origin"}


def models_page() -> str:
    """Return what can be drawn with, which model draws on which card, and how to add one."""
    registry = load_registry()
    lines = [
        NOTE,
        "# Models",
        (
            "What can be drawn with, which of it a `quality` takes on which card, and how to add "
            "your own. The rows are in [models.toml](../../src/flux_mcp/models/models.toml), the "
            "order of preference in [qualities.toml](../../src/flux_mcp/models/qualities.toml), "
            "weights and speeds in [parts.toml](../../src/flux_mcp/models/parts.toml); each number "
            "names its source there. [micro](micro.md) has a page of its own."
        ),
        _table(
            "model",
            "kind",
            "repository",
            "licence",
            "disk, GiB",
            "card, GiB",
            "drawn with today",
            rows=(_model_row(row) for row in registry),
        ),
        (
            "`card` is the most of the card's memory that is taken at the model's own size, in the "
            "precision it is stored in, whole and with parts offloaded: counted and compared with "
            "what others measured, not measured by us. Rows that are not drawn with today are "
            "known to `flux-mcp models plan`; the server neither chooses nor accepts them yet: see "
            "[engine.py](../../src/flux_mcp/models/engine.py)."
        ),
        (
            "FLUX.3 klein has no row. diffusers 0.42 has it as modular pipelines only, which have "
            "no `callback_on_step_end`: there is no supported way to report a step, to show a "
            "preview or to cancel. A pipeline class of its own would be enough."
        ),
        "## Helpers",
        ("Small models that work beside a pipeline, one for each role. Nothing uses them yet."),
        _table(
            "role",
            "model",
            "repository",
            "licence",
            "disk, GiB",
            rows=(
                (
                    one.role,
                    f"`{one.id}`",
                    f"`{one.repository}`",
                    one.licence,
                    f"{one.disk_gib:g}",
                )
                for one in registry.helpers.values()
            ),
        ),
        "## Which model draws",
        (
            "A call that names no `model` gets one by its `quality`. The table shows `text2img` at "
            "the model's own size, with every model installed and enough main memory; "
            "`flux-mcp models plan --quality high --vram 16 --ram 32` shows any other case, and "
            "with `--explain` what was considered."
        ),
        _table(
            "card, GiB",
            *QUALITIES,
            rows=(
                (str(gib), *(_tier_cell(gib, quality) for quality in QUALITIES))
                for gib in CARDS_GIB
            ),
        ),
        (
            "1. The models of the quality are taken in the order below; then others that name the "
            "quality in their row; then the rest, with a notice. Only those that are installed, "
            "that this version can load, whose licence the setting `licences` allows, and that "
            "take as many reference pictures as there are.\n"
            "2. Each is tried in the precisions and placements of the quality, best first: more "
            "bits before fewer, the whole model on the card before parts of it.\n"
            "3. The first that fits is taken: its peak within the free memory of the card (what "
            "our own worker holds counts as free), what waits beside it within the machine's. So "
            "more memory never gives a worse plan.\n"
            "4. Fewer bits than the quality is meant for, another model, streaming, tiles and a "
            "licence that is not free are said in notices. If nothing fits, the call is refused "
            "with `too_little_memory` and with what would fit."
        ),
        _table(
            "kind",
            *QUALITIES,
            rows=(
                (f"`{kind}`", *(_models_cell(kind, quality) for quality in QUALITIES))
                for kind in KINDS
            ),
        ),
        _table(
            "placement",
            "what is where",
            rows=((f"`{name}`", load_parts().placement[name].about) for name in PLACEMENTS),
        ),
        (
            "The card is asked through `nvidia-smi`, at most every five seconds. Without it, or on "
            "a CPU, no memory is known: the first installed model of the order is taken, and the "
            "worker sees how far it comes. What finished jobs took, memory and seconds, is kept "
            "in the data folder for each card, and the next plans use it instead of what is "
            "computed; a peak is only ever learned upwards."
        ),
        "## Your own models",
        (
            "Write `models.toml` in the data folder, for everybody who draws with it, or in the "
            "folder of your `config.toml`, for you; the data folder's wins. Each `[[model]]` needs "
            "an `id`; `extends` takes every other column from a shipped model."
        ),
        (
            "```toml\n"
            "[[model]]                       # another repository of the same kind of weights\n"
            'id = "my-finetune"\n'
            'extends = "flux1-dev"\n'
            'repository = "someone/their-flux-dev"\n'
            'licence = "other"\n\n'
            "[[model]]                       # a pipeline's folder on this disk\n"
            'id = "my-fill"\n'
            'extends = "flux1-fill-dev"\n'
            'folder = "weights/my-fill"      # relative to this file\n\n'
            "[[model]]                       # a transformer in one file; other parts as extended\n"
            'id = "my-gguf"\n'
            'extends = "flux1-dev"\n'
            'gguf = "weights/flux1-dev-Q4_K_S.gguf"   # or: file = "….safetensors"\n'
            'precision = "q4_k"\n\n'
            "[[model]]                       # the id of a shipped model: replaces it\n"
            'id = "flux1-schnell"\n'
            'extends = "flux1-schnell"\n'
            "steps = { low = 2, standard = 4, high = 8 }\n"
            "```"
        ),
        (
            "Weights are one of `repository`, `folder`, `file` and `gguf`; pickles are refused. "
            "Without `kind`, a row stands for every kind of the model it extends. A mistake is "
            "told with its line by `flux-mcp doctor`; the whole file is out of use until it is "
            "mended, and the server runs on with the shipped models."
        ),
        _table(
            "column",
            "type",
            "meaning",
            rows=_columns(),
        ),
    ]
    return _page(lines)


def _model_row(row: ModelSpec) -> tuple[str, ...]:
    disk = f"{row.disk_gib:g}" + (f", and `{row.base}`" if row.base not in (None, row.id) else "")
    whole, offloaded = row.vram_gib["resident"], row.vram_gib["offload"]
    return (
        f"`{row.id}`",
        f"`{row.kind}`",
        "in the package" if row.repository is None else f"`{row.repository}`",
        row.licence,
        disk,
        f"{whole:.0f} / {offloaded:.0f}" if not row.is_demonstration else "a CPU will do",
        "yes" if engine_with(load_formats().extra).can_load(row) else "not yet",
    )


def _tier_cell(gib: float, quality: Any) -> str:
    machine = Machine(Card(gib, gib))
    tier = choose_tier(Wanted("text2img", quality), machine, as_if_installed(load_registry()))
    if tier is None:
        return "nothing"
    chosen, parts = tier.chosen, load_parts()
    bits = parts.precision[chosen.holding.precision].bits
    placement = chosen.holding.placement
    return f"`{chosen.spec.id}`, {bits} bit, `{placement}`, {chosen.peak_gib:.0f} GiB"


def _models_cell(kind: Any, quality: Any) -> str:
    return ", ".join(f"`{name}`" for name in load_qualities().models[kind][quality])


def _columns() -> Iterator[tuple[str, str, str]]:
    """Yield the columns of a row: name, type, and what the code says below each."""
    schema = ModelSpec.model_json_schema()
    (spec,) = ast.parse(inspect.getsource(ModelSpec)).body
    said = {
        field.target.id: text.value.value
        for field, text in pairwise(spec.body)  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    for name, field in schema["properties"].items():
        if name not in SKIPPED_COLUMNS:
            about = str(said.get(name, "")).replace("None", "left out")
            yield f"`{name}`", kind_of(field).removesuffix(" or null"), about


# --- Markdown -------------------------------------------------------------


def _table(*names: str, rows: Any) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _page(blocks: Sequence[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def stale(folder: Path = DOCS) -> list[str]:
    """Return the names of the pages that are not what the code says."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one is stale")
    if not parser.parse_args().check:
        for name, text in pages().items():
            (DOCS / name).parent.mkdir(exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")
        (PACKS / SCHEMA_FILE).write_text(pack_schema_text(), encoding="utf-8")
        return 0
    old = stale()
    if old:
        print(f"stale: {', '.join(old)}. Run: python scripts/build_reference.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
