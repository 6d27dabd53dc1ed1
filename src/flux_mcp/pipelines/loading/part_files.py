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
from flux_mcp.models.recognition import PREFIXES, TOKEN_TABLES
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.row_files import ROLES, check_quantised, check_stored
from flux_mcp.models.weight_headers import StoredTensor, is_weight_file, read_weight_header
from flux_mcp.pipelines.loading.encoders import LEFT_OUT
from flux_mcp.pipelines.loading.scaled import tells_storage

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
    """Return what a part's weights take when they are loaded, by the headers of its files.

    Tables of tokens stay in 16 bit in every format, but in fp8 files as they are stored. The scales
    of a file in fp8, some thousandths of it, are left out.
    """
    if part.loader == "plain":
        return 0
    if not is_read_by_tensor(part) and part.loader in _READ_TENSOR_BY_TENSOR:
        return sum(path.stat().st_size for path in part.files)  # stored as they will be held
    own: dict[str, StoredTensor] = {}
    for path in part.files:
        tensors = read_weight_header(path).tensors
        prefix = next((p for p in part.prefixes if any(n.startswith(p) for n in tensors)), "")
        own |= {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    own = {name: one for name, one in own.items() if not tells_storage(name)}
    wide: set[str] = set()
    if part.loader == "text":
        tables = [name for name in TOKEN_TABLES if name in own]
        # T5 may have its table twice, and is loaded with one.
        own = {n: t for n, t in own.items() if n in tables[:1] or not LEFT_OUT.fullmatch(n)}
        wide.update(tables[:1])
    row = format_of(precision)
    if row.method == "casting":
        narrow = {name for name, one in own.items() if _is_held(name, one)}
        if narrow or part.loader == "text":
            # What the file has wide stays so; without anything narrow, an encoder is narrowed when
            # all of it is there.
            wide = own.keys() - narrow
    figures = load_parts().precision
    return round(sum(
        one.values * figures[row.compute if name in wide else precision].bytes_per_parameter
        for name, one in own.items()
    ))  # fmt: skip


def _is_held(name: str, stored: StoredTensor) -> bool:
    """Whether it stays as it is stored in fp8: what `scaled.is_held` says, by a header."""
    is_matrix = len(stored.shape) == 2 and name.endswith(".weight")  # noqa: PLR2004
    return is_matrix and stored.number_type in ("F8_E4M3", "F8_E5M2")


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
