"""`flux-mcp models list|info|pull|verify|remove`: flags; the work is in weights.py and pulls.py."""

from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, read_settings

ModelId = Annotated[str, typer.Argument(help="Its id, as 'models list' shows it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_weights_commands(app: typer.Typer) -> None:
    """Add the commands about weights on disk."""
    _add_looking(app)
    _add_pull(app)
    _add_verify(app)
    _add_remove(app)


def _add_looking(app: typer.Typer) -> None:
    @app.command("list")
    def list_(data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False) -> None:
        """Show every model: whether its weights are here, what it draws, its licence and size."""
        from flux_mcp.cli import weights
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: weights.print_models(read_settings(data_dir, config=config), as_json=as_json)
        )

    @app.command()
    def info(
        model: ModelId,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show one model: where it comes from, where it lies, what it needs."""
        from flux_mcp.cli import weights
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: weights.print_model(
                read_settings(data_dir, config=config), model, as_json=as_json
            )
        )


def _add_pull(app: typer.Typer) -> None:
    @app.command()
    def pull(
        models: Annotated[
            list[str] | None, typer.Argument(help="Ids, as 'models list' shows them.")
        ] = None,
        gpu: Annotated[
            str | None,
            typer.Option("--for", help="Instead: what suits a GPU with so much memory, as 24GB."),
        ] = None,
        yes: Yes = False,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Download weights; broken off, the same command goes on where it was.

        Every file is checked against the hub's hash. Ctrl-C stops it. Agents can watch it by the
        id it prints. Example: flux-mcp models pull flux1-schnell
        """
        from flux_mcp.cli import pulls
        from flux_mcp.cli.common import run, set_up_logging

        set_up_logging("warning")
        settings = read_settings(data_dir, config=config)
        run(pulls.pull(settings, pulls.PullFlags(tuple(models or ()), gpu, yes), as_json=as_json))


def _add_verify(app: typer.Typer) -> None:
    @app.command()
    def verify(
        model: Annotated[
            str | None, typer.Argument(help="Its id; else every model that is here.")
        ] = None,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Read every file of the weights and compare its hash; the network is not used.

        Ends with 1 if a file is wrong; 'models pull' then has it again.
        """
        from flux_mcp.cli import weights
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: weights.verify(read_settings(data_dir, config=config), model, as_json=as_json)
        )


def _add_remove(app: typer.Typer) -> None:
    @app.command()
    def remove(
        model: ModelId,
        yes: Yes = False,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Delete a model's weights, but nothing that another model on this disk draws with."""
        from flux_mcp.cli import weights
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: weights.remove_model(
                read_settings(data_dir, config=config), model, is_agreed=yes, as_json=as_json
            )
        )
