"""`flux-mcp loras …`: the commands and their flags; the work is in loras.py."""

from typing import Annotated

import typer

from flux_mcp.cli.common import HELP_FLAGS, AsJson, ConfigPath, DataDir, read_settings


def loras_app() -> typer.Typer:
    """Return the commands of `flux-mcp loras`."""
    app = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)

    @app.command("list")
    def list_(data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False) -> None:
        """Show the LoRAs there are, what each is for, and what is wrong with any."""
        from flux_mcp.cli import loras
        from flux_mcp.cli.common import run_now

        run_now(lambda: loras.print_loras(read_settings(data_dir, config=config), as_json=as_json))

    @app.command()
    def show(
        name: Annotated[str, typer.Argument(help="Its name, as 'loras list' shows it.")],
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show what is known of one LoRA: family, rank, trigger words, hash, licence."""
        from flux_mcp.cli import loras
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: loras.print_lora(read_settings(data_dir, config=config), name, as_json=as_json)
        )

    return app
