"""`flux-mcp demo`: show the real server at work."""

from pathlib import Path
from typing import Annotated

import typer

from flux_mcp.cli.common import (
    AsJson,
    ConfigPath,
    DataDir,
    new_app,
    read_settings,
    run,
    set_up_logging,
)

app = new_app()


@app.command()
def demo(
    *,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Where to put the sheet of all images; else demo.png in the data folder.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Start the real server, call each tool that generates, and show the images.

    The tools are called as an MCP client calls them. Takes some seconds: micro
    generates, whatever else is installed, and the images are kept in the gallery.
    """
    from flux_mcp.cli.demo import demonstrate

    set_up_logging("warning")
    run(
        demonstrate(read_settings(data_dir, config=config), sheet, as_json=as_json),
        lambda: "Stopping the server; finished images are in the gallery.",
    )
