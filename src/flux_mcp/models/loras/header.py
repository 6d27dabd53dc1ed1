"""The header of a LoRA file: its layers, their ranks and alphas, the trainer's metadata.

No weights are read, but for the alphas, which are tensors of one number, and for small tensors
that may be all zeros. Every tensor is part of a layer, left out by name, or an error.

A safetensors file begins with the length of a JSON object (8 bytes, little endian) and the object:
for each tensor its type, shape and place (github.com/huggingface/safetensors, README).
"""

import io
import json
import math
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from flux_mcp.errors import InvalidLoraError
from flux_mcp.models.loras.names import (
    CONTROL_NORM,
    LAYOUTS,
    OTHER_FORM,
    Role,
    TensorName,
    embedded_word,
    is_marker,
    is_of_text_encoder,
    layout_of,
    read_name,
    scale_names,
    unsupported_kind,
    without_prefix,
)

ADAPTER_METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers puts PEFT's settings (diffusers/loaders/lora_base.py, 0.42.1)."""
FIX = "Get the LoRA again, or convert it to the layout of diffusers or kohya's sd-scripts."


# --- alphas --------------------------------------------------------------------------------------

_PATTERNS_TIMEOUT_S = 0.5
"""For all expressions of a file on all its layers; one on one layer takes microseconds."""
_LONGEST_PATTERN = 1000


@dataclass
class _TimeLeft:
    """What is left of the time for the expressions of one file."""

    seconds: float = _PATTERNS_TIMEOUT_S


@dataclass(frozen=True)
class AdapterAlpha:
    """PEFT's settings, as diffusers stores them: alpha for all layers, and where it differs."""

    lora_alpha: float | None
    patterns: Mapping[str, float]
    """Names of layers, or regular expressions, each with its alpha."""
    is_rank_stabilised: bool
    time_left: _TimeLeft = field(default_factory=_TimeLeft, compare=False)

    def alpha(self, name: str, rank: int) -> float:
        """Return a layer's alpha; the first pattern that fits the end of its name decides.

        Raises:
            InvalidLoraError: a pattern is no expression, or takes too long.
        """
        found = (
            alpha
            for pattern, alpha in self.patterns.items()
            if _fits_end(pattern, name, self.time_left)
        )
        alpha = next(found, self.lora_alpha)
        if alpha is None:
            return float(rank)
        # Rank-stabilised: scaled by alpha / sqrt(rank) (PEFT's use_rslora).
        return float(alpha) * math.sqrt(rank) if self.is_rank_stabilised else float(alpha)


def _fits_end(pattern: str, name: str, time_left: _TimeLeft) -> bool:
    """Compare as `get_pattern_key` of PEFT does (utils/other.py, 0.21).

    An expression comes from the file and could run for ever: it gets a time limit.
    """
    plain = pattern.removeprefix("^").removesuffix("$")
    if re.fullmatch(r"[\w.]+", plain):
        return name == plain or (pattern[0] != "^" and name.endswith(f".{plain}"))
    import regex  # noqa: PLC0415 - 30 ms to import, and few files have expressions

    started = time.perf_counter()
    try:
        whole = regex.compile(rf"(.*\.)?({pattern})$")
        found = whole.match(name[:300], timeout=max(time_left.seconds, 0.0001))
    except regex.error as error:
        raise InvalidLoraError(
            f"Its {ADAPTER_METADATA_KEY} is damaged: '{pattern[:80]}' is no regular expression.",
            FIX,
        ) from error
    except TimeoutError as error:
        raise InvalidLoraError(
            f"Its {ADAPTER_METADATA_KEY} has a regular expression that takes too long: "
            f"'{pattern[:80]}'.",
            FIX,
        ) from error
    time_left.seconds -= time.perf_counter() - started
    return found is not None


def _pattern(text: str) -> str:
    """Return a pattern that is no longer than any real one.

    Raises:
        ValueError: it is, or says nothing.
    """
    if not 0 < len(text) <= _LONGEST_PATTERN:
        raise ValueError(text)
    return text


