"""Whether a LoRA fits a transformer, and which layers each pair of matrices changes.

First for any LoRA, which a job puts on and takes off again; then for a control LoRA, which makes a
model that follows edges or depth of one that draws from words; then for the file of a registry row.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_mcp.errors import InvalidLoraError, LoraMismatchError, WeightsInvalidError
from flux_mcp.models.architectures import Architecture, from_config, is_foreign
from flux_mcp.models.families import Family
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.loras.header import (
    LoraHeader,
    LoraLayer,
    read_control_header,
    refuse_others,
    without_prefix,
)
from flux_mcp.models.registry import ModelSpec

# --- any LoRA ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """One pair of matrices, and the layers of a transformer it changes."""

    layer: LoraLayer
    targets: tuple[str, ...]
    """Names in diffusers; the rows of `up` are theirs, one target after another."""
    sizes: tuple[int, ...]
    """Rows of each target."""
    is_foreign: bool
    """Whether it is named as Black Forest Labs' code does; some rows then have another order."""


def place(header: LoraHeader, architecture: Architecture) -> tuple[Placed, ...]:
    """Return which layers of a transformer a LoRA changes.

    Raises:
        LoraMismatchError: it has a layer that the transformer has not, or has in another size.
    """
    placed = []
    for layer in header.layers:
        targets = architecture.find(layer.name)
        linears = [architecture.linears.get(target) for target in targets]
        sizes = tuple(linear[1] for linear in linears if linear is not None)
        if not sizes or len(sizes) != len(targets):
            raise LoraMismatchError(f"{architecture.name} has no layer '{layer.name[:120]}'.")
        inputs = {linear[0] for linear in linears if linear is not None}
        if inputs != {layer.inputs} or sum(sizes) != layer.outputs:
            raise LoraMismatchError(
                f"Its layer '{layer.name[:120]}' is {layer.inputs} to {layer.outputs}, that of "
                f"{architecture.name} {min(inputs)} to {sum(sizes)}."
            )
        placed.append(Placed(layer, targets, sizes, is_foreign(layer.name, targets)))
    everything = [target for one in placed for target in one.targets]
    if len(set(everything)) != len(everything):
        raise LoraMismatchError("It changes one layer twice.")
    return tuple(placed)


def fits(header: LoraHeader, architecture: Architecture) -> bool:
    """Whether a transformer has every layer of a LoRA, in its size."""
    try:
        place(header, architecture)
    except LoraMismatchError:
        return False
    return True


# --- control LoRAs -------------------------------------------------------------------------------

INPUT_LAYER = "x_embedder"
"""Takes in the noise and, widened, the control image beside it."""
_FIX = "Name the file of a control LoRA that was trained for this base."


@dataclass(frozen=True)
class ControlFit:
    """What a control LoRA changes."""

    placed: tuple[Placed, ...]
    biases: Mapping[str, str]
    """Tensor that is added to a layer's bias, by the tensor `up` of its pair of matrices."""
    norms: Mapping[str, str]
    """Tensor that replaces a norm, by the norm's name in diffusers."""


def control_config(config: Mapping[str, Any], in_channels: int) -> dict[str, Any]:
    """Return the `config.json` of a base's transformer once its first layer is widened.

    `out_channels` is written out: left out, diffusers would take it from the wider `in_channels`.
    """
    out_channels = config.get("out_channels") or config.get("in_channels", 64)
    return {**config, "in_channels": in_channels, "out_channels": out_channels}


def fit_control(
    header: LoraHeader, name: str, family: Family, config: Mapping[str, Any], in_channels: int
) -> ControlFit:
    """Return which layers, biases and norms of its base a control LoRA changes.

    Args:
        header: What the file holds.
        name: What people call the base; for messages.
        family: Its family.
        config: The `config.json` of its transformer.
        in_channels: What the transformer takes in once it is widened.

    Raises:
        LoraMismatchError: a tensor has no place in this transformer, or another size there.
        InvalidLoraError: it is another kind of LoRA, or none.
    """
    widened = from_config(name, family, control_config(config, in_channels))
    if widened is None:
        raise LoraMismatchError(f"{name} has a transformer that takes no control LoRA.", _FIX)
    placed = place(header, widened)
    if all(INPUT_LAYER not in one.targets for one in placed):
        raise InvalidLoraError(
            "It is no control LoRA: nothing in it takes in a control image.", _FIX
        )
    if header.text_encoder_layers:
        raise InvalidLoraError(
            "It was trained on a text encoder too, which would change what prompts mean.", _FIX
        )
    biases = dict(_biases(header, placed))
    norms = dict(_norms(header, widened, int(config.get("attention_head_dim", 128))))
    refuse_others([one for one in header.others if one not in {*biases.values(), *norms.values()}])
    return ControlFit(placed, biases, norms)


def _biases(header: LoraHeader, placed: tuple[Placed, ...]) -> Iterator[tuple[str, str]]:
    for one in placed:
        name = f"{one.layer.up.removesuffix('.weight')}.bias"
        shape = header.others.get(name)
        if shape is None:
            continue
        if shape != (one.layer.outputs,):
            raise LoraMismatchError(
                f"Its bias '{name[:120]}' has the shape {shape}, not ({one.layer.outputs},).", _FIX
            )
        yield one.layer.up, name


def _norms(
    header: LoraHeader, architecture: Architecture, channels: int
) -> Iterator[tuple[str, str]]:
    known = dict(architecture.norms())
    for tensor, shape in header.others.items():
        name = known.get(without_prefix(tensor))
        if name is None:
            continue
        if shape != (channels,):
            raise LoraMismatchError(
                f"Its norm '{tensor[:120]}' has the shape {shape}, that of {architecture.name} "
                f"({channels},).",
                _FIX,
            )
        yield name, tensor


# --- the file of a row ---------------------------------------------------------------------------

_FIX_FILE = "Get the file again, or name another one in the row."


@dataclass(frozen=True)
class ControlFile:
    """A control LoRA whose header fits its base."""

    spec: ModelSpec
    path: Path
    fit: ControlFit

    def unusable(self, why: str) -> WeightsInvalidError:
        """Return the error that says why it cannot be used after all."""
        return _unusable(self.spec, self.path, why, _FIX_FILE)


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
        raise _unusable(spec, path, error.message, error.hint or _FIX_FILE) from error
    except (OSError, ValueError) as error:
        raise _unusable(spec, path, f"It cannot be read: {error}.", _FIX_FILE) from error
    return ControlFile(spec, path, fit)


def _unusable(spec: ModelSpec, path: Path, why: str, hint: str) -> WeightsInvalidError:
    return WeightsInvalidError(
        f"{path.name} cannot be merged onto {spec.base} to draw with {spec.id}: {why}", hint
    )
