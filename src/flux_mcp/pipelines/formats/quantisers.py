"""The libraries' own configurations for a row of formats.toml, and fp8 storage by casting.

torchao and bitsandbytes are imported only for the rows that name them. Knows no files.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flux_mcp.models.formats import Compute, Format, Method

_Maker = Callable[[Any, Format], Any]


def compute_dtype(compute: Compute) -> Any:
    """Return torch's dtype."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[compute]


def configuration(library: Any, row: Format) -> Any | None:
    """Return what `library` (diffusers or transformers) makes these weights with while loading.

    `None` where nothing is quantised. Both name their classes alike.
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
