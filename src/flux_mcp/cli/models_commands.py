"""`flux-mcp models …`: the commands and their flags; the work is in models.py."""

from typing import Annotated

import typer

from flux_mcp.cli.common import HELP_FLAGS, AsJson, ConfigPath, DataDir, read_settings
from flux_mcp.cli.weights_commands import add_weights_commands


def models_app() -> typer.Typer:
    """Return the commands of `flux-mcp models`."""
    app = typer.Typer(no_args_is_help=True, context_settings=HELP_FLAGS)
    _add_plan(app)
    add_weights_commands(app)
    return app


def _add_plan(app: typer.Typer) -> None:
    @app.command()
    def plan(
        quality: Annotated[str, typer.Option(help="low, standard or high.")] = "standard",
        vram: Annotated[
            float | None,
            typer.Option(help="Memory of the GPU, GiB; else that of this machine's GPU."),
        ] = None,
        ram: Annotated[
            float | None, typer.Option(help="Memory of the machine, GiB; else it is enough.")
        ] = None,
        kind: Annotated[
            str, typer.Option(help="text2img, kontext, fill, control or redux.")
        ] = "text2img",
        model: Annotated[str | None, typer.Option(help="Model id; else by quality.")] = None,
        width: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
        height: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
        count: Annotated[int, typer.Option(min=1, help="Pictures.")] = 1,
        batched: Annotated[
            bool, typer.Option("--batched", help="All of them in one pass.")
        ] = False,
        references: Annotated[
            int | None, typer.Option(min=0, help="Images to read; else 1 where a kind needs it.")
        ] = None,
        structure: Annotated[
            str | None, typer.Option(help="canny or depth, for the kind control.")
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
        """Show what would draw on a GPU: model, precision, placement, memory, time.

        As if every model were installed and this version could load them all. Ends with 3 and the
        code too_little_memory if nothing fits. Example: flux-mcp models plan --quality high
        --vram 16 --ram 32
        """
        from flux_mcp.cli import models
        from flux_mcp.cli.common import run_now

        asked = models.MachineFlags(
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
        run_now(lambda: models.print_plan(settings, asked, explain=explain, as_json=as_json))
