"""`flux-mcp serve`: its flags and its help; entry.py serves, and reads plain calls itself."""

from typing import Annotated

import typer

from flux_mcp.cli.common import ConfigPath, DataDir, new_app, read_settings, run_now

app = new_app()


@app.command()
def serve(
    *,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    preload: Annotated[
        bool | None,
        typer.Option("--preload", help="Start the worker now, not at the first job."),
    ] = None,
    transport: Annotated[
        str | None,
        typer.Option(help="stdio for a client that starts it; http or sse to listen."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: a free one.")] = None,
    sse: Annotated[
        bool | None, typer.Option("--sse", help="With http: the older SSE transport as well.")
    ] = None,
    loopback_without_token: Annotated[
        bool | None,
        typer.Option(
            "--loopback-without-token",
            help="Admit every program of this machine without a token.",
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error; goes to stderr.")
    ] = None,
) -> None:
    """Serve MCP: over stdin and stdout for clients that start it, or over HTTP.

    Over HTTP callers send a token. It is in the file 'tokens' of the data folder,
    which is made at the first start.
    """
    from flux_mcp.cli.entry import serve_with
    from flux_mcp.server.transports.stdout import StdoutGuard

    guard = StdoutGuard()
    settings = read_settings(
        data_dir,
        config=config,
        preload=preload,
        transport=transport,
        host=host,
        port=port,
        sse=sse,
        loopback_without_token=loopback_without_token,
        log_level=log_level,
    )
    run_now(lambda: serve_with(settings, guard))
