"""How the libraries make a row of formats.toml: their configurations, and fp8 storage by casting.

And what a device can be used with. torchao and bitsandbytes are imported only for rows that name
them.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from flux_mcp.errors import FormatUnsupportedError
from flux_mcp.models.formats import (
    Compute,
    Format,
    Method,
    format_of,
    load_formats,
    require_extra,
    text_precision,
)
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.device import Device

_Maker = Callable[[Any, Format], Any]


def compute_dtype(compute: Compute) -> Any:
    """Return torch's dtype."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[compute]


def configuration(library: Any, row: Format) -> Any | None:
    """Return the configuration with which `library` quantises weights while loading.

    Args:
        library: diffusers or transformers; both name their classes alike.
        row: The format; `None` is returned where nothing is quantised.
    """
    maker = _MAKERS.get(row.method)
    return None if maker is None else maker(library, row)


def _torchao(library: Any, row: Format) -> Any:
    from torchao import quantization
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    # int4 in the packing whose kernels are torch's own: torchao's plain one needs another package.
    options = {
        "Int4WeightOnlyConfig": {"int4_packing_format": Int4PackingFormat.TILE_PACKED_TO_4D},
        # A scale for each row loses less than one for each tensor (torchao's own advice).
        "Float8DynamicActivationFloat8WeightConfig": {"granularity": quantization.PerRow()},
    }
    made = getattr(quantization, row.recipe)(**options.get(row.recipe, {}))
    return library.TorchAoConfig(made)


def _bitsandbytes(library: Any, row: Format) -> Any:
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=row.recipe,
        bnb_4bit_compute_dtype=compute_dtype(row.compute),
    )


def _gguf(library: Any, row: Format) -> Any:
    # Its default is fp32, whatever the model's own dtype.
    return library.GGUFQuantizationConfig(compute_dtype=compute_dtype(row.compute))


_MAKERS: Mapping[Method, _Maker] = MappingProxyType(
    {"torchao": _torchao, "bitsandbytes": _bitsandbytes, "gguf": _gguf}
)


def cast_storage(model: Any, row: Format) -> None:
    """Store a model's layers as fp8 and widen each for as long as it works, if the row says so.

    T5's feed-forward is widened whole: it brings its input to the type of one of its weights, which
    must not be fp8 (transformers 5.23, T5DenseGatedActDense).
    """
    if row.method != "casting":
        return
    import torch
    from diffusers.hooks import apply_layerwise_casting
    from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

    wide = (T5DenseActDense, T5DenseGatedActDense)
    storage, compute = getattr(torch, row.recipe), compute_dtype(row.compute)
    narrow = [part for part in model.modules() if isinstance(part, wide)]
    for part in narrow:
        apply_layerwise_casting(
            part, storage, compute, skip_modules_pattern=None, skip_modules_classes=None
        )
    patterns = getattr(model, "_skip_layerwise_casting_patterns", None) or _TEXT_KEPT
    apply_layerwise_casting(
        model,
        storage,
        compute,
        skip_modules_pattern=tuple(patterns),
        skip_modules_classes=wide,
    )


_TEXT_KEPT = ("norm", "embed", "shared", "relative_attention_bias", "lm_head")
"""What stays wide in a text encoder: norms, and tables that only look up."""


Role = Literal["transformer", "text encoder"]


def require_formats(spec: ModelSpec, device: Device) -> None:
    """Check the precisions of a row's transformer and text encoder.

    Raises:
        FormatUnsupportedError: not on this device, or not for that part.
        ExtraMissingError: a package is missing or too old.
    """
    _require(spec.precision, "transformer", device)
    _require(text_precision(spec), "text encoder", device)


def require_classes(class_names: Iterable[str]) -> None:
    """Check that the packages are installed which the classes of a pipeline's parts need.

    Raises:
        ExtraMissingError: a package is missing or too old.
    """
    extras = load_formats().extra
    for class_name in class_names:
        for extra, row in extras.items():
            if class_name in row.classes:
                require_extra(extra, class_name)


def _require(precision: Precision, role: Role, device: Device) -> None:
    """Check a precision: first the device, because no package helps where it is the wrong one."""
    row = format_of(precision)
    if row.blocked:
        raise FormatUnsupportedError(
            f"Weights in {precision} cannot be used: {row.blocked}.", _others(role, device)
        )
    if role == "text encoder" and not row.for_text:
        raise FormatUnsupportedError(
            f"A text encoder cannot be loaded in {precision}.", _others(role, device)
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
            f"Weights in {precision} need a GPU of compute capability {least}; "
            f"this one has {device.compute_capability}.",
            _others(role, device),
        )
    if row.extra is not None:
        require_extra(row.extra, f"Weights in {precision}")


def _others(role: Role, device: Device) -> str:
    """Name the precisions that this device can use and that are made while loading."""
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
