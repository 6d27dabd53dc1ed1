"""Parts <-> the five folders the server loads; safetensors in half precision.

`text2img` holds every part; `kontext`, `fill` and `control` their transformer and scheduler, for
VAE, text encoders and tokenizers are shared; `redux` the image encoder.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from training.text import Text
from training.transformers import KINDS, make_scheduler

SHARED = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
OWN = ("transformer", "scheduler")


def save_text(text: Text, folder: Path) -> None:
    """Write encoders and tokenizers below `folder`."""
    for name in SHARED[1:]:
        getattr(text, name).save_pretrained(folder / name)


def load_text(folder: Path) -> Text:
    """Read what `save_text` wrote; the encoders frozen."""
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2", torch_dtype=torch.float32)
    return Text(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        clip.eval().requires_grad_(requires_grad=False),
        T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
        t5.eval().requires_grad_(requires_grad=False),
    )


def load_vae(exported: Path) -> AutoencoderKL:
    """Read the VAE of exported folders."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(
        exported / "text2img" / "vae", dtype=torch.float32
    )
    return vae


def load_transformer(kind: str, exported: Path) -> FluxTransformer2DModel:
    """Read the transformer of a kind from exported folders."""
    model: FluxTransformer2DModel = FluxTransformer2DModel.from_pretrained(
        exported / kind / "transformer", dtype=torch.float32
    )
    return model


def make_pipeline(
    kind: str, vae: AutoencoderKL, text: Text, transformer: FluxTransformer2DModel
) -> Any:
    """Put parts into the stock pipeline of a kind."""
    shared = {name: getattr(text, name) for name in SHARED[1:]}
    pipeline = getattr(diffusers, KINDS[kind].pipeline)
    return pipeline(vae=vae, **shared, transformer=transformer, scheduler=make_scheduler())


def export(
    kind: str, vae: AutoencoderKL, text: Text, transformer: FluxTransformer2DModel, out: Path
) -> None:
    """Write the folder of a kind in half precision; the caller's parts stay as they are."""
    pipeline = make_pipeline(kind, *deepcopy((vae, text, transformer))).to("cpu", torch.float16)
    if kind == "text2img":
        pipeline.save_pretrained(out / kind)
    else:
        for name in OWN:
            getattr(pipeline, name).save_pretrained(out / kind / name)
        pipeline.save_config(out / kind)
    make_plain(out / kind)


def make_plain(folder: Path) -> None:
    """Rid a folder's configs of what this machine left in them.

    Where a part was read from goes; an image processor is named as the hub names it, not after the
    backend found here. Encoders are said to be used in fp32: they are loaded in the type their
    config names, all other parts in fp32, and `from_pretrained` alone would mix the two.
    """
    for path in folder.rglob("*.json"):
        if path.parent.name.startswith("tokenizer"):
            continue  # not ours to put in another order
        text = path.read_text(encoding="utf-8")
        config = json.loads(text.replace("ImageProcessorPil", "ImageProcessor"))
        config.pop("_name_or_path", None)
        if "dtype" in config:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors are written for their owner alone
