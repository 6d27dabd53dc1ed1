"""Whether this machine has what a precision needs; asked before anything is loaded.

Knows installed packages and the device. Changes nothing, and imports none of the packages.
"""

from collections.abc import Iterable
from typing import Literal

from flux_mcp.errors import FormatUnsupportedError
from flux_mcp.models.formats import format_of, load_formats, require_extra, text_precision
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.device import Device

Role = Literal["transformer", "text encoder"]


def require_formats(spec: ModelSpec, device: Device) -> None:
    """Check what the transformer and the text encoder of a row are to be held in.

    Raises:
        FormatUnsupportedError: not on this device, or not for that part.
        ExtraMissingError: a package is missing or too old.
    """
    _require(spec.precision, "transformer", device)
    _require(text_precision(spec), "text encoder", device)


def require_classes(class_names: Iterable[str]) -> None:
    """Check what the classes of a pipeline's parts are to be used with.

    Raises:
        ExtraMissingError: a package is missing or too old.
    """
    extras = load_formats().extra
    for class_name in class_names:
        for extra, row in extras.items():
            if class_name in row.classes:
                require_extra(extra, class_name)


def _require(precision: Precision, role: Role, device: Device) -> None:
    """Check the device first: no package would help where it is the wrong one."""
    row = format_of(precision)
    if row.blocked:
        raise FormatUnsupportedError(
            f"Weights in {precision} cannot be used: {row.blocked}.", _others(role, device)
        )
    if role == "text encoder" and not row.for_text:
        raise FormatUnsupportedError(
            f"A text encoder cannot be held in {precision}.", _others(role, device)
        )
    if device.kind not in row.devices:
        raise FormatUnsupportedError(
            f"Weights in {precision} need a device of type {_listed(row.devices)}; "
            f"this worker draws on {device.name}.",
            _others(role, device),
        )
    if not _can_compute(precision, device):
        least = load_parts().precision[precision].min_compute
        raise FormatUnsupportedError(
            f"Weights in {precision} need a card of compute capability {least}; "
            f"this one has {device.compute_capability}.",
            _others(role, device),
        )
    if row.extra is not None:
        require_extra(row.extra, f"Weights in {precision}")


def _others(role: Role, device: Device) -> str:
    """Name what this device can hold that is made while loading."""
    names = [
        name
        for name, row in load_formats().format.items()
        if device.kind in row.devices
        and not (row.blocked or row.from_file_only)
        and (role == "transformer" or row.for_text)
        and _can_compute(name, device)
    ]
    return f"Use one of: {', '.join(names)}."


def _can_compute(precision: Precision, device: Device) -> bool:
    least = load_parts().precision[precision].min_compute
    return device.kind != "cuda" or device.compute_capability >= least


def _listed(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds))
