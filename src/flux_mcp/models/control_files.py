"""The file of a control LoRA's row, checked against its base by headers. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.config import Settings
from flux_mcp.errors import InvalidLoraError, LoraMismatchError, WeightsInvalidError
from flux_mcp.models.control_fit import ControlFit, fit_control
from flux_mcp.models.lora_header import read_control_header
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.weights import Snapshot, require_snapshot

_MEND = "Get the file again, or name another one in the row."


@dataclass(frozen=True)
class ControlFile:
    """A control LoRA whose header fits its base."""

    spec: ModelSpec
    path: Path
    fit: ControlFit

    def unusable(self, why: str) -> WeightsInvalidError:
        """Return the error that says why it cannot be drawn with after all."""
        return _unusable(self.spec, self.path, why, _MEND)


def check_control_file(spec: ModelSpec, snapshot: Snapshot, transformer: Path) -> ControlFile:
    """Check the LoRA of a row against its base.

    Args:
        spec: The LoRA's row.
        snapshot: Where it lies.
        transformer: The folder with the `config.json` of the base's transformer.

    Raises:
        WeightsInvalidError: there is more than one file, or it is no control LoRA for this base.
    """
    if len(snapshot.loras) != 1:
        names = ", ".join(file.name for file in snapshot.loras)
        raise WeightsInvalidError(
            f"{spec.id} has more than one safetensors file: {names}.",
            'Give the one that is meant a row of its own in models.toml: file = "...".',
        )
    (path,) = snapshot.loras
    try:
        config = json.loads((transformer / "config.json").read_text(encoding="utf-8"))
        header = read_control_header(path)
        fit = fit_control(header, spec.base or "", spec.family, config, spec.in_channels)
    except (InvalidLoraError, LoraMismatchError) as error:
        raise _unusable(spec, path, error.message, error.hint or _MEND) from error
    except (OSError, ValueError) as error:
        raise _unusable(spec, path, f"It cannot be read: {error}.", _MEND) from error
    return ControlFile(spec, path, fit)


def require_control_fit(spec: ModelSpec, registry: Registry, settings: Settings) -> None:
    """Check a row that is a LoRA before a job is queued for it; any other has nothing to check.

    Raises:
        WeightsMissingError: it or its base is not on this disk.
        WeightsInvalidError: as `check_control_file`.
    """
    if not spec.lora:
        return
    base = require_snapshot(registry.find("text2img", spec.base or ""), registry, settings)
    snapshot = require_snapshot(spec, registry, settings)
    check_control_file(spec, snapshot, base.folder / "transformer")


def _unusable(spec: ModelSpec, path: Path, why: str, hint: str) -> WeightsInvalidError:
    return WeightsInvalidError(
        f"{path.name} cannot be laid over {spec.base} to draw with {spec.id}: {why}", hint
    )
