"""A second model for tests: micro with other weights, as a user's own row."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flux_mcp.settings.settings import Settings


def add_own_model(
    settings: Settings, name: str, change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """Copy micro's text2img folder, change its transformer's tensors, and give it a row.

    Returns:
        The transformer's file.
    """
    from safetensors.torch import load_file, save_file

    folder = settings.data_dir / "own" / name
    shutil.copytree(settings.weights_dir / "micro" / "text2img", folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if change is not None:
        change(tensors)
        save_file(tensors, file)
    with settings.paths.models.open("a", encoding="utf-8") as rows:
        rows.write(
            f'[[model]]\nid = "{name}"\nextends = "micro"\nkind = "text2img"\n'
            f"folder = '{folder}'\n\n"
        )
    return file


def darker(tensors: dict[str, Any]) -> None:
    """Change the weights so that images show it."""
    tensors["proj_out.weight"] *= 0.5
