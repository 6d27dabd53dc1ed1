"""`flux-mcp connect`: an MCP client's entry for this server."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run_now
from flux_mcp.cli.completing import complete_clients

app = new_app()


@app.command("connect")
def connect_command(
    *,
    client: Annotated[
        str | None,
        typer.Argument(
            help="Its id; without one, all are listed.",
            show_default=False,
            autocompletion=complete_clients,
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the entry, with a backup of the file.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the entry out again, with a backup.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --write: also over a different entry.")
    ] = False,
    http: Annotated[
        bool,
        typer.Option("--http", help="Call a server that runs, instead of starting one."),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="With --http: its address, else http://127.0.0.1:8421/mcp."),
    ] = None,
    token_in_file: Annotated[
        bool,
        typer.Option(
            "--token-in-file",
            help="With --http: write the token itself, not the name of its variable.",
        ),
    ] = False,
    scope: Annotated[
        Literal["user", "project"] | None,
        typer.Option(help="For you everywhere, or for this folder.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="The client's file, if it is not where we look.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="The entry's name.")] = "flux",
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show an MCP client's entry for this server; write it, or take it out again.

    Nothing is written without --write or --remove. Other entries, comments and
    layout stay. Example: flux-mcp connect claude-desktop --write
    """
    from flux_mcp.cli.connect.clients import find_client, load_clients
    from flux_mcp.cli.connect.connecting import ConnectFlags, connect, survey
    from flux_mcp.cli.connect.entries import DEFAULT_URL
    from flux_mcp.cli.connect.printing import print_outcome, print_survey
    from flux_mcp.errors import InvalidRequestError

    def work() -> None:
        clients = load_clients()
        settings = read_settings(data_dir, config=config)
        if write and remove:
            raise InvalidRequestError("--write and --remove exclude each other.", "Give one.")
        if url is not None and not http:
            raise InvalidRequestError("--url goes with --http.", "Add --http.")
        if client is None:
            if write or remove:
                raise InvalidRequestError("Which client?", "'flux-mcp connect' lists them.")
            print_survey(survey(clients, settings, name), as_json=as_json)
            return
        flags = ConnectFlags(
            name=name,
            scope=scope,
            file=None if file is None else file.expanduser().absolute(),
            url=(url or DEFAULT_URL) if http else None,
            token_in_file=token_in_file,
            replace=replace,
            pin_data_dir=data_dir is not None,
            task="write" if write else "remove" if remove else "show",
        )
        outcome = connect(find_client(client, clients), settings, flags)
        print_outcome(outcome, flags, as_json=as_json)

    run_now(work)
