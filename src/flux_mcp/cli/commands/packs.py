"""`flux-mcp packs`: use, audit, check and write prompt packs."""

from pathlib import Path
from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run_now
from flux_mcp.cli.completing import complete_packs, complete_severities

PackName = Annotated[
    str, typer.Argument(help="Its name, as 'packs list' shows it.", autocompletion=complete_packs)
]


app = new_app(is_group=True)


@app.command("list")
def list_packs(
    *, data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Show the packs there are, shipped ones and your own, and what is wrong with any."""
    from flux_mcp.cli.packs import print_packs

    run_now(lambda: print_packs(read_settings(data_dir, config=config), as_json=as_json))


@app.command()
def show(
    *, name: PackName, data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Show what a pack holds: subjects, variables with their choices, what it forbids."""
    from flux_mcp.cli.packs import print_pack

    run_now(lambda: print_pack(read_settings(data_dir, config=config), name, as_json=as_json))


@app.command()
def compose(
    *,
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
    """Print the prompt a pack makes, and what its audit says; no image is generated.

    Ends with 2 if the audit refuses it.
    Example: flux-mcp packs compose product-shot --var light=window
    """
    from flux_mcp.cli.packs import PackFlags, print_compositions

    asked = PackFlags(name, subject, tuple(variable or ()), extra or "", seed, count)
    run_now(
        lambda: print_compositions(read_settings(data_dir, config=config), asked, as_json=as_json)
    )


@app.command()
def audit(
    *,
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    forbid: Annotated[
        list[str] | None, typer.Option(help="A word or a phrase it must not mention.")
    ] = None,
    forbid_regex: Annotated[
        list[str] | None, typer.Option(help="A regular expression it must not match.")
    ] = None,
    related: Annotated[
        bool,
        typer.Option(
            "--related",
            help="Words of the same idea count for each --forbid: for people crowd, woman.",
        ),
    ] = False,
    allowed_in: Annotated[
        list[str] | None, typer.Option(help="A phrase in which all of it is allowed.")
    ] = None,
    severity: Annotated[
        str,
        typer.Option(
            help="The verdict over what is forbidden: refuse or warn.",
            autocompletion=complete_severities,
        ),
    ] = "refuse",
    pack: Annotated[
        str | None,
        typer.Option(help="Also all that this pack forbids.", autocompletion=complete_packs),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with 2 if the verdict is refuse.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a text mentions what it must not. It understands negation.

    Prints the verdict (pass, warn or refuse) and what was found where.
    Example: flux-mcp packs audit --forbid people "an empty street, no people"
    """
    from flux_mcp.cli.packs import AuditFlags, print_audit

    asked = AuditFlags(
        text=text,
        words=tuple(forbid or ()),
        regexes=tuple(forbid_regex or ()),
        with_related=related,
        allowed_in=tuple(allowed_in or ()),
        severity=severity,
        pack=pack,
        is_strict=strict,
    )
    run_now(lambda: print_audit(read_settings(data_dir, config=config), asked, as_json=as_json))


@app.command()
def check(
    *,
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

    Ends with 0 if all can be used (warnings are printed), with 1 if one cannot, with
    2 if there is no pack. For the CI of a repository of packs.
    """
    from flux_mcp.cli.packs import print_checks

    run_now(lambda: print_checks(read_settings(data_dir, config=config), folder, as_json=as_json))


@app.command()
def new(
    *,
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to put it; else packs/ in the data folder, where it is used."),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
) -> None:
    """Write a small working pack to begin with."""
    from flux_mcp.cli.packs import make_pack

    run_now(lambda: make_pack(read_settings(data_dir, config=config), name, folder))
