"""`flux-mcp models …`: what can be drawn with."""

import typer

from flux_mcp.cli.common import HELP_FLAGS
from flux_mcp.cli.weights_commands import add_weights_commands


def models_app() -> typer.Typer:
    """Return the commands of `flux-mcp models`."""
    app = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)
    add_weights_commands(app)
    return app
