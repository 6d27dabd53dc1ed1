"""A folder like ComfyUI's with weights of full size, in true names and shapes, of random numbers.

Written tensor by tensor, so that it takes no memory. The numbers are of plausible size: weights of
about 0.02, norms of one; nothing is zero, NaN or infinite. Vocabularies are made up: as many
entries as the real ones have, of which only letters are words.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
Written = Callable[[int], None]
"""Called with the bytes that were written since the last call."""
_BITS = {"BF16": 16, "F8_E4M3": 8, "F32": 32}
_SCALE = 0.0002
"""Of e4m3 numbers of random bits, whose deviation is about 110."""
_Q4_0 = {"values": 32, "bytes": 18, "type": 2}
_Q4_SCALE = 0.004
"""Of Q4_0's integers from -8 to 7."""


# --- names and shapes: Black Forest Labs' code (flux/model.py, flux2/model.py) -------------------


def flux1_shapes(*, guidance: bool) -> dict[str, tuple[int, ...]]:
    """Return the tensors of FLUX.1's transformer; without guidance, of schnell."""
    width = 3072
    layers: dict[str, tuple[int, int]] = {"img_in": (width, 64), "txt_in": (width, 4096)}
    for name, size in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        if guidance or name != "guidance_in":
            layers |= {f"{name}.in_layer": (width, size), f"{name}.out_layer": (width, width)}
    norms = []
    for i in range(19):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            layers |= {
                f"{block}_mod.lin": (6 * width, width),
                f"{block}_attn.qkv": (3 * width, width),
                f"{block}_attn.proj": (width, width),
                f"{block}_mlp.0": (4 * width, width),
                f"{block}_mlp.2": (width, 4 * width),
            }
            norms += [f"{block}_attn.norm.{one}_norm.scale" for one in ("query", "key")]
    for i in range(38):
        block = f"single_blocks.{i}"
        layers |= {
            f"{block}.linear1": (7 * width, width),
            f"{block}.linear2": (width, 5 * width),
            f"{block}.modulation.lin": (3 * width, width),
        }
        norms += [f"{block}.norm.{one}_norm.scale" for one in ("query", "key")]
    layers |= {
        "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    weights: dict[str, tuple[int, ...]] = {f"{n}.weight": shape for n, shape in layers.items()}
    weights |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return weights | dict.fromkeys(norms, (128,))


def klein_shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of FLUX.2 klein 4B's transformer."""
    width, hidden = 3072, 9216
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (width, 128),
        "txt_in.weight": (width, 7680),
        "time_in.in_layer.weight": (width, 256),
        "time_in.out_layer.weight": (width, width),
        "double_stream_modulation_img.lin.weight": (6 * width, width),
        "double_stream_modulation_txt.lin.weight": (6 * width, width),
        "single_stream_modulation.lin.weight": (3 * width, width),
        "final_layer.linear.weight": (128, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
    }
    for i in range(5):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}"
            shapes |= {
                f"{block}_attn.qkv.weight": (3 * width, width),
                f"{block}_attn.proj.weight": (width, width),
                f"{block}_mlp.0.weight": (2 * hidden, width),
                f"{block}_mlp.2.weight": (width, hidden),
            }
            shapes |= {f"{block}_attn.norm.{one}_norm.scale": (128,) for one in ("query", "key")}
    for i in range(20):
        block = f"single_blocks.{i}"
        shapes |= {
            f"{block}.linear1.weight": (3 * width + 2 * hidden, width),
            f"{block}.linear2.weight": (width, width + hidden),
        }
        shapes |= {f"{block}.norm.{one}_norm.scale": (128,) for one in ("query", "key")}
    return shapes


