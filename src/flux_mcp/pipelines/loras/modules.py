"""What PEFT's LoRA layers run in place of two narrow matrices: a Kronecker product.

PEFT adds `lora_B(lora_A(x)) * scaling` to what the base layer gives, whatever the base's weights
are (0.21: plain, torchao, bitsandbytes, GGUF). For a LoKr these two modules compute the product of
`kron(w1, w2)` and `x` without ever making the large matrix: with `x` as a matrix of w1's and w2's
columns it is `w1 @ (x @ w2.T)`. PEFT's own LoKr makes the whole matrix at each step.
"""

from collections.abc import Sequence

import torch
from torch import nn


class KroneckerIn(nn.Module):
    """Multiplies by the second factor.

    Args:
        second: The factor (rows, columns).
        inputs: How many numbers of the layer's input it is for; any after these are left out.
    """

    def __init__(self, second: torch.Tensor, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(second, requires_grad=False)
        self._inputs = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., columns of the first factor, rows of the second)."""
        columns = self.weight.shape[1]
        parts = x[..., : self._inputs].reshape(*x.shape[:-1], -1, columns)
        product: torch.Tensor = parts @ self.weight.T
        return product


class KroneckerOut(nn.Module):
    """Multiplies by the first factor and keeps some of the rows.

    Args:
        first: The factor (rows, columns).
        rows: Which rows of the product are the layer's, in its order: from one and up to another.
        bias: Added to what comes out.
    """

    def __init__(
        self,
        first: torch.Tensor,
        rows: Sequence[tuple[int, int]],
        bias: torch.Tensor | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(first, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._rows = tuple(rows)

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """Return (..., the layer's outputs)."""
        whole = (self.weight @ parts).flatten(-2)
        kept = [whole[..., start:stop] for start, stop in self._rows]
        result = kept[0] if len(kept) == 1 else torch.cat(kept, dim=-1)
        return result if self.bias is None else result + self.bias
