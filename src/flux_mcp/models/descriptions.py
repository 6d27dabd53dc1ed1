"""The folder that describes a model whose weights are in files of their own: all but weights.

Configurations are published facts (descriptions.json); the vocabularies of tokenizers, megabytes,
are copied from where they are: an installed model, or the program whose `models/` folder is used.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from flux_mcp.models.registry import ModelSpec

TokenizerKind = Literal["clip", "t5", "qwen"]
DESCRIPTIONS_JSON = Path(__file__).with_name("descriptions.json")
_TOKENIZERS: Mapping[str, TokenizerKind] = {
    "CLIPTokenizer": "clip",
    "T5TokenizerFast": "t5",
    "Qwen2TokenizerFast": "qwen",
}
TOKENIZER_FOLDERS: Mapping[TokenizerKind, tuple[str, ...]] = {
    "clip": ("comfy/sd1_tokenizer",
             "backend/huggingface/black-forest-labs/FLUX.1-*/tokenizer",
             "models--black-forest-labs--FLUX.1-*/snapshots/*/tokenizer", "tokenizer"),
    "t5": ("comfy/text_encoders/t5_tokenizer",
           "backend/huggingface/black-forest-labs/FLUX.1-*/tokenizer_2",
           "models--black-forest-labs--FLUX.1-*/snapshots/*/tokenizer_2", "tokenizer_2"),
    "qwen": ("comfy/text_encoders/qwen25_tokenizer",
             "models--black-forest-labs--FLUX.2-klein-*/snapshots/*/tokenizer", "tokenizer"),
}  # fmt: skip
"""Where ComfyUI, Forge, the hub's cache and a pipeline's folder have them."""


@cache
def load_descriptions() -> Mapping[str, Any]:
    """Return descriptions.json, read at the first call."""
    found: dict[str, Any] = json.loads(DESCRIPTIONS_JSON.read_text(encoding="utf-8"))
    return found


def can_describe(spec: ModelSpec) -> bool:
    """Whether the configurations of all parts of a model are known here."""
    known = load_descriptions()
    return (
        spec.base is None
        and spec.family in known["classes"]
        and {*spec.text_encoders, spec.vae} <= known["config"].keys()
    )


def tokenizers_of(spec: ModelSpec) -> dict[str, TokenizerKind]:
    """Return the tokenizers of a model: the part's name, and which one it is."""
    classes = load_descriptions()["classes"][spec.family]
    return {
        part: _TOKENIZERS[class_name]
        for part, (_, class_name) in classes.items()
        if class_name in _TOKENIZERS
    }


def find_tokenizers(roots: Iterable[Path]) -> dict[TokenizerKind, Path]:
    """Return the folder of each tokenizer that is found below any of the folders."""
    found: dict[TokenizerKind, Path] = {}
    for root in roots:
        for kind, patterns in TOKENIZER_FOLDERS.items():
            places = (place for pattern in patterns for place in sorted(root.glob(pattern)))
            fitting = next((place for place in places if is_tokenizer(place, kind)), None)
            if fitting is not None:
                found.setdefault(kind, fitting)
    return found


def is_tokenizer(folder: Path, kind: TokenizerKind) -> bool:
    """Whether a folder has the vocabulary of a tokenizer, in its size."""
    row = load_descriptions()["tokenizer"][kind]
    try:
        values = json.loads((folder / row["needs"][0]).read_text(encoding="utf-8"))
        entries = values["model"]["vocab"] if kind == "t5" else values
        return len(entries) == row["entries"] and all(
            (folder / name).is_file() for name in row["needs"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def transformer_config(spec: ModelSpec) -> dict[str, Any]:
    """Return the `config.json` of a model's transformer, by its size and its channels."""
    (title,) = (
        title
        for row, channels, title in load_descriptions()["transformer"]
        if (row, channels) == (spec.transformer, spec.in_channels)
    )
    own = {"guidance_embeds": spec.takes_guidance, "in_channels": spec.in_channels}
    return {**spec.family_spec.transformers[title], **own}


def describe(
    spec: ModelSpec,
    tokenizers: Mapping[TokenizerKind, Path],
    folder: Path,
) -> None:
    """Write the folder of a model: `model_index.json`, configurations, tokenizers.

    Args:
        spec: A row that `can_describe`.
        tokenizers: A folder for each that `tokenizers_of` names.
        folder: Written over what is there; the same each time.

    Raises:
        OSError: the disk refused.
    """
    known = load_descriptions()
    classes = known["classes"][spec.family]
    index: dict[str, Any] = {"_class_name": spec.pipeline, **classes}
    if "is_distilled" in spec.family_spec.pipeline_options:
        index["is_distilled"] = True
    _write(folder / "model_index.json", index)
    shift = known["schedulers"].get(spec.id, "dynamic")
    _write(folder / "scheduler" / "scheduler_config.json", known["scheduler"][shift])
    _write(folder / "transformer" / "config.json", transformer_config(spec))
    _write(folder / "vae" / "config.json", known["config"][spec.vae])
    for number, encoder in enumerate(spec.text_encoders, start=1):
        part = "text_encoder" if number == 1 else f"text_encoder_{number}"
        _write(folder / part / "config.json", known["config"][encoder])
    for part, kind in tokenizers_of(spec).items():
        row = known["tokenizer"][kind]
        for name, content in row["files"].items():
            added = {"added_tokens_decoder": _qwen_tokens()} if kind == "qwen" else {}
            _write(folder / part / name, {**content, **added})
        for name in row["needs"]:
            shutil.copyfile(tokenizers[kind] / name, folder / part / name)


def _qwen_tokens() -> dict[str, Any]:
    tokens = load_descriptions()["qwen_tokens"]
    named = [(token, True) for token in tokens["special"]]
    named += [(token, False) for token in tokens["plain"]]
    return {
        str(number): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": is_special,
        }
        for number, (token, is_special) in enumerate(named, start=tokens["first"])
    }  # fmt: skip


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
