"""`flux-mcp models adopt`: the weights of ComfyUI or Forge, used where they are."""

from pathlib import Path
from typing import Any

from flux_mcp.cli.common import (
    agree,
    console,
    plain,
    print_json,
    print_table,
)
from flux_mcp.models.adoption import AdoptedModel, Adoption, look_through, write_rows
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.settings import Settings

_TOKENIZERS = (
    "Tokenizers come with ComfyUI and Forge; the folder 'models' alone has none. Get them, some "
    "MB: hf download black-forest-labs/FLUX.2-klein-4B --include 'tokenizer*/*' --local-dir DIR "
    "(or FLUX.1-schnell for FLUX.1), then add --tokenizers DIR."
)


def adopt_folder(
    settings: Settings,
    folder: Path,
    tokenizers: Path | None = None,
    *,
    is_agreed: bool,
    is_dry: bool,
    as_json: bool,
) -> None:
    """Show what a folder has, and write its rows after asking.

    Raises:
        InvalidRequestError: it is no such folder, the rows there have a mistake, or nobody agreed.
        StorageError: the disk refused.
    """
    shipped = load_registry()
    found = look_through(folder, settings, shipped, tokenizers)
    if not as_json:
        _print_found(found, settings)
    is_written = bool(found.new) and not is_dry
    if is_written:
        if not is_agreed:
            agree(f"Add {len(found.new)} rows to {settings.paths.models}?")
        write_rows(found, settings, shipped)
    if as_json:
        print_json(_as_json(found, settings, is_written=is_written))
    elif is_written:
        console().print(f"{len(found.new)} rows are added to {plain(str(settings.paths.models))}.")
        console().print(f"Try one: flux-mcp generate 'a red fox' --model {found.new[0].id}")
    elif is_dry and found.new:
        console().print("Nothing is written.")


def _print_found(found: Adoption, settings: Settings) -> None:
    out = console()
    if found.models:
        rows = [
            (model.id, model.extends, model.precision, "there" if model.is_there else "new",
             ", ".join(_short(path, found.folder) for path in dict.fromkeys(model.files.values())))
            for model in found.models
        ]  # fmt: skip
        print_table(("model", "variant of", "precision", "row", "files"), rows)
    else:
        out.print("There is no FLUX model here that can be used.")
    for model in found.models:
        for note in model.notes:
            out.print(plain(f"{model.id}: {note}."))
    if found.unused:
        out.print("Not used:", style="bold")
        for file in found.unused:
            out.print(plain(f"  {_short(file.path, found.folder)}: {file.problem}"))
    if any("tokenizer" in file.problem for file in found.unused):
        out.print(_TOKENIZERS)
    if found.lora_folder is not None:
        out.print(
            f"{found.lora_count} LoRAs are in {plain(str(found.lora_folder))}: copy those you want "
            f"into {plain(str(settings.paths.loras))}."
        )


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _as_json(found: Adoption, settings: Settings, *, is_written: bool) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "models": [_model_as_json(model) for model in found.models],
        "unused": [{"path": str(one.path), "why": one.problem} for one in found.unused],
        "lora_folder": None if found.lora_folder is None else str(found.lora_folder),
        "lora_count": found.lora_count,
        "models_file": str(settings.paths.models),
        "written": is_written,
    }


def _model_as_json(model: AdoptedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "extends": model.extends,
        "precision": model.precision,
        "text_precision": model.text_precision,
        "files": {column: str(path) for column, path in model.files.items()},
        "folder": None if model.folder is None else str(model.folder),
        "notes": list(model.notes),
        "row": "there" if model.is_there else "new",
    }
