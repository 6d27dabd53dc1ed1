"""`flux-mcp jobs …`: the commands and their flags; the work is in lists.py."""

from typing import Annotated

import typer

from flux_mcp.cli.common import HELP_FLAGS, AsJson, ConfigPath, DataDir, read_settings


def jobs_app() -> typer.Typer:
    """Return the commands of the queue."""
    jobs = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)

    @jobs.command("list")
    def list_(
        all_jobs: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
        limit: Annotated[int, typer.Option(min=1, max=1000, help="Most rows with --all.")] = 20,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show who runs and who waits; with --all the newest jobs, ended ones too."""
        from flux_mcp.cli import lists
        from flux_mcp.cli.common import run

        settings = read_settings(data_dir, config=config)
        if all_jobs:
            run(lists.print_recent_jobs(settings, limit, as_json=as_json))
        else:
            run(lists.print_queue(settings, as_json=as_json))

    @jobs.command()
    def show(
        job_id: Annotated[str, typer.Argument(help="Its id, as 'jobs list --all' shows it.")],
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Show one job: how far it is, why it failed, its images."""
        from flux_mcp.cli import lists
        from flux_mcp.cli.common import run

        run(lists.print_job(read_settings(data_dir, config=config), job_id, as_json=as_json))

    @jobs.command()
    def cancel(
        job_id: Annotated[
            str | None, typer.Argument(help="Its id, as 'jobs list' shows it.")
        ] = None,
        session: Annotated[
            str | None, typer.Option(help="Instead: every unfinished job of it.")
        ] = None,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Cancel one job, or all of a session; a running one stops at its next step."""
        from flux_mcp.cli import lists
        from flux_mcp.cli.common import run

        asked = {"job_id": job_id, "session": session}
        given = {name: value for name, value in asked.items() if value is not None}
        run(lists.cancel_jobs(read_settings(data_dir, config=config), given, as_json=as_json))

    return jobs
