"""flux-mcp conformance: the server that the official conformance suite runs against.

Hidden in the list of commands: users have no use for it. docs/conformance.md says who has.
"""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from flux_mcp.cli.common import ConfigPath, read_settings, run_now, set_up_logging

PORT = 8799


def add_conformance(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(hidden=True)
    def conformance(
        port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = PORT,
        data_dir: Annotated[
            Path | None,
            typer.Option(
                help="Gallery, queue and pictures; else a folder that is removed at the end."
            ),
        ] = None,
        config: ConfigPath = None,
        log_level: Annotated[
            str | None, typer.Option(help="debug, info, warning or error; goes to stderr.")
        ] = None,
    ) -> None:
        """Serve what the MCP conformance suite calls, for developers of clients and of flux-mcp.

        The product's own HTTP server on 127.0.0.1, without a token, with the suite's fixtures
        beside the eight tools.
        """
        from flux_mcp.server.conformance.app import build_conformance_server
        from flux_mcp.server.http import serve_http
        from flux_mcp.service import Service

        with ExitStack() as stack:
            made = data_dir or Path(stack.enter_context(TemporaryDirectory(prefix="flux-mcp-")))
            settings = read_settings(
                made,
                config=config,
                log_level=log_level,
                transport="http",
                host="127.0.0.1",
                port=port,
                loopback_without_token=True,
            )
            set_up_logging(settings.log_level, settings.log_format)
            service = Service(settings)
            run_now(lambda: serve_http(service, build_conformance_server(service)))
