"""Whether the files of a row fit it, by their headers: nothing but headers is read, without torch.

What no header can tell, such as each tensor's name, the loader compares (pipelines/loading/).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.families import FileColumn
from flux_mcp.models.formats import format_of, load_formats, text_precision
from flux_mcp.models.parts import Precision
from flux_mcp.models.recognition import FoundPart, Role, recognise
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.weight_headers import WeightHeader, problem_of, read_weight_header

ROLES: Mapping[FileColumn, tuple[Role, str]] = {
    "file": ("transformer", "transformer"),
    "gguf": ("transformer", "transformer"),
    "text_file": ("text", "text encoder"),
    "text_gguf": ("text", "text encoder"),
    "clip_file": ("clip", "CLIP text encoder"),
    "vae_file": ("vae", "VAE"),
}
"""What each column is to hold, and what people call it."""
UNPACKED = frozenset({"F32", "F16", "BF16"})
"""Number types of GGUF that are plain numbers."""
_OF_BITSANDBYTES = ".quant_state.bitsandbytes__"


def problem_of_row(spec: ModelSpec, folders: Iterable[Path] = ()) -> WeightsInvalidError | None:
    """Return what is wrong with the files of a row that are on this disk, or `None`.

    Args:
        spec: The row.
        folders: Of the user, where its other parts are.
    """
    try:
        for column, path in spec.files.items():
            if not _is_missing(path):
                _check_own_file(spec, column, read_weight_header(path))
    except WeightsInvalidError as error:
        return error
    paths = (path for folder in folders for path in sorted(folder.glob("*/*.safetensors")))
    problems = (problem_of(path) for path in paths)
    return next((problem for problem in problems if problem is not None), None)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # there, but not for us
    return False


def _check_own_file(spec: ModelSpec, column: FileColumn, header: WeightHeader) -> None:
    if spec.lora:
        return  # loras/fit.py compares it with its base
    role, what = ROLES[column]
    found = {part.role: part for part in recognise(header)}
    if role in found:
        if problem := _misfit(spec, role, found[role]):
            raise WeightsInvalidError(f"{header.path.name} {problem}", _OTHER_FILE)
    elif known := next((p for p in found.values() if p.role != "other" or p.is_named), None):
        raise WeightsInvalidError(
            f"{header.path.name} holds {known.title}, not a {what} of {spec.id}.",
            "LoRAs go into the folder of LoRAs." if known.role == "lora" else _OTHER_FILE,
        )
    if role in ("transformer", "text"):
        precision = spec.precision if role == "transformer" else text_precision(spec)
        check_stored(what, header, precision)


_OTHER_FILE = "Name the right file in the row, or another model in extends."


def _misfit(spec: ModelSpec, role: Role, found: FoundPart) -> str:
    """Return in which way a part is another than the row's; empty where it is not known to be."""
    rows = {"transformer": (spec.transformer,), "vae": (spec.vae,)}.get(role, spec.text_encoders)
    if not found.part or spec.is_demonstration:
        return ""
    if found.part not in rows:
        return f"holds {found.title}, but {spec.id} needs {' or '.join(rows)}."
    if role != "transformer":
        return ""
    if found.in_channels != spec.in_channels:
        return (
            f"takes {found.in_channels} channels, but {spec.id} ({spec.kind}) {spec.in_channels}: "
            "it is another kind's transformer."
        )
    if found.has_guidance != spec.takes_guidance:
        has = "has a" if found.has_guidance else "has no"
        return f"{has} guidance embedding, against {spec.id}: it is another variant's transformer."
    return ""


def check_stored(part: str, header: WeightHeader, precision: Precision) -> None:
    """Check that a file can be loaded in a precision.

    Args:
        part: For messages.
        header: The file's.
        precision: What its weights are to be loaded as.

    Raises:
        WeightsInvalidError: they cannot be.
    """
    if not header.is_gguf:
        check_quantised(part, {}, precision)
        if packed := next((name for name in header.tensors if _OF_BITSANDBYTES in name), None):
            raise WeightsInvalidError(
                f"{part} is stored in bitsandbytes' {packed.rpartition('__')[2]}, which is not "
                "read from a single file.",
                "Get a folder of diffusers in it, or a file in fp8 or GGUF.",
            )
        return
    row, found = format_of(precision), header.main_number_type()
    if found in UNPACKED:
        if row.method == "gguf":
            raise WeightsInvalidError(
                f"{part} is to be loaded in {precision}, but {header.path.name} holds {found}: it "
                "is not packed.",
                "Give the row the precision 'bf16', or one that is made while loading.",
            )
        return
    known = packings()
    if found not in known:
        raise WeightsInvalidError(
            f"{header.path.name} holds {found}, a packing of GGUF that is not supported.",
            f"Get the file in one of: {', '.join(sorted(known))}.",
        )
    if known[found] != precision:
        raise WeightsInvalidError(
            f"{part} is to be loaded in {precision}, but {header.path.name} is a GGUF file that "
            f"holds {found}.",
            f"Give the row the precision '{known[found]}'.",
        )


def packings() -> dict[str, Precision]:
    """Return the block types of GGUF that can be loaded, each with its precision."""
    rows = load_formats().format.items()
    return {row.recipe: name for name, row in rows if row.method == "gguf"}


def check_quantised(part: str, stored: Mapping[str, Any], precision: Precision) -> None:
    """Check weights that may have been quantised before they were stored.

    Args:
        part: For messages.
        stored: `quantization_config` of their config.json; empty where nothing quantised them.
        precision: What they are to be loaded as.

    Raises:
        WeightsInvalidError: they are stored in something else.
    """
    row = format_of(precision)
    method = str(stored.get("quant_method", "unknown")) if stored else ""
    if row.from_file_only and method != row.method:
        raise WeightsInvalidError(
            f"{part} cannot be made into {precision} while loading.",
            "Name a file that is stored in it, or another precision.",
        )
    if not method:
        return
    recipe = _stored_recipe(method, stored)
    if method != row.method or recipe != row.recipe:
        same = {one.recipe: n for n, one in load_formats().format.items() if one.method == method}
        raise WeightsInvalidError(
            f"{part} is stored quantised by {method}{f' as {recipe}' if recipe else ''}, so it "
            f"cannot be loaded in {precision}.",
            f"Give the row the precision '{same[recipe]}', or get the 16 bit weights."
            if recipe in same
            else "Get the 16 bit weights: they are quantised while loading.",
        )


def _stored_recipe(method: str, stored: Mapping[str, Any]) -> str:
    """Return what was made by a method, as formats.toml calls it; empty where it is not said.

    Sources: `BitsAndBytesConfig` and `TorchAoConfig` of diffusers 0.42.1 and transformers 5.23.
    """
    if method == "bitsandbytes":
        if stored.get("load_in_8bit") or stored.get("_load_in_8bit"):
            return "int8"
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    if method == "torchao":
        kind = stored.get("quant_type")
        kind = kind.get("default", kind) if isinstance(kind, dict) else kind
        return str(kind.get("_type", "")) if isinstance(kind, dict) else str(kind or "")
    if method == "gguf":
        return ""
    return str(stored.get("weight_format", stored.get("precision", "")))
