"""`flux-mcp doctor`: show what is here, and what to do next."""

from typing import Annotated

import typer

from flux_mcp.cli.common import (
    AsJson,
    ConfigPath,
    DataDir,
    given_flags,
    new_app,
    read_settings,
    run,
    set_up_logging,
)

app = new_app()


@app.command()
def doctor(
    *,
    worker: Annotated[
        bool, typer.Option("--worker", help="Also start a worker and ask which device it uses.")
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
        typer.Option(help="Plan for a GPU with this memory, GiB; else this machine's."),
    ] = None,
    ram: Annotated[
        float | None,
        typer.Option(help="Plan with this RAM, GiB; else this machine's."),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show GPU, memory, what fits in each quality, what is here, and what to do next.

    docs/doctor.md explains every line, and every key of --json.
    """
    from flux_mcp.cli.doctor import DoctorFlags, examine_and_print
    from flux_mcp.cli.settings import print_example, print_settings

    set_up_logging("warning")
    if example_config:
        print_example()
        return
    if settings:
        print_settings(given_flags(data_dir, config=config), as_json=as_json)
        return
    read = read_settings(data_dir, config=config)
    run(examine_and_print(read, DoctorFlags(worker, vram, ram), as_json=as_json))
