"""The header of a LoRA file: its layers, their ranks and alphas, the trainer's metadata.

No weights are read, but for the alphas, which are tensors of one number.

A safetensors file begins with the length of a JSON object (8 bytes, little endian) and the object:
for each tensor its type, shape and place (github.com/huggingface/safetensors, README).
"""

import io
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from flux_mcp.errors import InvalidLoraError

ADAPTER_METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers puts PEFT's settings (diffusers/loaders/lora_base.py, 0.42.1)."""
TEXT_ENCODERS = ("text_encoder", "lora_te")
"""Names of their layers begin so."""
FIX = "Get the LoRA again, or convert it to the layout of diffusers or kohya's sd-scripts."


# --- alphas --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdapterAlpha:
    """PEFT's settings, as diffusers stores them: alpha for all layers, and where it differs."""

    lora_alpha: float | None
    patterns: Mapping[str, float]
    is_rank_stabilised: bool

    def alpha(self, name: str, rank: int) -> float:
        """Return a layer's alpha; PEFT compares the end of the name."""
        dotted = f".{name}"
        found = (a for end, a in self.patterns.items() if dotted.endswith(f".{end}"))
        alpha = next(found, self.lora_alpha)
        if alpha is None:
            return float(rank)
        # Rank-stabilised: scaled by alpha / sqrt(rank) (PEFT's use_rslora).
        return float(alpha) * math.sqrt(rank) if self.is_rank_stabilised else float(alpha)


