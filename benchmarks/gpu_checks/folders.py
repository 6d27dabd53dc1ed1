"""Full-size weights on disk, so that the product itself can be asked: folders and own rows.

Written once into a scratch folder and found again by the next run. The model that draws images
from words, and what all kinds share, are random numbers: 35 GB. The transformers of the other kinds
are files with holes: they take no disk, read as zeros, and weigh on a GPU what real ones weigh.
They are for what depends on bytes alone (switching, residency), not for seconds of drawing.

Weights lie in `blobs/` under names of 64 hexadecimal digits, with links to them, as in the hub's
cache: so nobody reads 24 GB to know what they are. The digits are those of our names for the files.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from flux_mcp.models.registry import Kind
from gpu_checks import parts
from gpu_checks.bench import Bench, NotRunError
from gpu_checks.scale import FULL

RECIPE = 1
"""Another number when other files are written."""
FULL_DISK_BYTES = 36 * 10**9
"""24 of the transformer, 9.5 of T5, 1.4 of the rest, and room for the images."""
ROWS: dict[Kind, tuple[str, str]] = {
    "text2img": ("bench-dev", "flux1-dev"),
    "kontext": ("bench-kontext", "flux1-kontext-dev"),
    "fill": ("bench-fill", "flux1-fill-dev"),
    "control": ("bench-control", "flux1-canny-dev"),
    "redux": ("bench-redux", "flux1-redux-dev"),
}
"""Kind -> our row, and the shipped one it extends."""
SCHNELL = "bench-schnell"
"""The weights of dev with the steps and text length of schnell. They differ in one small embedding
of the guidance: the time is the same, and 24 GB of disk are saved."""
_BF16_BYTES = 2


@dataclass(frozen=True)
class Folders:
    """Weights on disk, and a data folder whose models.toml names them."""

    models: Path
    data_dir: Path

    @property
    def text2img(self) -> Path:
        """The folder of a whole pipeline."""
        return self.models / "text2img"

    def transformer_bytes(self) -> int:
        """Return what one transformer weighs."""
        return _bytes_of(self.text2img / "transformer")

    def unique_bytes(self) -> int:
        """Return what all different weights weigh together."""
        return sum(path.stat().st_size for path in (self.models / "blobs").iterdir())


def open_folders(bench: Bench) -> Folders:
    """Return the folders of this scale, written if they are not there yet.

    Raises:
        NotRunError: the disk has no room for them.
    """
    root = bench.scratch / f"{bench.scale.name}-{RECIPE}"
    folders = Folders(root / "models", root / "data")
    if (root / "complete").exists():
        return folders
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    needed = FULL_DISK_BYTES if bench.scale is FULL else 10**8
    if (free := shutil.disk_usage(root).free) < needed:
        raise NotRunError(
            f"needs {needed / 1e9:.0f} GB of disk at {bench.scratch}, {free / 1e9:.0f} are free"
        )
    bench.say(f"writing weights to {root}")
    _Writer(bench, folders.models).write()
    _write_rows(folders)
    (root / "complete").touch()
    return folders


class _Writer:
    """Writes the folders of all kinds."""

    def __init__(self, bench: Bench, models: Path) -> None:
        self._bench = bench
        self._models = models
        self._blobs = models / "blobs"

    def write(self) -> None:
        """Write everything."""
        self._blobs.mkdir(parents=True)
        self._write_text2img()
        for kind in parts.CHANNELS:
            if kind != "text2img":
                self._write_kind(kind)
        self._write_redux()

    def _write_text2img(self) -> None:
        scale, device = self._bench.scale, self._bench.device.name
        folder = self._models / "text2img"
        makers: dict[str, Callable[[], Any]] = {
            "transformer": lambda: parts.transformer(scale, device),
            "vae": lambda: parts.vae(scale, device),
            "text_encoder": lambda: parts.clip(scale, device),
            "text_encoder_2": lambda: parts.t5(scale, device),
        }
        classes = {}
        for name, make in makers.items():
            part = make()
            # One after the other: a GPU that holds the largest holds all of them.
            classes[name] = [_library(part), type(part).__name__]
            part.save_pretrained(folder / name, max_shard_size=scale.shard)
            del part
            self._bench.free()
            self._keep_as_blobs(folder / name)
        for name in parts.tokenizers():
            shutil.copytree(parts.TOKENIZERS / name, folder / name)
        classes |= {
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5Tokenizer"],
        }
        self._write_index(folder, "FluxPipeline", classes)

    def _write_kind(self, kind: str) -> None:
        folder = self._models / kind
        model = parts.transformer(self._bench.scale, "meta", kind)
        model.save_config(folder / "transformer")
        path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        write_holes(path, {name: tuple(t.shape) for name, t in model.state_dict().items()})
        self._keep_as_blobs(folder / "transformer")
        shared = json.loads((self._models / "text2img" / "model_index.json").read_text())
        classes = {name: entry for name, entry in shared.items() if not name.startswith("_")}
        class_name = f"Flux{kind.capitalize()}Pipeline"
        self._write_index(folder, class_name, classes)

    def _write_redux(self) -> None:
        folder = self._models / "redux"
        for name, part in parts.redux(self._bench.scale, "cpu").items():
            part.save_pretrained(folder / name)
            if name != "feature_extractor":
                self._keep_as_blobs(folder / name)
        classes = {
            "image_encoder": ["transformers", "SiglipVisionModel"],
            "feature_extractor": ["transformers", "SiglipImageProcessor"],
            "image_embedder": ["flux", "ReduxImageEncoder"],
        }
        index = {"_class_name": "FluxPriorReduxPipeline", **classes}
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")

    def _write_index(self, folder: Path, class_name: str, classes: dict[str, Any]) -> None:
        parts.scheduler().save_pretrained(folder / "scheduler")
        index = {
            "_class_name": class_name,
            **classes,
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        }
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")

    def _keep_as_blobs(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.safetensors")):
            told = f"{self._bench.scale.name}/{RECIPE}/{path.relative_to(self._models)}"
            blob = self._blobs / hashlib.sha256(told.encode()).hexdigest()
            path.rename(blob)
            path.symlink_to(blob)


def write_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros in bf16 that takes no disk where files may have holes.

    The format: 8 bytes with the length of a JSON header, the header, the numbers
    (huggingface.co/docs/safetensors, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = prod(shape) * _BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        file.truncate(8 + len(told) + at)


def _write_rows(folders: Folders) -> None:
    folders.data_dir.mkdir()
    (folders.data_dir / "models.toml").write_text("\n".join(_rows(folders)), encoding="utf-8")


def _rows(folders: Folders) -> Iterator[str]:
    rows = [(kind, key, base) for kind, (key, base) in ROWS.items()]
    for kind, key, extends in [*rows, ("text2img", SCHNELL, "flux1-schnell")]:
        yield "[[model]]"
        yield f'id = "{key}"'
        yield f'kind = "{kind}"'
        yield f'extends = "{extends}"'
        yield f"folder = '{folders.models / kind}'"
        if kind in ("kontext", "fill", "control"):
            yield f"parts_folder = '{folders.text2img}'"
        if kind == "redux":
            yield f'base = "{ROWS["text2img"][0]}"'


def _library(part: Any) -> str:
    return type(part).__module__.partition(".")[0]


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
