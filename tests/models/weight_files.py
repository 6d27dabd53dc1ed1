"""Weight files for tests: true headers, holes or zeros for numbers. Without torch."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

BITS = {"F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "U8": 8}
Shapes = Mapping[str, tuple[int, ...]]


def sparse_file(path: Path, shapes: Mapping[str, object], number_type: str = "BF16") -> Path:
    """Write a safetensors file that takes no room on the disk.

    A value is a shape, or a number type and a shape.
    """
    header, offset = {}, 0
    for name, value in shapes.items():
        kind, shape = value if value and isinstance(value[0], str) else (number_type, value)
        size = BITS[kind] * math.prod(shape) // 8
        header[name] = {
            "dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


def empty_file(path: Path) -> Path:
    """Write a file without tensors, and other names as empty files."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        path.touch()
        return path
    return sparse_file(path, {})


def empty_gguf(path: Path, kind: str = "Q8_0") -> Path:
    """Write a GGUF file of one small tensor."""
    return sparse_gguf(path, {"a.weight": (4, 256)}, kind)


def sparse_gguf(path: Path, shapes: Shapes, kind: str) -> Path:
    """Write a GGUF file with holes for numbers; what has one dimension stays in 32 bit."""
    import gguf

    infos, offset = b"", 0
    for name, shape in shapes.items():
        number = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        values, size = gguf.GGML_QUANT_SIZES[number]
        if shape[-1] % values:  # as llama.cpp does with what does not fill a block
            number = gguf.GGMLQuantizationType.F16
            values, size = gguf.GGML_QUANT_SIZES[number]
        raw = name.encode()
        infos += struct.pack("<Q", len(raw)) + raw
        infos += struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos += struct.pack("<IQ", number, offset)
        offset += -(-(math.prod(shape) // values * size) // 32) * 32
    key = b"general.architecture"
    keys = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 4) + b"flux"
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), 1) + keys + infos
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(-(-len(head) // 32) * 32 + offset)
    return path


# --- true names and shapes -----------------------------------------------------------------------


def flux1_shapes(*, guidance: bool = True, in_channels: int = 64) -> dict[str, tuple[int, ...]]:
    """What tells a transformer of FLUX.1, in Black Forest Labs' names; not all of it."""
    shapes: dict[str, tuple[int, ...]] = {"img_in.weight": (3072, in_channels)}
    if guidance:
        shapes["guidance_in.in_layer.weight"] = (3072, 256)
    shapes |= {f"double_blocks.{i}.img_mod.lin.weight": (18432, 3072) for i in range(19)}
    return shapes | {f"single_blocks.{i}.modulation.lin.weight": (9216, 3072) for i in range(38)}


def flux2_shapes(width: int, doubles: int, singles: int) -> dict[str, tuple[int, ...]]:
    """What tells a transformer of FLUX.2; not all of it."""
    shapes: dict[str, tuple[int, ...]] = {"img_in.weight": (width, 128)}
    shapes["double_stream_modulation_img.lin.weight"] = (6 * width, width)
    names = {f"double_blocks.{i}.img_attn.proj.weight": (width, width) for i in range(doubles)}
    return (
        shapes
        | names
        | {f"single_blocks.{i}.linear2.weight": (width, 4 * width) for i in range(singles)}
    )


KLEIN_4B = (3072, 5, 20)
T5_SHAPES: Shapes = {
    "shared.weight": (32128, 4096),
    "encoder.block.23.layer.1.DenseReluDense.wi_0.weight": (10240, 4096),
}
CLIP_SHAPES: Shapes = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
}
QWEN_SHAPES: Shapes = {
    "model.embed_tokens.weight": (151936, 2560),
    "model.layers.35.self_attn.q_norm.weight": (128,),
}
VAE_SHAPES: Shapes = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "decoder.conv_in.weight": (512, 16, 3, 3),
}
VAE2_SHAPES: Shapes = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "decoder.conv_in.weight": (512, 32, 3, 3),
    "bn.running_mean": (128,),
}