def shapes_of(module: str, class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a model of diffusers or transformers, by its configuration."""
    import importlib

    from accelerate import init_empty_weights

    model_class = getattr(importlib.import_module(module), class_name)
    with init_empty_weights():
        if module == "transformers":
            model = model_class(model_class.config_class(**config))
            tied = set(getattr(model, "_tied_weights_keys", None) or ())
        else:
            model, tied = model_class.from_config(dict(config)), set()
    return {n: tuple(t.shape) for n, t in model.state_dict().items() if n not in tied}


# --- files ---------------------------------------------------------------------------------------


def write_safetensors(path: Path, shapes: Shapes, written: Written, *, fp8: bool = False) -> None:
    """Write random numbers in bf16, or matrices in fp8 with one scale each (ComfyUI's names)."""
    kinds = {
        name: "F8_E4M3" if fp8 and len(shape) == 2 else "BF16" for name, shape in shapes.items()
    }
    everything: dict[str, tuple[int, ...]] = dict(shapes)
    for name in shapes:
        if kinds[name] == "F8_E4M3":
            scale = f"{name.removesuffix('.weight')}.scale_weight"
            everything[scale], kinds[scale] = (), "F32"
    if fp8:
        everything["scaled_fp8"], kinds["scaled_fp8"] = (0,), "F8_E4M3"
    header, offset = {}, 0
    for name, shape in everything.items():
        size = prod(shape) * _BITS[kinds[name]] // 8
        header[name] = {
            "dtype": kinds[name], "shape": list(shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    makers = {"BF16": _bf16, "F8_E4M3": _e4m3, "F32": _scales}
    random = np.random.default_rng(len(shapes))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in everything.items():
            for chunk in makers[kinds[name]](random, name, prod(shape)):
                file.write(chunk)
                written(len(chunk))


_CHUNK = 2**25


def _chunks(count: int) -> Iterator[int]:
    yield from (min(_CHUNK, count - at) for at in range(0, count, _CHUNK))


def _bf16(random: np.random.Generator, name: str, count: int) -> Iterator[bytes]:
    if _is_norm(name):
        yield np.full(count, 0x3F80, np.uint16).tobytes()  # one
        return
    for size in _chunks(count):
        # Random signs and mantissas, exponents of 0.0078 and 0.0156.
        bits = random.integers(0, 2**16, size, np.uint16)
        yield ((bits & 0x80FF) | 0x3C00).tobytes()


def _is_norm(name: str) -> bool:
    return ("norm" in name and name.endswith((".weight", ".scale"))) or name.endswith("running_var")


def _e4m3(random: np.random.Generator, _name: str, count: int) -> Iterator[bytes]:
    for size in _chunks(count):
        bits = random.integers(0, 2**8, size, np.uint8)
        bits[(bits & 0x7F) == 0x7F] ^= 1  # which is NaN
        yield bits.tobytes()


def _scales(_random: np.random.Generator, _name: str, count: int) -> Iterator[bytes]:
    yield np.full(count, _SCALE, np.float32).tobytes()


def write_q4_0(path: Path, shapes: Shapes, written: Written) -> None:
    """Write a GGUF file: matrices in Q4_0, what has one dimension in 32 bit."""
    infos, offset, sizes = b"", 0, {}
    for name, shape in shapes.items():
        is_packed = len(shape) > 1
        size = prod(shape) // _Q4_0["values"] * _Q4_0["bytes"] if is_packed else 4 * prod(shape)
        raw = name.encode()
        infos += struct.pack("<Q", len(raw)) + raw
        infos += struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos += struct.pack("<IQ", _Q4_0["type"] if is_packed else 0, offset)
        sizes[name] = size
        offset += -(-size // 32) * 32
    key = b"general.architecture"
    keys = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 4) + b"flux"
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), 1) + keys + infos
    random = np.random.default_rng(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for name, shape in shapes.items():
            if len(shape) > 1:
                for size in _chunks(sizes[name] // _Q4_0["bytes"]):
                    blocks = random.integers(0, 2**8, (size, _Q4_0["bytes"]), np.uint8)
                    blocks[:, :2] = np.array([_Q4_SCALE], np.float16).view(np.uint8)
                    file.write(blocks.tobytes())
                    written(blocks.nbytes)
            else:
                value = 1.0 if name.endswith(".scale") else 0.01
                file.write(np.full(prod(shape), value, np.float32).tobytes())
            file.write(bytes(-sizes[name] % 32))


# --- tokenizers ----------------------------------------------------------------------------------


def write_tokenizers(comfyui: Path) -> None:
    """Write vocabularies of the real sizes where ComfyUI has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    clip = [*letters, *(f"{letter}</w>" for letter in letters)]
    clip += [f"<{number}>" for number in range(len(clip), 49406)]
    clip += ["<|startoftext|>", "<|endoftext|>"]
    qwen = [*letters, *(f"<{number}>" for number in range(len(letters), 151643))]
    places = {"sd1_tokenizer": clip, "text_encoders/qwen25_tokenizer": qwen}
    for place, words in places.items():
        folder = comfyui / "comfy" / place
        folder.mkdir(parents=True, exist_ok=True)
        numbered = {word: number for number, word in enumerate(words)}
        (folder / "vocab.json").write_text(json.dumps(numbered), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(number), -3.0) for number in range(33, 127)]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in range(100)]
    pieces += [(f"<{number}>", -9.0) for number in range(len(pieces), 32100)]
    t5 = Tokenizer(models.Unigram(pieces, unk_id=2))
    t5.pre_tokenizer = pre_tokenizers.Metaspace()
    folder = comfyui / "comfy" / "text_encoders" / "t5_tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    t5.save(str(folder / "tokenizer.json"))
