"""`flux-mcp import`: bring images in and print their ids."""

from pathlib import Path
from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run

app = new_app()


@app.command()
def import_images(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(help="Images, wherever they are; - reads one.", show_default=False),
    ],
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Bring images in, wherever they are, and print the ids that tools take.

    The same image has the same id, and is stored once. The files stay as they are. All are tried;
    the exit code is 1 if one cannot be used.

    Example: flux-mcp import car.jpg ~/Downloads/house.webp
    """
    from flux_mcp.cli.importing import print_imported

    run(print_imported(read_settings(data_dir, config=config), files, as_json=as_json))
