"""The settings for people: `doctor --settings`, `doctor --example-config`, the reference page."""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.table import Table

from flux_mcp.cli.common import EXIT_REQUEST, complain, console, plain, print_json
from flux_mcp.settings.files import NEVER_IN_A_FILE
from flux_mcp.settings.settings import Settings
from flux_mcp.settings.sources import DEFAULT, Explained, explain, kind_of

# --- doctor --settings -------------------------------------------------------------------------


def print_settings(given: Mapping[str, Any], *, as_json: bool) -> None:
    """Print where every value comes from; what is wrong goes to stderr, or into the JSON.

    Args:
        given: The values of the command's flags, by the name of the setting.
        as_json: Print one JSON document.

    Raises:
        typer.Exit: the settings cannot be used.
    """
    explained = explain(given)
    if as_json:
        print_json(asdict(explained))
    else:
        _print(explained)
        for problem in explained.problems:
            complain(problem)
    if explained.problems:
        raise typer.Exit(EXIT_REQUEST)


def _print(explained: Explained) -> None:
    out = console()
    for path, is_there in explained.files.items():
        out.print(f"{'read' if is_there else 'not there':<9}  {plain(path)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("source", overflow="fold")
    for row in explained.settings:
        value = _in_words(row.value)
        style = None if row.source == DEFAULT else "bold"
        table.add_row(row.name, plain(value), plain(row.source), style=style)
    out.print(table, soft_wrap=False)


def _in_words(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value)


# --- sections and the example ------------------------------------------------------------------

WIDTH = 88
"""Characters in a line of the example."""

MACHINE_DEFAULTS: Mapping[str, str] = {
    "data_dir": "`data/` in a checkout, else the platform's folder for a user's data",
    "weights_dir": "`weights/` inside the package",
    "models_file": "`models.toml` in the platform's folder for a user's configuration; none where "
    "`config` is given",
    "packs_dir": "`packs/` in a checkout, else inside the package",
    "allowed_dirs": "`Pictures` in the user's home",
}
"""Defaults that differ from machine to machine: how they are found."""


@dataclass(frozen=True)
class Section:
    """Settings that belong together, in the order in which people read them."""

    title: str
    names: tuple[str, ...]


SECTIONS = (
    Section("Files", ("config", "data_dir", "weights_dir", "models_file", "packs_dir")),
    Section("Models", ("licences", "disk_reserve_gib")),
    Section(
        "Drawing",
        (
            "device",
            "torch_threads",
            "host_memory_gib",
            "preload",
            "idle_unload_s",
            "stall_timeout_s",
        ),
    ),
    Section("Speed", ("attention", "compile", "channels_last")),
    Section("Weights of the next job", ("prefetch", "prefetch_min_mb")),
    Section("Encoded prompts", ("embedding_cache_mb", "embedding_cache_disk_mb")),
    Section("Queue", ("queue_limit", "max_overtakes", "cancel_grace_s")),
    Section("Calls", ("default_wait_s", "on_disconnect")),
    Section("Previews", ("preview_every_steps", "preview_interval_s")),
    Section("Tools", ("tools", "compact_schemas")),
    Section("Results", ("links", "structured", "preview", "preview_bytes", "preview_pixels")),
    Section(
        "Images that come in",
        (
            "allowed_dirs",
            "clipboard",
            "ask_page",
            "max_image_bytes",
            "max_image_pixels",
            "edit_fit",
            "upscaler",
        ),
    ),
    Section(
        "Network",
        (
            "transport",
            "host",
            "port",
            "sse",
            "token",
            "token_file",
            "loopback_without_token",
            "allowed_hosts",
            "allowed_origins",
            "public_url",
            "max_body_bytes",
            "max_bodies_bytes",
            "body_timeout_s",
            "max_connections",
            "max_sessions",
            "requests_per_s",
            "max_requests",
        ),
    ),
    Section("Logs and traces", ("log_level", "log_format", "otlp_endpoint")),
)
"""Every setting, once; a test compares this with the fields of `Settings`."""


@dataclass(frozen=True)
class Entry:
    """What a person should know about one setting.

    Args:
        name: Field of `Settings`, and key of config.toml.
        about: What it does.
        allowed: Type and range, in words.
        default: As TOML writes it; empty if it is unset or differs from machine to machine.
        default_in_words: How it is found where it differs; else empty.
    """

    name: str
    about: str
    allowed: str
    default: str
    default_in_words: str


def entries(section: Section) -> Iterator[Entry]:
    """Yield what there is to say about the settings of a section."""
    properties: Mapping[str, Any] = Settings.model_json_schema()["properties"]
    for name in section.names:
        field = properties[name]
        in_words = MACHINE_DEFAULTS.get(name, "")
        default = None if in_words else field.get("default")
        yield Entry(
            name=name,
            about=field["description"],
            allowed=kind_of(field).removesuffix(" or null"),  # null is said by leaving it out
            # JSON's numbers, strings, lists, true and false are TOML's too.
            default="" if default is None else json.dumps(default),
            default_in_words=in_words,
        )


def print_example() -> None:
    """Print a config.toml to begin with."""
    sys.stdout.write(example_config())


def example_config() -> str:
    """Return a config.toml that names every setting and changes none: each is commented out.

    `# ` begins prose, `#` alone a setting; one without a value has no default that could be shown.
    """
    lines = _prose(
        "Settings of flux-mcp. Each is shown with its default; take away the # before one to "
        "change it. Flags and FLUX_MCP_ variables win over this file. Relative paths are relative "
        "to this file's folder. 'flux-mcp doctor --settings' shows what is in force, and where it "
        "was set."
    )
    for section in SECTIONS:
        lines += ["", f"# --- {section.title} {'-' * (WIDTH - 7 - len(section.title))}"]
        for entry in entries(section):
            if entry.name in NEVER_IN_A_FILE:
                continue
            default = entry.default_in_words or ("" if entry.default else "unset")
            shown = f"Default: {default}." if default else ""
            about = f"{entry.about} Takes: {entry.allowed}. {shown}"
            lines += ["", *_prose(about), f"#{entry.name} = {entry.default}".rstrip()]
    return "\n".join(lines) + "\n"


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
