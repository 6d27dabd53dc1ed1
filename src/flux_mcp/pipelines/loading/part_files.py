"""From a registry row and its snapshot on disk to the files of its parts, checked by their headers.

What may be loaded: the classes of the row's family, safetensors and GGUF files, weights that can be
loaded in the precision of the row, a transformer with the channels the row promises.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.families import PART_CLASSES, PartClass, PartLoader
from flux_mcp.models.formats import format_of, text_precision
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.recognition import PREFIXES
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.row_files import ROLES, check_quantised, check_stored
from flux_mcp.models.weight_headers import is_weight_file, read_weight_header

DOWNLOAD_AGAIN = "Remove the files and download them again; 'flux-mcp doctor' shows where they are."


@dataclass(frozen=True)
class PartFiles:
    """One part of a pipeline on disk."""

    name: str
    """`vae`, `transformer`, `tokenizer_2`, ...: the pipeline's own argument."""
    library: str
    class_name: str
    folder: Path
    """Describes it, and holds its weights where `file` does not."""
    file: Path | None = None
    """One safetensors or GGUF file with its weights."""

    @property
    def part_class(self) -> PartClass:
        """Its class, as the family's record has it."""
        return PART_CLASSES[self.library, self.class_name]

    @property
    def loader(self) -> PartLoader:
        """How it is loaded."""
        return self.part_class.loader

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What may be before its names in a file that holds several parts."""
        roles = (ROLES[column][0] for column in self.part_class.columns)
        return PREFIXES.get(next(roles, "other"), ())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files its weights are read from."""
        if self.file is not None:
            return (self.file,)
        return tuple(sorted(self.folder.glob("*.safetensors")))


def part_precision(part: PartFiles, spec: ModelSpec) -> Precision:
    """Return the precision that a part of a row is loaded in.

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
        _with_own_file(_find_part(name, entry, snapshot, spec), spec)
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


def pipeline_options(spec: ModelSpec, snapshot: Snapshot) -> dict[str, bool]:
    """Return what a pipeline is constructed with besides its parts."""
    index = _read_json(snapshot.folder / "model_index.json")
    return {name: bool(index[name]) for name in spec.family_spec.pipeline_options if name in index}


def _with_own_file(part: PartFiles, spec: ModelSpec) -> PartFiles:
    """Take the weights from the row's own file, where it names one for this part."""
    own = spec.own_file(part.part_class)
    return part if own is None else replace(part, file=own)


_READ_TENSOR_BY_TENSOR: frozenset[PartLoader] = frozenset({"denoiser", "text"})


def _find_part(name: str, entry: list[Any], snapshot: Snapshot, spec: ModelSpec) -> PartFiles:
    library, class_name = (entry[0], entry[1]) if len(entry) == 2 else (None, None)  # noqa: PLR2004
    family = spec.family_spec
    if (library, class_name) not in family.part_classes:
        raise WeightsInvalidError(
            f"model_index.json names {library}.{class_name} for {name}, which is never loaded.",
            f"Only the classes of {family.title} pipelines are; get the weights from their own "
            "repository.",
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
    if part.file is not None and not is_weight_file(part.file):
        raise WeightsInvalidError(
            f"{part.name} is to be read from {part.file}, which is neither safetensors nor GGUF.",
            _PICKLES_RUN_CODE,
        )


_PICKLES_RUN_CODE = "Pickled weights can run code and are never loaded; get the safetensors files."


def _check_stored(part: PartFiles, precision: Precision) -> None:
    if part.file is not None:
        check_stored(part.name, read_weight_header(part.file), precision)
        return
    for path in part.files:
        read_weight_header(path)
    config = _read_json(part.folder / "config.json")
    check_quantised(part.name, _stored_quantised(config), precision)


def _stored_quantised(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how weights were quantised before they were stored, by a config.json."""
    stored = config.get("quantization_config")
    return stored if isinstance(stored, dict) else {}


def is_read_by_tensor(part: PartFiles) -> bool:
    """Whether its tensors are read here one by one; else its library opens the files itself."""
    if part.file is not None:
        return True
    if part.loader not in _READ_TENSOR_BY_TENSOR:
        return False
    return not _stored_quantised(_read_json(part.folder / "config.json"))


def loaded_bytes(part: PartFiles, precision: Precision) -> int:
    """Return what a part's weights take when they are loaded, by the headers of its files."""
    if part.loader == "plain":
        return 0
    if not is_read_by_tensor(part) and part.loader in _READ_TENSOR_BY_TENSOR:
        return sum(path.stat().st_size for path in part.files)  # stored as they will be held
    values, is_narrow = 0, False
    for path in part.files:
        tensors = read_weight_header(path).tensors
        prefix = next((p for p in part.prefixes if any(n.startswith(p) for n in tensors)), "")
        own = [one for name, one in tensors.items() if name.startswith(prefix)]
        values += sum(one.values for one in own)
        is_narrow |= any(one.number_type.startswith("F8") for one in own)
    if part.loader == "text" and format_of(precision).method == "casting" and not is_narrow:
        precision = format_of(precision).compute  # it is narrowed when all of it is there
    return round(values * load_parts().precision[precision].bytes_per_parameter)


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
