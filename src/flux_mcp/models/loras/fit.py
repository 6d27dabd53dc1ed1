"""Whether a LoRA fits a transformer, and which layers each pair of matrices changes.

First for any LoRA, which a job puts on and takes off again; then for a control LoRA, which makes a
model that follows edges or depth of one that draws from words; then for the file of a registry row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_mcp.errors import InvalidLoraError, LoraMismatchError, WeightsInvalidError
from flux_mcp.models.architectures import Architecture, from_config
from flux_mcp.models.families import Family
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.loras.header import (
    LoraHeader,
    LoraLayer,
    read_control_header,
    refuse_others,
)
from flux_mcp.models.loras.names import LAYOUTS, without_prefix
from flux_mcp.models.registry import ModelSpec

# --- any LoRA ------------------------------------------------------------------------------------


INPUT_LAYER = "x_embedder"
"""Takes in the noise; of a model that fills or follows a control image, this beside it."""
OUTPUT_LAYER = "proj_out"
"""Gives as many numbers of each place as the noise has."""


@dataclass(frozen=True)
class Placed:
    """What a file adds to one layer, and the layers of a transformer that it is."""

    layer: LoraLayer
    targets: tuple[str, ...]
    """Names in diffusers; the rows of the change are theirs, one target after another."""
    sizes: tuple[int, ...]
    """Rows of each target."""
    is_foreign: bool
    """Whether it is named as Black Forest Labs' code does; some rows then have another order."""
    inputs: int
    """Of each target."""
    padding: int = 0
    """Inputs of the target that come after the layer's own, and that it does not use."""


@dataclass(frozen=True)
class Placement:
    """Which layers of a transformer a LoRA changes."""

    placed: tuple[Placed, ...]
    repeated: tuple[LoraLayer, ...] = ()
    """Layers that are not used: the file has them a second time, in another layout."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is not used, in words."""
        if not self.repeated:
            return ()
        layouts = " and ".join(dict.fromkeys(layer.layout for layer in self.repeated))
        return (f"{len(self.repeated)} layers it has a second time, in the layout of {layouts}",)


def place(header: LoraHeader, architecture: Architecture) -> Placement:
    """Return which layers of a transformer a LoRA changes.

    Raises:
        LoraMismatchError: it has a layer that the transformer has not, or has in another size.
    """
    placed = []
    for layer in header.layers:
        found = _place_one(layer, architecture)
        if isinstance(found, str):
            raise LoraMismatchError(found)
        placed.append(found)
    return _each_once(placed)


def _place_each(header: LoraHeader, architecture: Architecture) -> tuple[list[Placed], list[str]]:
    """Return the layers that fit, and what is wrong with each of the others."""
    placed, misfits = [], []
    for layer in header.layers:
        found = _place_one(layer, architecture)
        if isinstance(found, str):
            misfits.append(found)
        else:
            placed.append(found)
    return placed, misfits


def _place_one(layer: LoraLayer, architecture: Architecture) -> Placed | str:
    """Return the layers that one of the file is; else what is wrong with it."""
    named = architecture.find(layer.name)
    linears = architecture.sizes_of(named)
    if not linears:
        role, shape = next(iter(layer.shapes.items()))
        return (
            f"{architecture.name} has no layer '{layer.name[:120]}' (tensor "
            f"'{layer.tensors[role][:160]}', shape {shape})."
        )
    sizes = tuple([outputs for _, outputs in linears])
    inputs, outputs = linears[0][0], sum(sizes)
    padding = 0
    if named.layers[0] == INPUT_LAYER:
        padding = _padding(layer, architecture)
    knows_inputs = layer.inputs is None or layer.inputs == inputs - padding
    if not knows_inputs or layer.outputs != outputs:
        tensors = ", ".join(
            f"'{layer.tensors[role][:160]}' {shape}" for role, shape in layer.shapes.items()
        )
        own = outputs if layer.inputs is None else f"{layer.inputs} to {layer.outputs}"
        return (
            f"Its layer '{layer.name[:120]}' is {own}, that of {architecture.name} {inputs} to "
            f"{outputs} (tensors {tensors})."
        )
    return Placed(layer, named.layers, sizes, named.is_foreign, inputs, padding)


