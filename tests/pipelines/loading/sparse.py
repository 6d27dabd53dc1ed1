"""Safetensors files of true names and shapes, with holes for numbers."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a file of 16 bit zeros that takes no room on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {
            "dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path
