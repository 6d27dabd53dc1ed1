"""A registry row and its snapshot on disk -> the files of its parts, checked before any is opened.

Owns the rules of what may be loaded: classes of an allow-list, safetensors and GGUF only, a named
precision, the channels the row promises. Keeps nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import format_of, text_precision
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec
from flux_mcp.pipelines.loading.checkpoints import (
    FILE_SUFFIXES,
    check_file,
    check_folder,
    stored_method,
)

Loader = Literal["denoiser", "text", "model", "encoder", "plain"]
"""`denoiser`: the transformer, in the precision of the plan; `text`: the large text encoder, in
that of the plan's text; `model`, `encoder`: other weights of diffusers and of transformers, in what
the transformer is worked with in; `plain`: no weights."""

ALLOWED_CLASSES: Mapping[tuple[str, str], tuple[str, Loader]] = MappingProxyType(
    {
        ("diffusers", "AutoencoderKL"): ("diffusers", "model"),
        ("diffusers", "AutoencoderKLFlux2"): ("diffusers", "model"),
        ("diffusers", "Flux2Transformer2DModel"): ("diffusers", "denoiser"),
        ("diffusers", "FluxTransformer2DModel"): ("diffusers", "denoiser"),
        ("diffusers", "FlowMatchEulerDiscreteScheduler"): ("diffusers", "plain"),
        ("flux", "ReduxImageEncoder"): ("diffusers.pipelines.flux.modeling_flux", "model"),
        ("transformers", "CLIPTextModel"): ("transformers", "encoder"),
        ("transformers", "CLIPTokenizer"): ("transformers", "plain"),
        ("transformers", "CLIPTokenizerFast"): ("transformers", "plain"),
        ("transformers", "Mistral3ForConditionalGeneration"): ("transformers", "text"),
        ("transformers", "PixtralProcessor"): ("transformers", "plain"),
        ("transformers", "Qwen2Tokenizer"): ("transformers", "plain"),
        ("transformers", "Qwen2TokenizerFast"): ("transformers", "plain"),
        ("transformers", "Qwen3ForCausalLM"): ("transformers", "text"),
        ("transformers", "SiglipImageProcessor"): ("transformers", "plain"),
        ("transformers", "SiglipVisionModel"): ("transformers", "encoder"),
        ("transformers", "T5EncoderModel"): ("transformers", "text"),
        ("transformers", "T5Tokenizer"): ("transformers", "plain"),
        ("transformers", "T5TokenizerFast"): ("transformers", "plain"),
    }
)
"""(library, class) of a model_index.json -> (module it is imported from, how it is loaded).

Any other pair is refused before anything is imported: diffusers 0.42.1 imports the module a
model_index.json names before it finds that the class is not one of its own.
"""

DOWNLOAD_AGAIN = "Remove the files and download them again; 'flux-mcp doctor' shows where they are."


@dataclass(frozen=True)
class PartFiles:
    """One part of a pipeline on disk."""

    name: str
    """`vae`, `transformer`, `tokenizer_2`, ...: the pipeline's own argument."""
    library: str
    class_name: str
    folder: Path
    """What describes it; and its weights, but for those of `file`."""
    file: Path | None = None
    """One safetensors or GGUF file with its weights."""

    @property
    def loader(self) -> Loader:
        """How it is loaded."""
        return ALLOWED_CLASSES[self.library, self.class_name][1]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files its weights are read from."""
        if self.file is not None:
            return (self.file,)
        return tuple(sorted(self.folder.glob("*.safetensors")))


def part_precision(part: PartFiles, spec: ModelSpec) -> Precision:
    """Return what a part of a row is held in.

    Only the transformer and the large text encoder are ever quantised: the rest is small, and
    images show it at once (huggingface.co/blog/diffusers-quantization keeps them in 16 bit too).
    """
    if part.loader == "denoiser":
        return spec.precision
    if part.loader == "text":
        return text_precision(spec)
    return format_of(spec.precision).compute


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
            f"The weights of {spec.id} ({spec.kind}) are for {found}, not {spec.pipeline}.",
            DOWNLOAD_AGAIN,
        )
    parts = tuple(
        _with_own_file(_find_part(name, entry, snapshot), spec)
        for name, entry in index.items()
        if not name.startswith("_") and isinstance(entry, list) and entry != [None, None]
    )
    for part in parts:
        if part.loader != "plain":
            _refuse_pickles(part)
            _check_stored(part, part_precision(part, spec))
        if part.loader == "denoiser":
            _check_channels(part, spec)
    return parts


def pipeline_options(snapshot: Snapshot) -> dict[str, bool]:
    """Return what a pipeline is told besides its parts.

    Only `is_distilled` of FLUX.2 klein: without it a distilled model is drawn with twice the work
    and another guidance.
    """
    index = _read_json(snapshot.folder / "model_index.json")
    return {name: bool(index[name]) for name in ("is_distilled",) if name in index}


def _with_own_file(part: PartFiles, spec: ModelSpec) -> PartFiles:
    """Take the weights from the row's own file, where it names one for this part."""
    own = {"denoiser": spec.gguf or spec.file, "text": spec.text_gguf}.get(part.loader)
    return part if own is None else replace(part, file=own)


_READ_TENSOR_BY_TENSOR: frozenset[Loader] = frozenset({"denoiser", "text"})


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
    raise WeightsInvalidError(
        f"The folder of {name} is missing in {snapshot.folder}.", DOWNLOAD_AGAIN
    )


def _refuse_pickles(part: PartFiles) -> None:
    if part.file is None and not part.files:
        raise WeightsInvalidError(
            f"{part.name} has no safetensors file in {part.folder}.", _PICKLES_RUN_CODE
        )
    if part.file is not None and part.file.suffix not in FILE_SUFFIXES:
        raise WeightsInvalidError(
            f"{part.name} is to be read from {part.file}, which is neither safetensors nor GGUF.",
            _PICKLES_RUN_CODE,
        )


_PICKLES_RUN_CODE = "Pickled weights can run code and are never loaded; get the safetensors files."


def _check_stored(part: PartFiles, precision: Precision) -> None:
    if part.file is not None:
        check_file(part.name, part.file, precision)
    else:
        config = _read_json(part.folder / "config.json")
        check_folder(part.name, stored_method(config), precision)


def is_read_by_tensor(part: PartFiles) -> bool:
    """Whether we read its tensors and hand them over; else its library opens the files itself."""
    if part.loader not in _READ_TENSOR_BY_TENSOR:
        return False
    return part.file is not None or not stored_method(_read_json(part.folder / "config.json"))


def _check_channels(part: PartFiles, spec: ModelSpec) -> None:
    """Refuse another kind's transformer: diffusers loads it and fails at the first step."""
    channels = _read_json(part.folder / "config.json").get("in_channels")
    if channels != spec.in_channels:
        raise WeightsInvalidError(
            f"The transformer of {spec.id} ({spec.kind}) takes {channels} channels, "
            f"not {spec.in_channels}: these are another kind's weights.",
            DOWNLOAD_AGAIN,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsInvalidError(
            f"{path} cannot be read: {first_line(error)}", DOWNLOAD_AGAIN
        ) from error
    if not isinstance(values, dict):
        raise WeightsInvalidError(f"{path} is not a JSON object.", DOWNLOAD_AGAIN)
    return values


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says."""
    return (str(error).splitlines() or [""])[0]