def _padding(layer: LoraLayer, architecture: Architecture) -> int:
    """Return how many inputs of the first layer a LoRA of a narrower model does not know.

    They come after those of the noise, which every model of a family has (FluxFillPipeline and
    FluxControlPipeline of diffusers 0.42.1), and as many come out at the end.
    """
    if OUTPUT_LAYER not in architecture.linears:
        return 0
    inputs, noise = architecture.linears[INPUT_LAYER][0], architecture.linears[OUTPUT_LAYER][1]
    return inputs - noise if layer.inputs == noise else 0


def _each_once(placed: Sequence[Placed]) -> Placement:
    """Leave out what a file has a second time in another layout.

    Raises:
        LoraMismatchError: it changes a layer twice in one layout, or in part.
    """
    taken: dict[str, LoraLayer] = {}
    kept, repeated = [], []
    for one in sorted(placed, key=lambda one: LAYOUTS.index(one.layer.layout)):
        before = [taken[target] for target in one.targets if target in taken]
        if not before:
            kept.append(one)
            taken |= dict.fromkeys(one.targets, one.layer)
        elif len(before) == len(one.targets) and all(
            layer.layout != one.layer.layout for layer in before
        ):
            repeated.append(one.layer)
        else:
            raise LoraMismatchError(
                f"It changes one layer twice: as '{before[0].name[:120]}' and as "
                f"'{one.layer.name[:120]}'."
            )
    return Placement(tuple(kept), tuple(repeated))


def placed_on(header: LoraHeader, architecture: Architecture) -> Placement | None:
    """Return which layers of a transformer a LoRA changes; `None` where it does not fit."""
    try:
        return place(header, architecture)
    except LoraMismatchError:
        return None


def nearest_misfit(header: LoraHeader, architectures: Sequence[Architecture]) -> str:
    """Say why a LoRA fits none of some transformers, by the one that most of its layers fit."""
    tried = [(one, *_place_each(header, one)) for one in architectures]
    nearest, placed, misfits = max(tried, key=lambda one: len(one[1]))
    if misfits:
        why = misfits[0]
    else:
        try:
            _each_once(placed)
            why = ""
        except LoraMismatchError as error:
            why = error.message
    fit = f"{len(placed)} of its {len(header.layers)} layers fit there"
    return f"The nearest is {nearest.name}: {fit}. {why}"


# --- control LoRAs -------------------------------------------------------------------------------

_FIX = "Name the file of a control LoRA that was trained for this base."


@dataclass(frozen=True)
class ControlFit:
    """What a control LoRA changes."""

    placed: tuple[Placed, ...]
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
    placement = place(header, widened)
    first = next((one for one in placement.placed if INPUT_LAYER in one.targets), None)
    if first is None:
        raise InvalidLoraError(
            "It is no control LoRA: nothing in it takes in a control image.", _FIX
        )
    if first.padding:
        raise LoraMismatchError(
            f"Its layer '{first.layer.name}' is {first.layer.inputs} to {first.layer.outputs}, "
            f"that of {name} {in_channels} to {first.layer.outputs}: nothing in it takes in a "
            "control image.",
            _FIX,
        )
    if header.text_encoder_layers:
        raise InvalidLoraError(
            "It was trained on a text encoder too, which would change what prompts mean.", _FIX
        )
    if left_out := header.left_out or placement.left_out:
        raise InvalidLoraError(f"It has {left_out[0]}.", _FIX)
    norms = dict(_norms(header, widened, int(config.get("attention_head_dim", 128))))
    refuse_others([one for one in header.others if one not in norms.values()])
    return ControlFit(placement.placed, norms)


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
