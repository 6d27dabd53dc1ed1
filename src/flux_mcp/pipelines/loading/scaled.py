"""Weights that a file stores in 8 bit floats, each matrix with a scale beside it.

Two generations of names, both of ComfyUI (github.com/comfyanonymous/ComfyUI, comfy/ops.py and
comfy/quant_ops.py); Black Forest Labs' own fp8 files of FLUX.2 have the second:

    <layer>.weight, <layer>.scale_weight, <layer>.scale_input, and a marker `scaled_fp8`
    <layer>.weight, <layer>.weight_scale, <layer>.input_scale, <layer>.comfy_quant

A weight is the stored number times its scale, one for the matrix or one for each row. Scales of
inputs are for products in fp8, which are not made here; everything is computed in 16 bit.

Where a row keeps weights in fp8, the stored numbers stay as they are, with or without a scale, and
so does what the file has in 16 bit. For every other format they are widened while they are read: no
library can quantise 8 bit floats again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.pipelines.loading.checkpoints import TensorEntry

_SCALES = (".scale_weight", ".weight_scale")
_OF_INPUTS = (".scale_input", ".input_scale")
_DESCRIPTION = ".comfy_quant"
_OF_BITSANDBYTES = ".quant_state.bitsandbytes__"
_MARKER = "scaled_fp8"
_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})
_PLAIN = "Get a file of this model in 16 bit, in fp8 with one scale for each matrix, or as GGUF."


@dataclass(frozen=True)
class ScaledTensors:
    """The tensors of a file without what belongs to their storage."""

    entries: Mapping[str, TensorEntry]
    scales: Mapping[str, TensorEntry]
    """The scale of a weight, by the weight's name."""

    def widened(self, dtype: Any) -> dict[str, TensorEntry]:
        """Return the entries with every 8 bit float made wide, its scale applied.

        Args:
            dtype: Torch's, of the tensors when they have been read.
        """
        return {
            name: replace(entry, finish=_widener(self.scales.get(name), dtype))
            if is_narrow(entry)
            else entry
            for name, entry in self.entries.items()
        }

    @property
    def is_narrow(self) -> bool:
        """Whether the file stores any tensor in 8 bit floats."""
        return any(is_narrow(entry) for entry in self.entries.values())

    def kept(self, dtype: Any) -> dict[str, TensorEntry]:
        """Return the entries: matrices in 8 bit floats as bytes, for `hold_scaled`.

        Args:
            dtype: Torch's, of other 8 bit floats when they have been read.
        """
        import torch

        return self.widened(dtype) | {
            name: replace(entry, finish=lambda tensor: tensor.view(torch.int8))
            for name, entry in self.entries.items()
            if is_held(entry)
        }

    def storage(self) -> dict[str, Any]:
        """Return how each tensor is stored, row by row.

        A loader may rename, split and reorder this as it does the tensors themselves.

        Returns:
            fp32 tensors of shape (rows, 2): the scale, and a code for the number type; zeros for a
            tensor that is not held.
        """
        return {
            name: _storage_by_row(entry, self.scales.get(name))
            for name, entry in self.entries.items()
        }


def is_held(entry: TensorEntry) -> bool:
    """Whether a tensor is one that `hold_scaled` can hold: a matrix in 8 bit floats."""
    return is_narrow(entry) and len(entry.shape) == _MATRIX and entry.name.endswith(".weight")


_MATRIX = 2


def is_narrow(entry: TensorEntry) -> bool:
    """Whether a tensor is stored in an 8 bit float."""
    import torch

    return entry.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)


def tells_storage(name: str) -> bool:
    """Whether a tensor only says how another one is stored, by its name."""
    return name == _MARKER or name.endswith((*_SCALES, *_OF_INPUTS, _DESCRIPTION))


