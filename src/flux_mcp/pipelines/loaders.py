"""A registry row and its snapshot on disk -> loaded parts, and a pipeline made of them.

Owns the rules of what may be loaded: classes of an allow-list, safetensors only, a named dtype, the
channels the row promises. Keeps nothing; residency.py decides what is loaded and for how long.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec, PipelineClass
from flux_mcp.models.weights import Snapshot
from flux_mcp.pipelines.device import is_out_of_memory

Loader = Literal["model", "encoder", "plain"]
"""`model`: weights of diffusers; `encoder`: weights of transformers; `plain`: no weights."""

ALLOWED_CLASSES: Mapping[tuple[str, str], tuple[str, Loader]] = MappingProxyType(
    {
        ("diffusers", "AutoencoderKL"): ("diffusers", "model"),
        ("diffusers", "FluxTransformer2DModel"): ("diffusers", "model"),
        ("diffusers", "FlowMatchEulerDiscreteScheduler"): ("diffusers", "plain"),
        ("flux", "ReduxImageEncoder"): ("diffusers.pipelines.flux.modeling_flux", "model"),
        ("transformers", "CLIPTextModel"): ("transformers", "encoder"),
        ("transformers", "CLIPTokenizer"): ("transformers", "plain"),
        ("transformers", "CLIPTokenizerFast"): ("transformers", "plain"),
        ("transformers", "SiglipImageProcessor"): ("transformers", "plain"),
        ("transformers", "SiglipVisionModel"): ("transformers", "encoder"),
        ("transformers", "T5EncoderModel"): ("transformers", "encoder"),
        ("transformers", "T5Tokenizer"): ("transformers", "plain"),
        ("transformers", "T5TokenizerFast"): ("transformers", "plain"),
    }
)
"""(library, class) of a model_index.json -> (module it is imported from, how it is loaded).

Any other pair is refused before anything is imported: diffusers 0.42.1 imports the module a
model_index.json names before it finds that the class is not one of its own.
"""

_VERIFY = "Remove the files and download them again; 'flux-mcp doctor' shows where they are."


@dataclass(frozen=True)
class PartFiles:
    """One part of a pipeline on disk."""

    name: str
    """`vae`, `transformer`, `tokenizer_2`, ...: the pipeline's own argument."""
    library: str
    class_name: str
    folder: Path

    @property
    def loader(self) -> Loader:
        """How it is loaded."""
        return ALLOWED_CLASSES[self.library, self.class_name][1]


def list_parts(spec: ModelSpec, snapshot: Snapshot) -> tuple[PartFiles, ...]:
    """Read model_index.json and find each part's folder, in the order of the file.

    Raises:
        WeightsInvalidError: another pipeline's weights, a class that is not allowed, a part that is
            missing, weights that are not safetensors, or a transformer with other channels.
    """
    index = _read_json(snapshot.folder / "model_index.json")
    found = index.get("_class_name")
    if found != spec.pipeline:
        raise WeightsInvalidError(
            f"The weights of {spec.id} ({spec.kind}) are for {found}, not {spec.pipeline}.", _VERIFY
        )
    parts = tuple(
        _find_part(name, entry, snapshot)
        for name, entry in index.items()
        if not name.startswith("_") and isinstance(entry, list) and entry != [None, None]
    )
    for part in parts:
        if part.loader != "plain":
            _refuse_pickles(part)
        if part.name == "transformer":
            _check_channels(part, spec)
    return parts


def load_part(part: PartFiles, precision: Precision) -> Any:
    """Load one part to the CPU, in the precision named.

    Raises:
        WeightsInvalidError: the files are damaged or incomplete.
        MemoryError: (or torch's own) the machine has no memory left.
    """
    module, loader = ALLOWED_CLASSES[part.library, part.class_name]
    part_class = getattr(importlib.import_module(module), part.class_name)
    options: dict[str, Any] = {"local_files_only": True}
    if loader != "plain":
        # Without dtype, diffusers loads fp32 and transformers what the checkpoint says; the first
        # step then fails on mixed types.
        options |= {"dtype": _dtype(precision), "use_safetensors": True}
        options |= {"output_loading_info": True}
    try:
        loaded = part_class.from_pretrained(str(part.folder), **options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise WeightsInvalidError(
            f"{part.name} cannot be loaded: {type(error).__name__}: {_first_line(error)}", _VERIFY
        ) from error
    if loader == "plain":
        return loaded
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and goes on.
        missing = sorted(info["missing_keys"])
        raise WeightsInvalidError(
            f"{part.name} lacks {len(missing)} tensors, such as {missing[0]}.", _VERIFY
        )
    return model


def make_pipeline(class_name: PipelineClass, parts: Mapping[str, Any]) -> Any:
    """Put parts together with the plain constructor.

    Never `from_pipe`: it recasts the shared parts in place and shares the scheduler
    (diffusers 0.42.1).
    """
    import diffusers

    pipeline = getattr(diffusers, class_name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _find_part(name: str, entry: list[Any], snapshot: Snapshot) -> PartFiles:
    library, class_name = (entry[0], entry[1]) if len(entry) == 2 else (None, None)  # noqa: PLR2004
    if (library, class_name) not in ALLOWED_CLASSES:
        raise WeightsInvalidError(
            f"model_index.json names {library}.{class_name} for {name}, which is never loaded.",
            "Only the classes of FLUX pipelines are; get the weights from their own repository.",
        )
    for folder in (snapshot.folder / name, snapshot.parts_folder / name):
        if folder.is_dir():
            return PartFiles(name, str(library), str(class_name), folder)
    raise WeightsInvalidError(f"The folder of {name} is missing in {snapshot.folder}.", _VERIFY)


def _refuse_pickles(part: PartFiles) -> None:
    if next(part.folder.glob("*.safetensors"), None) is None:
        raise WeightsInvalidError(
            f"{part.name} has no safetensors file in {part.folder}.",
            "Pickled weights can run code and are never loaded; get the safetensors files.",
        )


def _check_channels(part: PartFiles, spec: ModelSpec) -> None:
    """Refuse another kind's transformer: diffusers loads it and fails at the first step."""
    channels = _read_json(part.folder / "config.json").get("in_channels")
    if channels != spec.in_channels:
        raise WeightsInvalidError(
            f"The transformer of {spec.id} ({spec.kind}) takes {channels} channels, "
            f"not {spec.in_channels}: these are another kind's weights.",
            _VERIFY,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsInvalidError(
            f"{path} cannot be read: {_first_line(error)}", _VERIFY
        ) from error
    if not isinstance(values, dict):
        raise WeightsInvalidError(f"{path} is not a JSON object.", _VERIFY)
    return values


def _dtype(precision: Precision) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
