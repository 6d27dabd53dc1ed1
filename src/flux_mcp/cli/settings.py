"""`flux-mcp doctor --settings`: every setting, its value, where it is set, and what is wrong."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table

from flux_mcp.cli.common import EXIT_REQUEST, complain, console, plain, print_json
from flux_mcp.cli.settings_guide import example_config
from flux_mcp.settings.sources import DEFAULT, Explained, explain


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


def print_example() -> None:
    """Print a config.toml to begin with."""
    sys.stdout.write(example_config())


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