def split_scales(part: str, entries: Mapping[str, TensorEntry]) -> ScaledTensors:
    """Tell the tensors of a part from those that only say how they are stored.

    Args:
        part: For messages.
        entries: All of them.

    Raises:
        WeightsInvalidError: they are packed in another way, or a scale has no weight.
    """
    own, scales = {}, {}
    for name, entry in entries.items():
        if name == _MARKER or name.endswith(_OF_INPUTS):
            continue
        if _OF_BITSANDBYTES in name:
            raise WeightsInvalidError(
                f"{part} is stored in bitsandbytes' {name.rpartition('__')[2]}, which is not read "
                "from a single file.",
                "Get a folder of diffusers in it, or a file in fp8 or GGUF.",
            )
        if name.endswith(_DESCRIPTION):
            _check_format(part, entry)
            continue
        suffix = next((one for one in _SCALES if name.endswith(one)), None)
        if suffix is None:
            own[name] = entry
        else:
            scales[f"{name.removesuffix(suffix)}.weight"] = entry
    for name, scale in scales.items():
        _check_scale(part, own.get(name), scale)
    return ScaledTensors(own, scales)


def _check_format(part: str, entry: TensorEntry) -> None:
    try:
        found = json.loads(bytes(entry.read().tolist()))["format"]
    except (ValueError, KeyError, TypeError):
        found = "something that cannot be read"
    if found not in _FORMATS:
        raise WeightsInvalidError(f"{part} is stored in {found}, which is not supported.", _PLAIN)


def _check_scale(part: str, weight: TensorEntry | None, scale: TensorEntry) -> None:
    if weight is None:
        raise WeightsInvalidError(f"{part} has a scale without a weight: {scale.name}.", _PLAIN)
    if not is_narrow(weight) or scale.values not in (1, weight.shape[0]):
        raise WeightsInvalidError(
            f"{part} packs {weight.name} in a way that is not supported: {scale.values} scales for "
            f"{weight.shape[0]} rows (as nvfp4 and mxfp8 do).",
            _PLAIN,
        )


_WIDENED_AT_ONCE = 2**23
"""Numbers: a table of tokens has 400 million, and would take three times its size in fp32."""


def _widener(scale: TensorEntry | None, dtype: Any) -> Any:
    def widen(tensor: Any) -> Any:
        if scale is None:
            return tensor.to(dtype)
        import torch

        rows = tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)
        by_row = _by_row(scale, tensor.device).expand(rows.shape[0], 1)
        wide = torch.empty(rows.shape, dtype=dtype, device=tensor.device)
        step = max(1, _WIDENED_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, rows.shape[0], step):
            part = slice(start, start + step)
            wide[part] = rows[part].float() * by_row[part]
        return wide.reshape(tensor.shape)

    return widen


def _by_row(scale: TensorEntry, device: Any) -> Any:
    return scale.read().float().reshape(-1, 1).to(device)


def _storage_by_row(entry: TensorEntry, scale: TensorEntry | None) -> Any:
    import torch

    rows = torch.zeros(entry.shape[0] if entry.shape else 1, 2)
    if is_held(entry):
        rows[:, :1] = 1.0 if scale is None else _by_row(scale, "cpu")
        rows[:, 1] = _CODES.index(str(entry.dtype))
    return rows


_CODES = ("", "torch.float8_e4m3fn", "torch.float8_e5m2")
"""Number types, by the code that stands for them beside a scale; the first is for no weight."""


def hold_scaled(model: Any, storage: Mapping[str, Any], dtype: Any) -> None:
    """Put `ScaledLinear` in the place of linear layers, `ScaledEmbedding` in that of tables.

    Args:
        model: Its layers may have no weights yet, or those widened: they are then narrowed again,
            exactly.
        storage: By the name of the weight (`ScaledTensors.storage`).
        dtype: Torch's, of biases.
    """
    import torch

    from flux_mcp.pipelines.loading.scaled_linear import ScaledEmbedding, ScaledLinear

    for name, rows in storage.items():
        code = int(rows[0, 1])
        if not code:
            continue
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        stored, scale = getattr(torch, _CODES[code].removeprefix("torch.")), rows[:, 0].contiguous()
        if leaf != "weight":
            continue
        if isinstance(layer, torch.nn.Linear):
            _put(model, path, ScaledLinear(layer, scale, stored, dtype))
        elif type(layer) is torch.nn.Embedding:
            table = ScaledEmbedding(layer, scale, stored, dtype)
            # T5 has its table of tokens in two places.
            for place in _places_of(model, layer.weight):
                _put(model, place, table)


def _put(model: Any, path: str, layer: Any) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _places_of(model: Any, weight: Any) -> list[str]:
    modules = model.named_modules(remove_duplicate=False)
    return [path for path, module in modules if getattr(module, "weight", None) is weight]
