"""A registry row and its snapshot on disk -> loaded parts, and a pipeline made of them.

Owns the rules of what may be loaded: classes of an allow-list, safetensors and GGUF only, a named
precision, the channels the row promises. Keeps nothing; residency.py decides what is loaded and for
how long. How a file becomes a model is known in formats/.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import Format, format_of, text_precision
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.weights import Snapshot
from flux_mcp.pipelines.device import is_out_of_memory
from flux_mcp.pipelines.formats.checkpoints import Reading
from flux_mcp.pipelines.formats.denoisers import load_denoiser
from flux_mcp.pipelines.formats.encoders import load_encoder
from flux_mcp.pipelines.formats.progress import ReadProgress
from flux_mcp.pipelines.formats.quantisers import compute_dtype
from flux_mcp.pipelines.formats.stored import (
    FILE_SUFFIXES,
    check_file,
    check_folder,
    open_checkpoint,
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

_VERIFY = "Remove the files and download them again; 'flux-mcp doctor' shows where they are."


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
    pictures show it at once (huggingface.co/blog/diffusers-quantization keeps them in 16 bit too).
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
            f"The weights of {spec.id} ({spec.kind}) are for {found}, not {spec.pipeline}.", _VERIFY
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


def load_part(
    part: PartFiles,
    precision: Precision,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _message: None,
    made_on: str | None = None,
) -> Any:
    """Load one part.

    Args:
        part: Its files.
        precision: What it is to be held in.
        device: Where the transformer and the large text encoder are put; others to the CPU.
        report: Told how much is read, at most four times a second; may raise to stop.
        made_on: Another device, that makes the transformer's weights, a block at a time.

    Raises:
        WeightsInvalidError: the files are damaged, incomplete, or another model's.
        MemoryError: (or torch's own) the machine has no memory left.
    """
    module, loader = ALLOWED_CLASSES[part.library, part.class_name]
    part_class = getattr(importlib.import_module(module), part.class_name)
    row = format_of(precision)
    progress = ReadProgress(f"loading {part.name}", report)
    try:
        if loader in _READ_TENSOR_BY_TENSOR and not _is_stored_quantised(part):
            with open_checkpoint(part.files) as checkpoint:
                reading = Reading(part.name, part.folder, checkpoint, device, progress)
                if loader == "denoiser":
                    return load_denoiser(part_class, reading, row, made_on)
                return load_encoder(part_class, reading, row)
        return _load_whole(part_class, part, row)
    except WeightsInvalidError:
        raise
    except Exception as error:
        if progress.stopped is not None:
            # transformers may have put what stopped it into an error of its own.
            raise progress.stopped from None
        if is_out_of_memory(error):
            raise
        raise WeightsInvalidError(
            f"{part.name} cannot be loaded: {type(error).__name__}: {_first_line(error)}", _VERIFY
        ) from error


_READ_TENSOR_BY_TENSOR: frozenset[Loader] = frozenset({"denoiser", "text"})


def _load_whole(part_class: Any, part: PartFiles, row: Format) -> Any:
    """Load a part as its library does: small ones, and those that are stored quantised."""
    options: dict[str, Any] = {"local_files_only": True}
    if part.loader == "plain":
        return part_class.from_pretrained(str(part.folder), **options)
    # Without dtype, diffusers loads fp32 and transformers what the checkpoint says; the first
    # step then fails on mixed types.
    options |= {"dtype": compute_dtype(row.compute), "use_safetensors": True}
    model, info = part_class.from_pretrained(str(part.folder), output_loading_info=True, **options)
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and goes on.
        missing = sorted(info["missing_keys"])
        raise WeightsInvalidError(
            f"{part.name} lacks {len(missing)} tensors, such as {missing[0]}.", _VERIFY
        )
    return model


def make_pipeline(
    class_name: str, parts: Mapping[str, Any], options: Mapping[str, bool] | None = None
) -> Any:
    """Put parts together with the plain constructor.

    Never `from_pipe`: it recasts the shared parts in place and shares the scheduler
    (diffusers 0.42.1).
    """
    import diffusers

    pipeline = getattr(diffusers, class_name)(**parts, **(options or {}))
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


def _is_stored_quantised(part: PartFiles) -> bool:
    return part.file is None and bool(stored_method(_read_json(part.folder / "config.json")))


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
