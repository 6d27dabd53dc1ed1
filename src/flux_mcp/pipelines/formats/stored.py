"""How weights lie on the disk, and whether that is what a plan says of them.

Looks at headers and configurations only; reads no weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import format_of
from flux_mcp.models.parts import Precision
from flux_mcp.pipelines.formats.checkpoints import (
    Checkpoint,
    GgufCheckpoint,
    SafetensorsCheckpoint,
    TensorEntry,
)

GGUF_SUFFIX = ".gguf"
FILE_SUFFIXES = frozenset({".safetensors", GGUF_SUFFIX})
"""Neither can run code."""


def open_checkpoint(files: Sequence[Path]) -> Checkpoint:
    """Return the tensors of a part's files.

    Raises:
        ValueError: (or what the library has) a file is damaged.
        OSError: a file cannot be read.
    """
    if len(files) == 1 and files[0].suffix == GGUF_SUFFIX:
        return GgufCheckpoint(files[0])
    return SafetensorsCheckpoint(files)


def stored_method(config: Mapping[str, Any]) -> str:
    """Return what quantised weights before they were stored, by a config.json; empty for none."""
    stored = config.get("quantization_config")
    return str(stored.get("quant_method", "unknown")) if isinstance(stored, dict) else ""


def check_folder(part: str, method: str, precision: Precision) -> None:
    """Check a folder's weights.

    Args:
        part: For messages.
        method: What quantised them before they were stored; empty for none.
        precision: What they are to be held in.

    Raises:
        WeightsInvalidError: they cannot be.
    """
    row = format_of(precision)
    if row.from_file_only and method != row.method:
        raise WeightsInvalidError(
            f"{part} cannot be made into {precision} while loading.",
            "Name a file that holds it so, or another precision.",
        )
    if method and method != row.method:
        raise WeightsInvalidError(
            f"{part} is stored quantised by {method}, so it cannot be held in {precision}.",
            "Give the row the precision it is stored in, or get the 16 bit weights.",
        )


def check_file(part: str, file: Path, precision: Precision) -> None:
    """Check a file of weights, by its header.

    Raises:
        WeightsInvalidError: what it holds cannot be held in `precision`, or it is damaged.
    """
    if file.suffix != GGUF_SUFFIX:
        check_folder(part, "", precision)
        return
    row = format_of(precision)
    if row.method != "gguf":
        raise WeightsInvalidError(
            f"{part} is to be held in {precision}, but {file.name} is a GGUF file.",
            "Give the row the precision that most of it is packed in, such as 'q8_0'.",
        )
    if (found := _block_type(part, file)) != row.recipe:
        raise WeightsInvalidError(
            f"{part} is to be held in {precision}, but {file.name} holds {found}.",
            f"Give the row the precision '{found.lower()}'.",
        )


def _block_type(part: str, file: Path) -> str:
    try:
        with open_checkpoint([file]) as checkpoint:
            return main_block_type(checkpoint.entries)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise WeightsInvalidError(
            f"{part} cannot be loaded: {file} is no GGUF file, or damaged: {error}",
            "Get the file again.",
        ) from error


def main_block_type(entries: Mapping[str, TensorEntry]) -> str:
    """Return the block type that most numbers of a GGUF file are packed in.

    Files are mixtures: norms stay in 32 bit, and K-quants give some layers more bits than others.
    """
    values: dict[str, int] = {}
    for entry in entries.values():
        kind = entry.block_type or ""
        values[kind] = values.get(kind, 0) + entry.values
    return max(values, key=lambda kind: values[kind])
