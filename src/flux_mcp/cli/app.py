"""The commands and their flags; the work is in the modules beside this one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flux_mcp import __version__
from flux_mcp.cli.common import (
    HELP_FLAGS,
    AsJson,
    ConfigPath,
    DataDir,
    given_flags,
    read_settings,
    run_now,
    set_up_logging,
)
from flux_mcp.cli.connect.command import add_connect
from flux_mcp.cli.gallery_commands import gallery_app
from flux_mcp.cli.generate_command import add_generate
from flux_mcp.cli.jobs_commands import jobs_app
from flux_mcp.cli.loras_commands import loras_app
from flux_mcp.cli.models_commands import models_app
from flux_mcp.cli.packs_commands import packs_app

_HELP = (
    "FLUX on your own GPU, for every MCP client.\n\n"
    "Start with [bold]flux-mcp doctor[/bold] to see what is installed and what to do next, or "
    "with [bold]flux-mcp demo[/bold] to see images made."
)


def main() -> None:
    """Run the command line."""
    build_app()()


def build_app() -> typer.Typer:
    """Return the command tree."""
    app = typer.Typer(
        name="flux-mcp",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings=HELP_FLAGS,
    )
    _add_root(app)
    _add_serve(app)
    add_generate(app)
    _add_demo(app)
    _add_doctor(app)
    add_connect(app)
    app.add_typer(jobs_app(), name="jobs", help="Look at the queue and cancel jobs.")
    app.add_typer(gallery_app(), name="gallery", help="Find and show finished images.")
    app.add_typer(models_app(), name="models", help="See, plan, download, check, remove models.")
    app.add_typer(loras_app(), name="loras", help="Look at the LoRAs of the data folder.")
    app.add_typer(packs_app(), name="packs", help="Use, judge, check and write prompt packs.")
    return app


def _add_root(app: typer.Typer) -> None:
    def print_version(asked: bool) -> None:
        if asked:
            typer.echo(f"flux-mcp {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None: ...


def _add_serve(app: typer.Typer) -> None:
    @app.command()
    def serve(
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
                help="Let every program of this machine in without a token.",
            ),
        ] = None,
        log_level: Annotated[
            str | None, typer.Option(help="debug, info, warning or error; goes to stderr.")
        ] = None,
    ) -> None:
        """Serve MCP: over stdin and stdout for clients that start it, or over HTTP.

        Over HTTP callers send a token. It is in the file 'tokens' of the data folder, which is made
        at the first start.
        """
        from flux_mcp.server.transports.stdout import StdoutGuard

        guard = StdoutGuard()
        from flux_mcp.observability.tracing import start_tracing

        settings = read_settings(
            data_dir,
            config=config,
            preload=preload,
            log_level=log_level,
            transport=transport,
            host=host,
            port=port,
            sse=sse,
            loopback_without_token=loopback_without_token,
        )
        set_up_logging(settings.log_level, settings.log_format)
        run_now(lambda: start_tracing(settings))
        from flux_mcp.service.service import Service

        if settings.transport != "stdio":
            from flux_mcp.server.transports.http import serve_http

            run_now(lambda: serve_http(Service(settings)))
            return
        from flux_mcp.server.transports.stdio import serve_stdio

        if sys.stdin.isatty():
            typer.echo(
                "Speaking MCP on stdin and stdout: an MCP client starts this (see mcp.json), "
                "'flux-mcp demo' shows it at work. Ctrl-C ends it.",
                err=True,
            )
        serve_stdio(Service(settings), guard)


def _add_demo(app: typer.Typer) -> None:
    @app.command()
    def demo(
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
        """Start the real server, let each drawing tool draw, and show what came out.

        It is called as an MCP client calls it. Takes some seconds: micro draws, whatever else is
        installed, and the images are kept in the gallery.
        """
        from flux_mcp.cli.common import run
        from flux_mcp.cli.demo import demonstrate

        set_up_logging("warning")
        run(demonstrate(read_settings(data_dir, config=config), sheet, as_json=as_json))


def _add_doctor(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        worker: Annotated[
            bool, typer.Option("--worker", help="Also start a worker and ask what it draws on.")
        ] = False,
        settings: Annotated[
            bool,
            typer.Option("--settings", help="Instead: every setting, its value, where it is set."),
        ] = False,
        example_config: Annotated[
            bool,
            typer.Option("--example-config", help="Instead: a config.toml to begin with."),
        ] = False,
        vram: Annotated[
            float | None,
            typer.Option(help="Show what a GPU of this memory would draw, GiB; else this one."),
        ] = None,
        ram: Annotated[
            float | None, typer.Option(help="Count with this host memory, GiB; else this one's.")
        ] = None,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show GPU, memory, what fits in each quality, what is here, and what to do next.

        docs/doctor.md explains every line, and every key of --json.
        """
        from flux_mcp.cli.common import run
        from flux_mcp.cli.settings import print_example, print_settings

        set_up_logging("warning")
        if example_config:
            print_example()
            return
        if settings:
            print_settings(given_flags(data_dir, config=config), as_json=as_json)
            return
        from flux_mcp.cli.doctor import DoctorFlags, examine_and_print

        read = read_settings(data_dir, config=config)
        run(examine_and_print(read, DoctorFlags(worker, vram, ram), as_json=as_json))