def adapter_alpha(metadata: Mapping[str, str]) -> AdapterAlpha | None:
    """Read the settings a file's metadata has; most have none.

    Raises:
        InvalidLoraError: they are damaged, or say it is no LoRA.
    """
    text = metadata.get(ADAPTER_METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
        ours = {
            key.removeprefix("transformer."): value
            for key, value in values.items()
            if not is_of_text_encoder(key)
        }
        if ours.get("use_dora"):
            raise InvalidLoraError("It is a DoRA, which is not supported.", OTHER_FORM)
        kind = str(ours.get("peft_type") or "LORA").rpartition(".")[2]
        if kind != "LORA":
            raise InvalidLoraError(
                f"Its {ADAPTER_METADATA_KEY} says it is a {kind}, which is not supported in this "
                "form.",
                OTHER_FORM,
            )
        patterns = {_pattern(k): float(v) for k, v in (ours.get("alpha_pattern") or {}).items()}
        alpha = ours.get("lora_alpha")
        return AdapterAlpha(
            None if alpha is None else float(alpha), patterns, bool(ours.get("use_rslora"))
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidLoraError(f"Its {ADAPTER_METADATA_KEY} is damaged.", FIX) from error


# --- the header ----------------------------------------------------------------------------------

MAX_HEADER_BYTES = 16_000_000
"""A LoRA of every layer of FLUX.2 dev has a header of 200 kB."""
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_WHOLE = {"I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}
_WIDTHS = _FLOATS | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
_MOST_ZEROS_BYTES = 65_536
"""A tensor that may be left out because it is all zeros is read; a norm's has 128 numbers."""

Form = Literal["lora", "lokr", "diff", "bias"]
"""`lora`: `up @ down`; `lokr`: the Kronecker product of two matrices, each given whole or as a
product; `diff`: the change itself; `bias`: none, but for that of the bias."""
_FORMS: Mapping[frozenset[Role], Form] = {
    frozenset({"down", "up"}): "lora",
    frozenset({"diff"}): "diff",
    frozenset(): "bias",
    **{
        frozenset((*first, *second)): "lokr"
        for first in (("w1",), ("w1_a", "w1_b"))
        for second in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
    },
}
"""By the matrices of a layer."""
_BESIDE: frozenset[Role] = frozenset({"alpha", "bias", "diff_b"})


@dataclass(frozen=True)
class LoraLayer:
    """What a file adds to the weights of one layer, times `scale`, and to its bias."""

    name: str
    """As the file has it, without its prefix."""
    layout: str
    form: Form
    tensors: Mapping[Role, str]
    """Names of its tensors in the file, without its alpha."""
    shapes: Mapping[Role, tuple[int, ...]]
    """Of its tensors; sides of 1 that make a matrix a convolution are left out."""
    scales: Mapping[Role, str]
    """Names of the scales that matrices in fp8 are multiplied with."""
    rank: int | None
    """`None` where nothing is a product of two narrow matrices."""
    inputs: int | None
    """`None` where only a bias changes."""
    outputs: int
    alpha: float
    scale: float
    """What its trainer multiplies the change by."""

    @property
    def down(self) -> str:
        """Name of the tensor (rank, inputs) of a `lora`."""
        return self.tensors["down"]

    @property
    def up(self) -> str:
        """Name of the tensor (outputs, rank) of a `lora`."""
        return self.tensors["up"]


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA file holds."""

    layout: str
    """Whose names its layers have: diffusers, kohya, comfyui, onetrainer, lycoris, peft, bfl or
    xlabs; several with commas between them."""
    layers: tuple[LoraLayer, ...]
    dtypes: tuple[str, ...]
    text_encoder_layers: int
    """Layers of text encoders, which are not applied."""
    is_control: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the tensors that belong to no layer; only a control LoRA may have any."""
    left_out: tuple[str, ...] = ()
    """What in it is not used, in words."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Every rank that occurs, smallest first."""
        return tuple(sorted({one.rank for one in self.layers if one.rank is not None}))

    @property
    def alphas(self) -> tuple[float, ...]:
        """Every alpha that occurs, smallest first."""
        return tuple(sorted({one.alpha for one in self.layers if one.rank is not None}))

    @property
    def is_narrow(self) -> bool:
        """Whether it is nothing but pairs of matrices."""
        return all(
            layer.form in {"lora", "diff"} and not layer.tensors.keys() & _BESIDE
            for layer in self.layers
        )

    @property
    def forms(self) -> tuple[Form, ...]:
        """Every form that occurs."""
        return tuple(sorted({layer.form for layer in self.layers}))


# --- reading it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In the file."""

    @property
    def nbytes(self) -> int | None:
        width = _WIDTHS.get(self.dtype)
        return None if width is None else width * math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, ...]:
        """Its shape; (a, b, 1, 1) is a convolution of one pixel, which is a matrix."""
        shape = self.shape
        while len(shape) > 2 and shape[-1] == 1:  # noqa: PLR2004
            shape = shape[:-1]
        return shape


@dataclass(frozen=True)
class _Contents:
    tensors: Mapping[str, _Tensor]
    metadata: Mapping[str, str]
    stream: BinaryIO


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
    return _interpret(_read_contents(stream))


def read_control_header(path: Path) -> LoraHeader:
    """Read what a control LoRA holds: norms may stand beside its layers.

    Raises:
        InvalidLoraError: as `read_header`, but for those.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return _interpret(_read_contents(stream), takes_others=True)


def _read_contents(stream: BinaryIO) -> _Contents:
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
    return _Contents(tensors, metadata, stream)


def _tensor(entry: Mapping[str, Any], base: int, total: int) -> _Tensor:
    """Check one entry of the header.

    Raises:
        ValueError: its numbers lie outside of the file, or are not as many as its shape says.
    """
    start, end = entry["data_offsets"]
    shape = tuple(int(side) for side in entry["shape"])
    if not 0 <= start <= end <= total - base or min(shape, default=0) < 0:
        raise ValueError(entry)
    tensor = _Tensor(str(entry["dtype"]), shape, base + start)
    if tensor.nbytes is not None and end - start != tensor.nbytes:
        raise ValueError(entry)
    return tensor


# --- from tensors to layers ----------------------------------------------------------------------


@dataclass
class _Sorted:
    """The tensors of a file, sorted by what they are."""

    layers: dict[str, dict[Role, str]] = field(default_factory=dict)
    """Names of the tensors of each layer."""
    wholes: dict[str, str] = field(default_factory=dict)
    """Of a matrix split in parts, the layer they are parts of: its alpha counts for each."""
    adapters: set[str] = field(default_factory=set)
    text_layers: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    """Whose embeddings are in it."""
    zeros: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def _interpret(contents: _Contents, *, takes_others: bool = False) -> LoraHeader:
    found = _sort(contents)
    if (kind := unsupported_kind(_names_of_transformer(contents.tensors))) is not None:
        raise InvalidLoraError(*kind)
    if not any(roles.keys() - {"alpha"} for roles in found.layers.values()):
        refuse_others(found.others)
        only = "It is for text encoders alone: t" if found.text_layers else "T"
        raise InvalidLoraError(f"{only}here is no LoRA layer of a FLUX transformer in it.", FIX)
    _refuse_several_adapters(found.adapters)
    used, left_out = _layers(found, contents)
    others = [name for name in found.others if name not in used.scales]
    is_control = any(map(CONTROL_NORM.search, others)) and any(
        without_prefix(name) in {"img_in", "x_embedder"} for name in found.layers
    )
    if not (is_control or takes_others):
        refuse_others(others)
    dtypes = {contents.tensors[n].dtype for layer in used.layers for n in layer.tensors.values()}
    layouts = {layer.layout for layer in used.layers}
    return LoraHeader(
        layout=", ".join(one for one in LAYOUTS if one in layouts),
        layers=used.layers,
        dtypes=tuple(sorted(dtypes)),
        text_encoder_layers=len(found.text_layers),
        is_control=is_control,
        metadata=dict(contents.metadata),
        others={name: contents.tensors[name].shape for name in others},
        left_out=left_out,
    )


def _names_of_transformer(names: Mapping[str, _Tensor]) -> list[str]:
    return [name for name in names if not is_of_text_encoder(name)]


def _sort(contents: _Contents) -> _Sorted:
    found = _Sorted()
    for name, tensor in contents.tensors.items():
        read = read_name(name)
        if is_of_text_encoder(name):
            found.text_layers.add(read.layer if read else name)
        elif (word := embedded_word(name)) is not None:
            found.words.add(word)
        elif is_marker(name):
            continue
        elif read is None or (read.role == "diff" and len(tensor.matrix) != 2):  # noqa: PLR2004
            is_zero = read is not None and _is_all_zeros(tensor, contents.stream)
            (found.zeros if is_zero else found.others).append(name)
        else:
            _add(found, name, read)
    return found


def _add(found: _Sorted, name: str, read: TensorName) -> None:
    roles = found.layers.setdefault(read.layer, {})
    if read.role in roles:
        raise InvalidLoraError(
            f"'{roles[read.role][:120]}' and '{name[:120]}' are for the same layer.", FIX
        )
    roles[read.role] = name
    if read.whole is not None:
        found.wholes[read.layer] = read.whole
    if read.role not in {"alpha", "diff", "diff_b"}:
        found.adapters.add(read.adapter or "")


def _refuse_several_adapters(adapters: set[str]) -> None:
    if len(adapters) > 1:
        names = ", ".join(f"'{name[:60]}'" if name else "one without a name" for name in adapters)
        raise InvalidLoraError(
            f"It holds several adapters of PEFT: {names}.", "Save the one that is meant alone."
        )


def refuse_others(names: Sequence[str]) -> None:
    """Refuse tensors that are part of no layer, saying what they are where that is known.

    Raises:
        InvalidLoraError: there are any.
    """
    if not names:
        return
    norms = [name for name in names if ".norm" in name or "_norm" in name]
    if len(norms) == len(names):
        raise InvalidLoraError(
            f"It changes {len(norms)} norms of the transformer, such as '{norms[0][:120]}', which "
            "is not supported.",
            "Extract or train it again without norms.",
        )
    raise InvalidLoraError(
        f"{len(names)} of its tensors are no LoRA layers, such as '{names[0][:120]}'.", FIX
    )


@dataclass(frozen=True)
class _Used:
    layers: tuple[LoraLayer, ...]
    scales: frozenset[str]
    """Names of all scales of matrices in fp8."""


def _layers(found: _Sorted, contents: _Contents) -> tuple[_Used, tuple[str, ...]]:
    """Return the layers, and in words what is left out of the file."""
    adapter = adapter_alpha(contents.metadata)
    layers: list[LoraLayer] = []
    lonely, empty = [], 0
    shared = set(found.wholes.values())
    for full, roles in found.layers.items():
        if roles.keys() == {"alpha"}:
            lonely += [] if full in shared else [full]
            continue
        if {0} <= {side for role in roles for side in _matrix_of(contents, roles[role])}:
            empty += 1
            continue
        told = roles.get("alpha") or found.layers.get(found.wholes.get(full, ""), {}).get("alpha")
        alpha = None if told is None else _read_number(contents.tensors[told], contents.stream)
        layers.append(_layer(full, roles, contents, alpha, adapter))
    left_out = (
        (found.text_layers, f"{len(found.text_layers)} layers of text encoders"),
        (found.words, f"embeddings of words ({', '.join(sorted(found.words))[:120]})"),
        (
            lonely,
            f"alphas of layers it does not have ({', '.join(lonely[:3])[:200]})",
        ),
        (empty, f"{empty} layers of rank 0"),
        (found.zeros, f"{len(found.zeros)} tensors of zeros"),
    )
    scales = frozenset(name for layer in layers for name in layer.scales.values())
    return _Used(tuple(layers), scales), tuple(words for some, words in left_out if some)


def _matrix_of(contents: _Contents, name: str) -> tuple[int, ...]:
    return contents.tensors[name].matrix


def _layer(
    full: str,
    roles: Mapping[Role, str],
    contents: _Contents,
    told: float | None,
    adapter: AdapterAlpha | None,
) -> LoraLayer:
    """Put the tensors of one layer together.

    Raises:
        InvalidLoraError: they are not those of one form, or do not fit together.
    """
    matrices = roles.keys() - _BESIDE
    form = _FORMS.get(frozenset(matrices))
    if form is None or (form != "lora" and "bias" in roles):
        is_part = any(matrices < whole for whole in _FORMS)
        lacks = "lacks one of its matrices" if is_part else "has matrices of different forms"
        raise InvalidLoraError(f"The layer '{full[:120]}' {lacks}.", FIX)
    shapes: dict[Role, tuple[int, ...]] = {
        role: _matrix_of(contents, name) for role, name in roles.items() if role != "alpha"
    }
    for role, shape in shapes.items():
        dtype, sides = contents.tensors[roles[role]].dtype, 1 if role in _BESIDE else 2
        if dtype not in _FLOATS or len(shape) != sides:
            raise InvalidLoraError(
                f"'{roles[role][:120]}' cannot be used: {dtype} of the shape {shape}.", FIX
            )
    try:
        rank, inputs, outputs = _measure(form, shapes)
    except ValueError as error:
        raise InvalidLoraError(
            f"The matrices of '{full[:120]}' do not fit together.", FIX
        ) from error
    name = without_prefix(full)
    if told is None and rank is not None and form == "lora" and adapter is not None:
        told = adapter.alpha(name, rank)
    alpha = told if told is not None else float(rank or 1)
    if not math.isfinite(alpha):
        raise InvalidLoraError(f"The alpha of '{full[:120]}' is no number.", FIX)
    return LoraLayer(
        name=name,
        layout=layout_of(full),
        form=form,
        tensors={role: tensor for role, tensor in roles.items() if role != "alpha"},
        shapes=shapes,
        scales=dict(_scales(roles, matrices, contents.tensors)),
        rank=rank,
        inputs=inputs,
        outputs=outputs,
        alpha=alpha,
        scale=1.0 if rank is None else alpha / rank,
    )


def _measure(
    form: Form, shapes: Mapping[Role, tuple[int, ...]]
) -> tuple[int | None, int | None, int]:
    """Return rank, inputs and outputs of a layer.

    Raises:
        ValueError: its tensors do not fit together.
    """
    biases = {shapes[role] for role in ("bias", "diff_b") if role in shapes}
    rank: int | None = None
    inputs: int | None = None
    if form == "lora":
        (rank, inputs), (outputs, across) = shapes["down"], shapes["up"]
        _require(rank == across)
    elif form == "diff":
        outputs, inputs = shapes["diff"]
    elif form == "bias":
        ((outputs,),) = biases
    else:
        (rows, columns), first = _factor(shapes, "w1", "w1_a", "w1_b")
        if "t2" in shapes:
            # A Tucker product: the two matrices have the rank as their first side.
            (second, inner_rows), (across, inner_columns) = shapes["w2_a"], shapes["w2_b"]
            _require(shapes["t2"] == (second, across))
            rank = across
        else:
            (inner_rows, inner_columns), rank = _factor(shapes, "w2", "w2_a", "w2_b")
        # LyCORIS scales where a factor is a product, by the rank of the second if that is one
        # (lycoris/modules/lokr.py; diffusers 0.42.1, `_bake_lokr_alpha_`).
        rank = first if rank is None else rank
        outputs, inputs = rows * inner_rows, columns * inner_columns
    _require(biases <= {(outputs,)})
    return rank, inputs, outputs


def _factor(
    shapes: Mapping[Role, tuple[int, ...]], whole: Role, left: Role, right: Role
) -> tuple[tuple[int, int], int | None]:
    """Return the shape of one factor of a Kronecker product, and its rank if it is a product."""
    if whole in shapes:
        rows, columns = shapes[whole]
        return (rows, columns), None
    (rows, rank), (across, columns) = shapes[left], shapes[right]
    _require(rank == across)
    return (rows, columns), rank


def _require(is_so: bool) -> None:  # noqa: FBT001 - the sentence is at the call
    if not is_so:
        raise ValueError


def _scales(
    roles: Mapping[Role, str], matrices: Sequence[Role] | set[Role], tensors: Mapping[str, _Tensor]
) -> Iterator[tuple[Role, str]]:
    """Yield the scale of each matrix in fp8 that has one: one number, or one for each row."""
    for role in matrices:
        tensor = tensors[roles[role]]
        for name in scale_names(roles[role]):
            if name not in tensors or tensor.dtype not in _FP8:
                continue
            scale = tensors[name]
            of_rows = scale.shape in {tensor.matrix[:1], (tensor.matrix[0], 1)}
            if scale.dtype not in _FLOATS or not (of_rows or math.prod(scale.shape) == 1):
                raise InvalidLoraError(f"The scale '{name[:120]}' does not fit its matrix.", FIX)
            yield role, name


# --- single numbers ------------------------------------------------------------------------------


def _read_number(tensor: _Tensor, stream: BinaryIO) -> float:
    """Read a tensor of one number.

    Raises:
        InvalidLoraError: it has another number of them, or another type.
    """
    letters = {"F64": "<d", "F32": "<f", "BF16": "<f", "F16": "<e"} | _WHOLE
    if tensor.dtype not in letters or math.prod(tensor.shape) != 1:
        raise InvalidLoraError("An alpha in it is not one number.", FIX)
    data = _read(tensor, stream)
    if tensor.dtype == "BF16":  # the upper half of an F32
        data = b"\0\0" + data
    (value,) = struct.unpack(letters[tensor.dtype], data)
    return float(value)


def _is_all_zeros(tensor: _Tensor, stream: BinaryIO) -> bool:
    if tensor.nbytes is None or tensor.nbytes > _MOST_ZEROS_BYTES:
        return False
    return not any(_read(tensor, stream))


def _read(tensor: _Tensor, stream: BinaryIO) -> bytes:
    stream.seek(tensor.start)
    return stream.read(tensor.nbytes or 0)
