"""`flux-mcp loras`: look at the LoRAs of the data folder."""

from typing import Annotated

import typer

from flux_mcp.cli.common import AsJson, ConfigPath, DataDir, new_app, read_settings, run_now
from flux_mcp.cli.completing import complete_loras

app = new_app(is_group=True)


@app.command("list")
def list_loras(
    *, data_dir: DataDir = None, config: ConfigPath = None, as_json: AsJson = False
) -> None:
    """Show the LoRAs there are, what each is for, and what is wrong with any."""
    from flux_mcp.cli.loras import print_loras

    run_now(lambda: print_loras(read_settings(data_dir, config=config), as_json=as_json))


@app.command()
def show(
    *,
    name: Annotated[
        str,
        typer.Argument(help="Its name, as 'loras list' shows it.", autocompletion=complete_loras),
    ],
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of one LoRA: family, rank, trigger words, hash, licence."""
    from flux_mcp.cli.loras import print_lora

    run_now(lambda: print_lora(read_settings(data_dir, config=config), name, as_json=as_json))
