"""`flux-mcp models`: see, plan, download, check and remove models. Only `pull` goes online."""

from pathlib import Path
from typing import Annotated

import typer

from flux_mcp.cli.common import (
    AsJson,
    ConfigPath,
    DataDir,
    Yes,
    new_app,
    read_settings,
    run,
    run_now,
    set_up_logging,
)
from flux_mcp.cli.completing import complete_kinds, complete_models, complete_qualities

ModelId = Annotated[
    str, typer.Argument(help="Its id, as 'models list' shows it.", autocompletion=complete_models)
]


app = new_app(is_group=True)


@app.command("list")
def list_models(
    *, data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Show every model: whether its weights are here, its kinds, licence and size."""
    from flux_mcp.cli.models import print_models

    run_now(lambda: print_models(read_settings(data_dir, config=config), as_json=as_json))


@app.command()
def info(
    *,
    model: ModelId,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show one model: where it comes from, where it lies, what it needs."""
    from flux_mcp.cli.models import print_model

    run_now(lambda: print_model(read_settings(data_dir, config=config), model, as_json=as_json))


@app.command()
def plan(
    *,
    quality: Annotated[
        str | None,
        typer.Option(
            help="low, standard or high; else all.",
            autocompletion=complete_qualities,
            show_default=False,
        ),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(help="Memory of the GPU, GiB; else that of this machine's GPU."),
    ] = None,
    ram: Annotated[
        float | None, typer.Option(help="RAM of the machine, GiB; else it is enough.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="generate, edit, fill, structure or vary.", autocompletion=complete_kinds
        ),
    ] = "generate",
    model: Annotated[
        str | None, typer.Option(help="Model id; else by quality.", autocompletion=complete_models)
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 1,
    batched: Annotated[bool, typer.Option("--batched", help="All of them in one pass.")] = False,
    references: Annotated[
        int | None, typer.Option(min=0, help="Images to read; else 1 where a kind needs it.")
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="canny or depth, for the kind structure.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Name of the GPU, for its speed: 'RTX 4090'.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every way that was considered, and why not.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show the model for a GPU, and how it would be loaded: precision, placement, memory, time.

    As a call would choose if every model were pulled that this installation can
    load. Ends with 3 and the code too_little_memory if nothing fits.
    Example: flux-mcp models plan --quality high --vram 16 --ram 32
    """
    from flux_mcp.cli.models_plan import PlanFlags, print_plan

    asked = PlanFlags(
        quality=quality,
        kind=kind,
        model=model,
        width_px=width,
        height_px=height,
        count=count,
        batched=batched,
        references=references,
        structure=structure,
        vram_gib=vram,
        ram_gib=ram,
        gpu=gpu,
    )
    settings = read_settings(data_dir, config=config)
    run_now(lambda: print_plan(settings, asked, explain=explain, as_json=as_json))


@app.command()
def pull(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids, as 'models list' shows them; - reads them.", autocompletion=complete_models
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--for", help="Instead: what suits a GPU of so much memory: 24GB; or cpu."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="With --for: the model of this quality; else what needs no account.",
            autocompletion=complete_qualities,
        ),
    ] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Download weights; interrupted, the same command resumes where it was.

    Every file is checked against the hub's hash. Ctrl-C stops it. Agents can watch
    it by the id it prints. Example: flux-mcp models pull flux1-schnell
    """
    from flux_mcp.cli.models_pull import KEPT, PullFlags, download

    set_up_logging("warning")
    settings = read_settings(data_dir, config=config)
    run(
        download(settings, PullFlags(tuple(models or ()), gpu, quality, yes), as_json=as_json),
        lambda: f"Stopping. {KEPT}",
    )


@app.command()
def adopt(
    *,
    folder: Annotated[
        Path, typer.Argument(help="The folder 'models' of ComfyUI or Forge, or the one it is in.")
    ],
    tokenizers: Annotated[
        Path | None,
        typer.Option("--tokenizers", help="A folder with tokenizers, if they are not found."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be written.")
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Use the FLUX weights of ComfyUI or Forge where they are.

    Files are recognised by their headers, and rows for them added to models.toml in the
    data folder; rows that are there stay. Example: flux-mcp models adopt ~/ComfyUI
    """
    from flux_mcp.cli.models_adopt import adopt_folder

    run_now(
        lambda: adopt_folder(
            read_settings(data_dir, config=config),
            folder.expanduser().absolute(),
            tokenizers,
            is_agreed=yes,
            is_dry=dry_run,
            as_json=as_json,
        )
    )


@app.command()
def verify(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Its id; else every model that is here.", autocompletion=complete_models
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Read every file of the weights and compare its hash; the network is not used.

    Ends with 1 if a file is wrong; 'models pull' then downloads it again.
    """
    from flux_mcp.cli.models_verify import print_verified

    run_now(lambda: print_verified(read_settings(data_dir, config=config), model, as_json=as_json))


@app.command("remove")
def remove_(
    *,
    model: ModelId,
    yes: Yes = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Delete a model's weights, but nothing that another model on this disk needs."""
    from flux_mcp.cli.models import remove_model

    run_now(
        lambda: remove_model(
            read_settings(data_dir, config=config), model, is_agreed=yes, as_json=as_json
        )
    )
