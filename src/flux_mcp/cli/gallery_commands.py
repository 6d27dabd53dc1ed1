"""`flux-mcp gallery …`: the commands and their flags; the work is in lists.py."""

from typing import Annotated

import typer

from flux_mcp.cli.common import HELP_FLAGS, AsJson, ConfigPath, DataDir, read_settings


def gallery_app() -> typer.Typer:
    """Return the commands of the gallery."""
    gallery = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)

    @gallery.command()
    def search(
        query: Annotated[
            str | None,
            typer.Argument(help="Words of the prompt."),
        ] = None,
        kind: Annotated[
            str | None, typer.Option(help="text2img, kontext, fill, control, redux.")
        ] = None,
        model: Annotated[str | None, typer.Option(help="Model id.")] = None,
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
        from flux_mcp.cli import lists
        from flux_mcp.cli.common import run

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
        run(lists.print_hits(read_settings(data_dir, config=config), given, as_json=as_json))

    @gallery.command()
    def show(
        image_id: Annotated[str, typer.Argument(help="Its id, as 'gallery search' shows it.")],
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show everything known about one image: where it is and how it was made."""
        from flux_mcp.cli import lists
        from flux_mcp.cli.common import run

        run(lists.print_image(read_settings(data_dir, config=config), image_id, as_json=as_json))

    return gallery
