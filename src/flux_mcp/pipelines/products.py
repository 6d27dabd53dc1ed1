"""Products of 16 bit numbers in 32 bit, for a CPU that has no arithmetic for 16 bit.

There torch 2.13 multiplies bf16 matrices number by number: 5 GFLOP a second of one core beside 24
in fp32 with the widening counted, and in convolutions 0.1 beside 33 (an AMD EPYC with AVX2,
2026-11-30). Sums are in fp32 either way, and results are rounded once.

Imports torch: only imported where something is drawn.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WIDENED_AT_ONCE = 2**23
"""Numbers of a weight: 32 MiB in fp32. All of one has up to 340 in FLUX.2 klein 4B."""


class WideProducts(TorchFunctionMode):
    """While it is entered, products of some number types are computed in fp32.

    Args:
        dtypes: Torch's, of what is multiplied. Weights that a library packs are not touched.
    """

    def __init__(self, dtypes: Iterable[torch.dtype]) -> None:
        super().__init__()
        self._dtypes = frozenset(dtypes)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        named = dict(kwargs or {})
        if func in _PRODUCTS and self._are_narrow(args[:2]):
            return _PRODUCTS[func](func, *args, **named)
        return func(*args, **named)

    def _are_narrow(self, factors: tuple[Any, ...]) -> bool:
        return len(factors) == _FACTORS and all(
            type(one) in (torch.Tensor, torch.nn.Parameter)
            and one.dtype in self._dtypes
            and one.device.type == "cpu"
            for one in factors
        )


_FACTORS = 2


def _linear(
    func: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    wide = hidden.float()
    result = hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))
    step = max(1, WIDENED_AT_ONCE // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        own_bias = None if bias is None else bias[rows].float()
        result[..., rows] = func(wide, weight[rows].float(), own_bias)
    return result


def _any(func: Any, first: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
    wide = [_wide(one) for one in others]
    result: torch.Tensor = func(
        first.float(), *wide, **{name: _wide(one) for name, one in named.items()}
    )
    return result.to(first.dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


_PRODUCTS: Mapping[Any, Callable[..., torch.Tensor]] = {
    functional.linear: _linear,
    functional.conv2d: _any,
    torch.matmul: _any,
    torch.bmm: _any,
    torch.Tensor.matmul: _any,
    torch.Tensor.__matmul__: _any,
}


def slow_dtypes() -> tuple[torch.dtype, ...]:
    """Return the 16 bit types that this CPU cannot multiply, by what torch's own library says."""
    backend: Any = torch.backends.mkldnn  # has no types
    if not backend.is_available():
        return ()
    library = torch.ops.mkldnn
    can = {
        torch.bfloat16: library._is_mkldnn_bf16_supported(),  # noqa: SLF001 - nothing public says it
        torch.float16: library._is_mkldnn_fp16_supported(),  # noqa: SLF001
    }
    return tuple(dtype for dtype, is_supported in can.items() if not is_supported)
