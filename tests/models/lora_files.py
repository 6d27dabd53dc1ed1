"""LoRA files made for a test: small matrices under the names that trainers use."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

STRIPED = Path(__file__).parents[1] / "data" / "loras" / "striped.safetensors"
"""Trained for micro: whatever is drawn has stripes."""
Tensors = dict[str, np.ndarray[Any, Any]]

_ENDS = {
    "lora_A": ("lora_A.weight", "lora_B.weight"),
    "lora_down": ("lora_down.weight", "lora_up.weight"),
    "down": ("down.weight", "up.weight"),
    "lora.down": ("lora.down.weight", "lora.up.weight"),
}


def pair(
    layer: str,
    inputs: int,
    outputs: int,
    *,
    rank: int = 2,
    ends: str = "lora_A",
    alpha: float | None = None,
) -> Tensors:
    """Return the two matrices of a layer, the same ones for the same layer."""
    numbers = np.random.default_rng([inputs, outputs, *layer.encode()])
    down, up = _ENDS[ends]
    tensors: Tensors = {
        f"{layer}.{down}": numbers.normal(0, 0.2, (rank, inputs)).astype(np.float32),
        f"{layer}.{up}": numbers.normal(0, 0.2, (outputs, rank)).astype(np.float32),
    }
    if alpha is not None:
        tensors[f"{layer}.alpha"] = np.array(alpha, np.float32)
    return tensors


def lokr_of(layer: str, inputs: int, outputs: int, factor: int = 8) -> Tensors:
    """Return a layer's two factors of a Kronecker product, the same ones for the same layer."""
    numbers = np.random.default_rng([inputs, outputs, *layer.encode()])
    second = (outputs // factor, inputs // factor)
    return {
        f"{layer}.lokr_w1": numbers.normal(0, 0.2, (factor, factor)).astype(np.float32),
        f"{layer}.lokr_w2": numbers.normal(0, 0.2, second).astype(np.float32),
    }


def write(path: Path, *tensors: Tensors, **metadata: str) -> Path:
    """Write a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: one for some in tensors for name, one in some.items()}, path, metadata or None)
    return path


def put_striped(folder: Path, name: str = "striped") -> Path:
    """Copy the trained one into a folder of LoRAs."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(STRIPED, folder / f"{name}.safetensors"))


def flux1(layer: str = "transformer.transformer_blocks.0.ff.net.2") -> Tensors:
    """Return a layer that only FLUX.1 has in this size."""
    return pair(layer, 4 * 3072, 3072)
