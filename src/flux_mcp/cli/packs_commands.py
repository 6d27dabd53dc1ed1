"""`flux-mcp packs …`: the commands and their flags; the rest is in packs.py and compositions.py."""

from pathlib import Path
from typing import Annotated

import typer

from flux_mcp.cli.common import HELP_FLAGS, AsJson, ConfigPath, DataDir, read_settings

PackName = Annotated[str, typer.Argument(help="Its name, as 'packs list' shows it.")]


def packs_app() -> typer.Typer:
    """Return the commands of `flux-mcp packs`."""
    app = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)
    _add_looking(app)
    _add_compose(app)
    _add_audit(app)
    _add_making(app)
    return app


def _add_looking(app: typer.Typer) -> None:
    @app.command("list")
    def list_(data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False) -> None:
        """Show the packs there are, shipped ones and your own, and what is wrong with any."""
        from flux_mcp.cli import packs
        from flux_mcp.cli.common import run_now

        run_now(lambda: packs.print_packs(read_settings(data_dir, config=config), as_json=as_json))

    @app.command()
    def show(
        name: PackName, data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False
    ) -> None:
        """Show what a pack holds: subjects, variables with their choices, what it forbids."""
        from flux_mcp.cli import packs
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: packs.print_pack(read_settings(data_dir, config=config), name, as_json=as_json)
        )


def _add_compose(app: typer.Typer) -> None:
    @app.command()
    def compose(
        name: PackName,
        subject: Annotated[
            str | None, typer.Option(help="One of its subjects, '*' for any, or your own words.")
        ] = None,
        variable: Annotated[
            list[str] | None,
            typer.Option("--var", help="light=window, light='*', light='window:3|softbox:1'."),
        ] = None,
        extra: Annotated[str | None, typer.Option(help="Words of your own for the end.")] = None,
        seed: Annotated[
            int, typer.Option(min=0, help="Decides what '*' takes: the image's own seed.")
        ] = 0,
        count: Annotated[
            int, typer.Option(min=1, max=100, help="Compose for so many seeds, counting up.")
        ] = 1,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Print the prompt a pack makes, and what its audit says; nothing is drawn.

        Ends with 2 if the audit refuses it. Example: flux-mcp packs compose product-shot --subject
        "a green glass carafe" --var light=window
        """
        from flux_mcp.cli import compositions
        from flux_mcp.cli.common import run_now

        asked = compositions.PackFlags(
            name, subject, tuple(variable or ()), extra or "", seed, count
        )
        run_now(
            lambda: compositions.print_compositions(
                read_settings(data_dir, config=config), asked, as_json=as_json
            )
        )


def _add_audit(app: typer.Typer) -> None:
    @app.command()
    def audit(
        text: Annotated[str, typer.Argument(help="What is judged; - reads standard input.")],
        forbid: Annotated[
            list[str] | None, typer.Option(help="A word or a phrase it must not mention.")
        ] = None,
        forbid_regex: Annotated[
            list[str] | None, typer.Option(help="A regular expression it must not match.")
        ] = None,
        pack: Annotated[str | None, typer.Option(help="Also all that this pack forbids.")] = None,
        strict: Annotated[
            bool, typer.Option("--strict", help="End with 2 if the verdict is refuse.")
        ] = False,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Say whether a text mentions what it must not. It understands negation.

        Prints the verdict (pass, warn or refuse) and what was found where. Example: flux-mcp packs
        audit --forbid people --forbid text "an empty street, no people or signs with text"
        """
        from flux_mcp.cli import compositions
        from flux_mcp.cli.common import run_now

        judging = compositions.Judging(
            text, tuple(forbid or ()), tuple(forbid_regex or ()), pack, is_strict=strict
        )
        run_now(
            lambda: compositions.print_audit(
                read_settings(data_dir, config=config), judging, as_json=as_json
            )
        )


def _add_making(app: typer.Typer) -> None:
    @app.command()
    def check(
        folder: Annotated[
            Path | None,
            typer.Argument(
                help="A pack's name or folder, or a folder of packs; else your own and the shipped."
            ),
        ] = None,
        data_dir: DataDir = None,
        config: ConfigPath = None,
        as_json: AsJson = False,
    ) -> None:
        """Check packs thoroughly: every file, every choice, every prompt they can make.

        Ends with 0 if all can be used (warnings are printed), with 1 if one cannot, with 2 if there
        is no pack. For the CI of a repository of packs.
        """
        from flux_mcp.cli import packs
        from flux_mcp.cli.common import run_now

        run_now(
            lambda: packs.print_checks(
                read_settings(data_dir, config=config), folder, as_json=as_json
            )
        )

    @app.command()
    def new(
        name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
        folder: Annotated[
            Path | None,
            typer.Option(help="Where to put it; else packs/ in the data folder, where it is used."),
        ] = None,
        data_dir: DataDir = None,
        config: ConfigPath = None,
    ) -> None:
        """Write a small working pack to begin with."""
        from flux_mcp.cli import packs
        from flux_mcp.cli.common import run_now

        run_now(lambda: packs.make_pack(read_settings(data_dir, config=config), name, folder))
