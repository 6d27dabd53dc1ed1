"""`flux-mcp jobs`: look at the queue and cancel jobs."""

from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run
from flux_mcp.cli.completing import complete_jobs

app = new_app(is_group=True)


@app.command("list")
def list_jobs(
    *,
    all_jobs: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most rows with --all.")] = 20,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show who runs and who waits; with --all the newest jobs, ended ones too."""
    from flux_mcp.cli.jobs import print_queue, print_recent_jobs

    settings = read_settings(data_dir, config=config)
    if all_jobs:
        run(print_recent_jobs(settings, limit, as_json=as_json))
    else:
        run(print_queue(settings, as_json=as_json))


@app.command()
def show(
    *,
    job_id: Annotated[
        str,
        typer.Argument(
            help="Its id, as 'jobs list --all' shows it; - reads it.", autocompletion=complete_jobs
        ),
    ],
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show one job: how far it is, why it failed, its images."""
    from flux_mcp.cli.jobs import print_job

    run(print_job(read_settings(data_dir, config=config), job_id, as_json=as_json))


@app.command()
def cancel(
    *,
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Their ids, as 'jobs list' shows them; - reads them from stdin.",
            metavar="[JOB_ID]...",
            autocompletion=complete_jobs,
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Instead: every unfinished job of it.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs, or all of a session; a running one stops at its next step."""
    from flux_mcp.cli.jobs import cancel_jobs

    settings = read_settings(data_dir, config=config)
    run(cancel_jobs(settings, tuple(job_ids or ()), session, as_json=as_json))