def adapter_alpha(metadata: Mapping[str, str]) -> AdapterAlpha | None:
    """Read the settings a file's metadata has; most have none.

    Raises:
        InvalidLoraError: they are damaged, or say it is a DoRA.
    """
    text = metadata.get(ADAPTER_METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
        ours = {
            key.removeprefix("transformer."): value
            for key, value in values.items()
            if not key.startswith(TEXT_ENCODERS)
        }
        if ours.get("use_dora"):
            raise InvalidLoraError("It is a DoRA, which is not supported.", FIX)
        patterns = {_plain_name(k): float(v) for k, v in (ours.get("alpha_pattern") or {}).items()}
        alpha = ours.get("lora_alpha")
        return AdapterAlpha(
            None if alpha is None else float(alpha), patterns, bool(ours.get("use_rslora"))
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidLoraError(f"Its {ADAPTER_METADATA_KEY} is damaged.", FIX) from error


def _plain_name(pattern: str) -> str:
    """Return the name a pattern stands for. PEFT allows regular expressions; no file needs one.

    Raises:
        ValueError: it is an expression: it would be run on every name, however long that takes.
    """
    name = pattern.removeprefix("^").removesuffix("$")
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError(pattern)
    return name


# --- the header ----------------------------------------------------------------------------------

MAX_HEADER_BYTES = 16_000_000
"""A LoRA of every layer of FLUX.2 dev has a header of 200 kB."""
_PREFIXES = (
    # Longest first. The prefix of the layers' names -> the name of the layout.
    ("model.diffusion_model.", "comfyui"),
    ("base_model.model.", "peft"),
    ("diffusion_model.", "comfyui"),
    ("lora_transformer_", "onetrainer"),
    ("transformer.", "diffusers"),
    ("lora_unet_", "kohya"),
    ("", "bfl"),
)
_PAIRS = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "down": "down",
    "up": "up",
}
_WEIGHT = re.compile(
    rf"^(?P<layer>.+?)\.(?:lora\.)?(?P<side>{'|'.join(_PAIRS)})(?:\.default)?(?:\.weight)?$"
)
_ALPHA = re.compile(r"^(?P<layer>.+)\.alpha$")
_CONTROL = re.compile(r"(?:query|key)_norm\.scale$|\.norm_(?:added_)?[qk]\.weight$")
"""Norms that only the control LoRAs of Black Forest Labs replace (diffusers 0.42.1)."""
_UNSUPPORTED = (
    # Part of a tensor's name -> the kind of file it makes.
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("lokr_", "LoKr"),
    ("hada_", "LoHa"),
    ("lora_mid", "LoCon"),
)
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class LoraLayer:
    """One pair of matrices: `up @ down` is added to a layer's weights, times `scale`."""

    name: str
    """As the file has it, without its prefix."""
    down: str
    """Name of the tensor (rank, inputs)."""
    up: str
    """Name of the tensor (outputs, rank)."""
    rank: int
    inputs: int
    outputs: int
    alpha: float

    @property
    def scale(self) -> float:
        """What its trainer multiplies the product by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA file holds."""

    layout: str
    """Whose names its layers have: diffusers, kohya, comfyui, onetrainer, peft, bfl or xlabs."""
    layers: tuple[LoraLayer, ...]
    dtypes: tuple[str, ...]
    text_encoder_layers: int
    """Layers of text encoders, which are not applied."""
    is_control: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the tensors that are no pair of matrices; only a control LoRA may have any."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Every rank that occurs, smallest first."""
        return tuple(sorted({layer.rank for layer in self.layers}))

    @property
    def alphas(self) -> tuple[float, ...]:
        """Every alpha that occurs, smallest first."""
        return tuple(sorted({layer.alpha for layer in self.layers}))


# --- reading it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In the file."""


def read_header(path: Path) -> LoraHeader:
    """Read what a file holds.

    Raises:
        InvalidLoraError: it is no safetensors file, is cut off, or no LoRA that can be applied.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return parse_header(stream)


def parse_header(stream: BinaryIO) -> LoraHeader:
    """Read what a file or its bytes hold.

    Raises:
        InvalidLoraError: as `read_header`.
    """
    tensors, metadata = _read_tensors(stream)
    return _interpret(tensors, metadata, stream)


def read_control_header(path: Path) -> LoraHeader:
    """Read what a control LoRA holds: norms and biases may stand beside its layers.

    Raises:
        InvalidLoraError: as `read_header`, but for those.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        tensors, metadata = _read_tensors(stream)
        return _interpret(tensors, metadata, stream, takes_others=True)


def _read_tensors(stream: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, str]]:
    total = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = stream.read(8)
    (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)  # noqa: PLR2004
    if not 2 <= length <= min(MAX_HEADER_BYTES, total - 8):  # noqa: PLR2004 - an empty object
        raise InvalidLoraError("It is no safetensors file, or is cut off.", FIX)
    try:
        header = json.loads(stream.read(length))
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        tensors = {name: _tensor(entry, 8 + length, total) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidLoraError("Its header is damaged, or the file is cut off.", FIX) from error
    return tensors, metadata


def _tensor(entry: Mapping[str, Any], base: int, total: int) -> _Tensor:
    """Check one entry of the header.

    Raises:
        ValueError: its numbers lie outside of the file, or are not as many as its shape says.
    """
    start, end = entry["data_offsets"]
    shape = tuple(int(side) for side in entry["shape"])
    width = _FLOATS.get(entry["dtype"])
    if not 0 <= start <= end <= total - base or min(shape, default=0) < 0:
        raise ValueError(entry)
    if width is not None and end - start != width * math.prod(shape):
        raise ValueError(entry)
    return _Tensor(str(entry["dtype"]), shape, base + start)


def _interpret(
    tensors: Mapping[str, _Tensor],
    metadata: Mapping[str, str],
    stream: BinaryIO,
    *,
    takes_others: bool = False,
) -> LoraHeader:
    sides: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    text_layers: set[str] = set()
    others: list[str] = []
    for name, tensor in tensors.items():
        weight, alpha = _WEIGHT.match(name), _ALPHA.match(name)
        if name.startswith(TEXT_ENCODERS):
            text_layers.add(weight["layer"] if weight else "")
        elif weight:
            sides.setdefault(weight["layer"], {})[_PAIRS[weight["side"]]] = name
        elif alpha:
            alphas[alpha["layer"]] = _read_scalar(tensor, stream)
        else:
            others.append(name)
    is_control = any(map(_CONTROL.search, others))
    if not (is_control or takes_others):
        refuse_others(others)
    if not sides:
        raise InvalidLoraError("There is no LoRA layer of a FLUX transformer in it.", FIX)
    adapter = adapter_alpha(metadata)
    layers = tuple(_layers(sides, tensors, alphas, adapter))
    return LoraHeader(
        layout=_layout(next(iter(sides))),
        layers=layers,
        dtypes=tuple(sorted({tensors[layer.down].dtype for layer in layers})),
        text_encoder_layers=len(text_layers - {""}),
        is_control=is_control,
        metadata=dict(metadata),
        others={name: tensors[name].shape for name in others},
    )


def refuse_others(names: Sequence[str]) -> None:
    """Refuse tensors that are no LoRA layers, saying what they are where that is known.

    Raises:
        InvalidLoraError: there are any.
    """
    for part, kind in _UNSUPPORTED:
        if any(part in name for name in names):
            raise InvalidLoraError(f"It is a {kind}, which is not supported.", FIX)
    if names:
        raise InvalidLoraError(
            f"{len(names)} of its tensors are no LoRA layers, such as '{names[0][:120]}'.", FIX
        )


def _layers(
    sides: Mapping[str, Mapping[str, str]],
    tensors: Mapping[str, _Tensor],
    alphas: Mapping[str, float],
    adapter: AdapterAlpha | None,
) -> Iterator[LoraLayer]:
    for full, pair in sides.items():
        if set(pair) != {"down", "up"}:
            raise InvalidLoraError(f"The layer '{full[:120]}' lacks one of its matrices.", FIX)
        down, up = tensors[pair["down"]], tensors[pair["up"]]
        if any(one.dtype not in _FLOATS or len(one.shape) != 2 for one in (down, up)):  # noqa: PLR2004
            raise InvalidLoraError(f"The layer '{full[:120]}' is not of two matrices.", FIX)
        (rank, inputs), (outputs, rank_up) = down.shape, up.shape
        if rank != rank_up or rank < 1:
            raise InvalidLoraError(f"The matrices of '{full[:120]}' do not fit together.", FIX)
        name = without_prefix(full)
        told = alphas.get(full)
        alpha = told if told is not None else adapter.alpha(name, rank) if adapter else float(rank)
        if not math.isfinite(alpha):
            raise InvalidLoraError(f"The alpha of '{full[:120]}' is no number.", FIX)
        yield LoraLayer(name, pair["down"], pair["up"], rank, inputs, outputs, alpha)
    lonely = sorted(alphas.keys() - sides.keys())
    if lonely:
        raise InvalidLoraError(f"'{lonely[0][:120]}' has an alpha and no matrices.", FIX)


def _layout(full: str) -> str:
    if ".processor." in full:
        return "xlabs"
    return next(layout for prefix, layout in _PREFIXES if full.startswith(prefix))


def without_prefix(full: str) -> str:
    """Return the name of a tensor or layer without what trainers put before it."""
    prefix = next(prefix for prefix, _ in _PREFIXES if full.startswith(prefix))
    return full.removeprefix(prefix)


def _read_scalar(tensor: _Tensor, stream: BinaryIO) -> float:
    """Read a tensor of one number.

    Raises:
        InvalidLoraError: it has another number of them, or another type.
    """
    width = _FLOATS.get(tensor.dtype)
    if width is None or math.prod(tensor.shape) != 1:
        raise InvalidLoraError("An alpha in it is not one number.", FIX)
    stream.seek(tensor.start)
    data = stream.read(width)
    if tensor.dtype == "BF16":  # the upper half of an F32
        data, width = b"\0\0" + data, 4
    (value,) = struct.unpack({8: "<d", 4: "<f", 2: "<e"}[width], data)
    return float(value)
