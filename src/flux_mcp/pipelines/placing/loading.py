"""Where a part is loaded to: straight to where it will be, and made where that is quick."""

from typing import Any

from flux_mcp.models.formats import format_of
from flux_mcp.models.parts import Precision
from flux_mcp.pipelines.device import tensors_of
from flux_mcp.pipelines.formats.fetched import FetchedTensors
from flux_mcp.pipelines.formats.slots import send, slots_of
from flux_mcp.pipelines.loaders import load_part
from flux_mcp.pipelines.part_files import PartFiles
from flux_mcp.pipelines.pipeline_files import Report


def load_to(
    device: str,
    part: PartFiles,
    precision: Precision,
    report: Report,
    *,
    stays: bool,
    fetched: FetchedTensors | None = None,
) -> tuple[Any, bool]:
    """Load a part; return it, and whether it is on the device now.

    A card quantises in seconds what a processor would in minutes. A transformer is made there block
    by block, because the whole may have no room; a text encoder has it, for it works there whole.

    Args:
        device: What draws.
        part: Its files.
        precision: What it is held in.
        report: Told what is being loaded; may raise to stop.
        stays: Whether it will stay on the device; else it waits in main memory.
        fetched: What was read of its files before.
    """
    if stays:
        model = load_part(part, precision, device, report, fetched=fetched)
        if tensors_of(model):
            send(slots_of(model), device)
        return model, True
    made_on = device if format_of(precision).made_by_device else None
    if part.loader == "text" and made_on is not None:
        return load_part(part, precision, made_on, report, fetched=fetched), True
    return load_part(part, precision, "cpu", report, made_on, fetched), False
