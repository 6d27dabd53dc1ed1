"""A linear layer and a table of tokens whose weights are 8 bit floats with a scale for each row.

Imports torch: only imported where such a layer is made.
"""

import torch
from torch import nn


class ScaledLinear(nn.Module):
    """Computes what the layer it replaces would with the weight widened.

    The weight is held as int8, as the bytes it is: T5 brings its input to the type of a weight,
    unless that is int8 (transformers 5.23, T5DenseGatedActDense). The scale is applied to the
    result, because the stored numbers are exact in 16 bit and their products with it are not.

    Args:
        layer: What is replaced. Its weight has no content yet, or is the stored one, widened.
        scale: Of each row; fp32, of shape (rows,).
        stored: The number type of the weight: `float8_e4m3fn` or `float8_e5m2`.
        dtype: Of the bias.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, layer: nn.Linear, scale: torch.Tensor, stored: torch.dtype, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.stored = stored
        _register(self, layer.weight, scale, stored)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
        self.train(layer.training)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the layer's result, in the type of `hidden`."""
        wide = self.weight.view(self.stored).to(hidden.dtype)
        result = (nn.functional.linear(hidden, wide).float() * self.scale).to(hidden.dtype)
        return result if self.bias is None else result + self.bias


class ScaledEmbedding(nn.Module):
    """Looks up what the table it replaces would, widened; exactly the same numbers.

    Args:
        layer: What is replaced. Its weight has no content yet, or is the stored one, widened.
        scale: Of each row; fp32, of shape (rows,).
        stored: The number type of the weight: `float8_e4m3fn` or `float8_e5m2`.
        dtype: Of what is looked up.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, layer: nn.Embedding, scale: torch.Tensor, stored: torch.dtype, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.stored, self.dtype = stored, dtype
        _register(self, layer.weight, scale, stored)
        self.train(layer.training)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the rows of the tokens, of shape (*tokens.shape, width)."""
        rows = self.weight[tokens].view(self.stored).float()
        return (rows * self.scale[tokens].unsqueeze(-1)).to(self.dtype)


def _register(
    layer: nn.Module, weight: torch.Tensor, scale: torch.Tensor, stored: torch.dtype
) -> None:
    """Give a layer its weight and scale as buffers."""
    if weight.device.type == "meta":
        held = torch.empty(weight.shape, dtype=torch.int8, device="meta")
    else:
        scale = scale.to(weight.device)
        held = (weight.float() / scale[:, None]).to(stored).view(torch.int8)
    layer.register_buffer("weight", held)
    # Not stored under a name of its own in any file.
    layer.register_buffer("scale", scale, persistent=False)
