"""Loads one part of a pipeline from its files, and makes a pipeline of loaded parts.

What is loaded, and for how long it is kept, is decided by memory/residency.py.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import Format, format_of
from flux_mcp.models.parts import Precision
from flux_mcp.models.weight_headers import refused_file
from flux_mcp.pipelines.device import is_out_of_memory
from flux_mcp.pipelines.loading.checkpoints import (
    FetchedTensors,
    TensorReading,
    open_checkpoint,
)
from flux_mcp.pipelines.loading.denoisers import load_denoiser
from flux_mcp.pipelines.loading.encoders import load_encoder, refuse_unknown, without_head
from flux_mcp.pipelines.loading.fetching import make_room
from flux_mcp.pipelines.loading.part_files import (
    DOWNLOAD_AGAIN,
    PartFiles,
    first_line,
    is_read_by_tensor,
)
from flux_mcp.pipelines.loading.progress import ReadProgress
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.pipelines.loading.vaes import load_vae


def load_part(
    part: PartFiles,
    precision: Precision,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _message: None,
    made_on: str | None = None,
    fetched: FetchedTensors | None = None,
) -> Any:
    """Load one part.

    Args:
        part: Its files.
        precision: What its weights are to be loaded as.
        device: Where the transformer and the large text encoder are put; other parts go to the CPU.
        report: Called with how much is read, at most four times a second; may raise to stop.
        made_on: Another device, which quantises the transformer's weights a block at a time.
        fetched: Tensors of its files that were read ahead.

    Raises:
        WeightsInvalidError: the files are damaged, incomplete, or another model's.
        MemoryError: (or torch's own) the machine has no memory left.
    """
    part_class = getattr(importlib.import_module(part.part_class.module), part.class_name)
    row = format_of(precision)
    progress = ReadProgress(f"loading {part.name}", report)
    try:
        if is_read_by_tensor(part):
            with open_checkpoint(part.files) as checkpoint:
                fetched = FetchedTensors() if fetched is None else fetched
                if device == "cpu":
                    make_room(fetched, part.files)
                reading = TensorReading(
                    part.name, part.folder, checkpoint, device, progress, fetched, part.prefixes
                )
                return _load_by_tensor(part_class, part, reading, row, made_on)
        return _load_whole(part_class, part, row)
    except WeightsInvalidError:
        raise
    except Exception as error:
        if progress.stopped is not None:
            # transformers may have put what stopped it into an error of its own.
            raise progress.stopped from None
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and (problem := _unreadable(error)) is not None:
            raise problem from error
        raise WeightsInvalidError(
            f"{part.name} cannot be loaded: {type(error).__name__}: {first_line(error)}",
            DOWNLOAD_AGAIN,
        ) from error


def _load_by_tensor(
    part_class: Any, part: PartFiles, reading: TensorReading, row: Format, made_on: str | None
) -> Any:
    """Load a part whose tensors are read here; those that are never quantised go to the CPU."""
    if part.loader == "denoiser":
        return load_denoiser(part_class, reading, row, made_on)
    if part.loader == "text":
        return load_encoder(part_class, reading, row)
    load = load_vae if part.loader == "model" else load_encoder
    return load(part_class, replace(reading, device="cpu"), row)


def _unreadable(error: OSError) -> WeightsInvalidError | None:
    """Return what is said where the system refused to read a file; it need not be damaged."""
    if not isinstance(error.filename, str):
        return None
    return refused_file(Path(error.filename), error)


def _load_whole(part_class: Any, part: PartFiles, row: Format) -> Any:
    """Load a part as its library does: small ones, and those that are stored quantised."""
    options: dict[str, Any] = {"local_files_only": True}
    if part.loader == "plain":
        return part_class.from_pretrained(str(part.folder), **options)
    # Without dtype, diffusers loads fp32 and transformers what the checkpoint says; the first
    # step then fails on mixed types.
    options |= {"dtype": compute_dtype(row.compute), "use_safetensors": True}
    model, info = part_class.from_pretrained(str(part.folder), output_loading_info=True, **options)
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and goes on.
        missing = sorted(info["missing_keys"])
        raise WeightsInvalidError(
            f"{part.name} lacks {len(missing)} tensors, such as {missing[0]}.", DOWNLOAD_AGAIN
        )
    refuse_unknown(part.name, info["unexpected_keys"])
    return without_head(model)


def make_pipeline(
    class_name: str, parts: Mapping[str, Any], options: Mapping[str, bool] | None = None
) -> Any:
    """Put parts together with the plain constructor.

    Never `from_pipe`: it recasts the shared parts in place and shares the scheduler
    (diffusers 0.42.1).
    """
    import diffusers

    pipeline = getattr(diffusers, class_name)(**parts, **(options or {}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
