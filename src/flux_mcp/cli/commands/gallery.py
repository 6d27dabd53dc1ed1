"""`flux-mcp gallery`: find and show finished images."""

from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run
from flux_mcp.cli.completing import complete_images, complete_kinds, complete_models

app = new_app(is_group=True)


@app.command()
def search(
    *,
    query: Annotated[str | None, typer.Argument(help="Words of the prompt.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="generate, edit, fill, structure or vary.", autocompletion=complete_kinds
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model id.", autocompletion=complete_models)
    ] = None,
    session: Annotated[str | None, typer.Option(help="Session name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    created_after: Annotated[str | None, typer.Option(help="2026-01-31, inclusive.")] = None,
    created_before: Annotated[str | None, typer.Option(help="2026-02-01, exclusive.")] = None,
    limit: Annotated[int | None, typer.Option(help="Rows: 20, or up to 50.")] = None,
    cursor: Annotated[str | None, typer.Option(help="As the page before printed it.")] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Find images, newest first."""
    from flux_mcp.cli.gallery import print_hits

    asked = {
        "query": query,
        "kind": kind,
        "model": model,
        "session": session,
        "seed": seed,
        "created_after": created_after,
        "created_before": created_before,
        "limit": limit,
        "cursor": cursor,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    run(print_hits(read_settings(data_dir, config=config), given, as_json=as_json))


@app.command()
def show(
    *,
    image_id: Annotated[
        str,
        typer.Argument(
            help="Its id, as 'gallery search' shows it; - reads it.", autocompletion=complete_images
        ),
    ],
    in_terminal: Annotated[
        bool | None, typer.Option("--show/--no-show", help="Show it in the terminal.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known about one image: where it is and how it was made."""
    from flux_mcp.cli.gallery import print_image

    settings = read_settings(data_dir, config=config)
    run(print_image(settings, image_id, in_terminal=in_terminal, as_json=as_json))
