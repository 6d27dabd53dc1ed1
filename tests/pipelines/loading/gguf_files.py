"""GGUF files of small models, as their makers write them."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

SCALES = {"Q6_K": (-2,), "Q5_K": (0, 2), "Q4_K": (0, 2), "Q3_K": (-2,), "Q2_K": (-4, -2)}
"""Where in a K block its 16 bit scales lie (ggml-common.h); the rest may be any bytes."""


def packed(values: np.ndarray, block_type: str, random: np.random.Generator) -> np.ndarray | None:
    """Return a matrix in blocks; `None` where its rows are no multiple of one.

    The gguf package unpacks K blocks but does not make them: theirs are made of chance.
    """
    kind = GGMLQuantizationType[block_type]
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    if values.ndim != 2 or values.shape[1] % block_size:
        return None
    if block_type not in SCALES:
        return gguf.quants.quantize(values, kind)
    blocks = random.integers(0, 256, (values.size // block_size, type_size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    for place in SCALES[block_type]:
        start = place % type_size
        blocks[:, start : start + 2] = scale
    return blocks.reshape(values.shape[0], -1)


def write_gguf(
    path: Path, architecture: str, tensors: Mapping[str, np.ndarray], block_type: str
) -> dict[str, np.ndarray]:
    """Write a file; return what each of its matrices is unpacked to, by gguf itself."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    unpacked = {}
    for name, given in tensors.items():
        values = np.ascontiguousarray(given, np.float32)
        blocks = packed(values, block_type, random)
        if blocks is None:
            writer.add_tensor(name, values)
            continue
        kind = GGMLQuantizationType[block_type]
        writer.add_tensor(name, blocks, raw_dtype=kind)
        unpacked[name] = gguf.quants.dequantize(blocks, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked
