"""Arguments of the drawing tools from flags of another shape: packs, LoRAs, images, masks.

A file that is named on the command line is read here, as the person who typed it may read it, and
handed on as data. Callers over MCP reach none of this: for them the allowed folders stand.
"""

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flux_mcp.cli.common import console, plain
from flux_mcp.cli.loras import read_loras
from flux_mcp.cli.packs import read_variables
from flux_mcp.errors import InvalidRequestError, RequestError
from flux_mcp.images.formats import MEDIA_TYPES
from flux_mcp.images.references import (
    Access,
    NewestReference,
    PathReference,
    is_file_name,
    parse_reference,
    read_newest,
    read_path,
)
from flux_mcp.settings.settings import Settings

_CHOICES = {"subject": "subject", "extra": "extra", "variable": "variables"}
_MASKS = ("mask", "box", "words", "pick", "outpaint", "mask_json")
_SHAPED = frozenset({"pack", *_CHOICES, "lora", "image", "weight", "control_image", *_MASKS})
_CORNERS = ("x0", "y0", "x1", "y1")


def arguments_of(command: str, given: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the arguments of a command's tool.

    Args:
        command: Its name.
        given: The flags that were given, by the names in commands/drawing.py.
        settings: How large a file may be.

    Raises:
        InvalidRequestError: flags contradict each other or cannot be read.
        InvalidImageError: a file cannot be read.
    """

    def read(reference: str) -> str:
        return as_data(reference, settings.max_image_bytes)

    arguments = {name: value for name, value in given.items() if name not in _SHAPED}
    shaped = {
        "pack": _pack(given),
        "loras": read_loras(given["lora"]) if given.get("lora") else None,
        "mask": _mask(given, read),
        "control_image": read(given["control_image"]) if "control_image" in given else None,
        **_images(command, given, read),
    }
    return {**arguments, **{name: one for name, one in shaped.items() if one is not None}}


def as_data(reference: str, max_bytes: int) -> str:
    """Return a file, relative to the current folder or not, as a `data:` URI.

    What is no file stays as it is: the id of an image, a URI, `latest`. A file that is called like
    one of these is named with its folder, as `./latest`.

    Raises:
        InvalidRequestError: it looks like a file, and there is none.
        InvalidImageError: it cannot be read, is too large, or is a folder without images.
    """
    folder = _folder_of(reference)
    if folder is not None:
        access = Access((folder,), (folder,))
        newest = read_newest(str(folder), access, max_bytes)
        console(stderr=True).print(plain(newest.told(str(folder))))
        return _data_uri(newest.data)
    path = _file_of(reference)
    if path is None:
        return reference
    try:
        # Links resolved: what is opened is what the person named.
        path = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequestError(
            f"There is no file {plain(reference)}.",
            "Check the path; 'flux-mcp gallery search' shows the ids of images.",
        ) from error
    return _data_uri(read_path(path, (path.parent,), max_bytes))


def _data_uri(data: bytes) -> str:
    # What the bytes are is found out when they are decoded, whatever the type says.
    return f"data:{MEDIA_TYPES[0]};base64,{base64.b64encode(data).decode()}"


_HERE = Access(readable_dirs=(Path("/"),))
"""Of the person who types a command: what it may read is for the system to say."""


def _folder_of(reference: str) -> Path | None:
    """Return the folder of `newest in FOLDER`, if it is given as a path.

    A name alone is that of an allowed folder, as in a tool call.
    """
    with suppress(RequestError):
        parsed = None if is_file_name(reference) else parse_reference(reference, _HERE)
        if isinstance(parsed, NewestReference):
            path = Path(parsed.folder)
            if path.is_absolute() or len(path.parts) > 1 or parsed.folder[:1] in (".", "~"):
                with suppress(OSError, RuntimeError, ValueError):
                    return path.expanduser().resolve()
    return None


def _file_of(reference: str) -> Path | None:
    if reference[:5].lower() == "file:":
        parsed = parse_reference(reference, _HERE)
        return parsed.path if isinstance(parsed, PathReference) else None
    if not is_file_name(reference):
        return None
    path = Path(reference)
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):
        return path
    looks_like_one = bool(path.suffix) or "/" in reference or "\\" in reference
    return path if looks_like_one else None


def _pack(given: Mapping[str, Any]) -> dict[str, Any] | None:
    chosen = {name: given[flag] for flag, name in _CHOICES.items() if flag in given}
    if "variables" in chosen:
        chosen["variables"] = read_variables(chosen["variables"])
    if "pack" in given:
        return {"name": given["pack"], **chosen}
    if chosen:
        raise InvalidRequestError(
            "--subject, --var and --extra choose in a pack, and no --pack is given.",
            "'flux-mcp packs list' shows the packs there are.",
        )
    return None


def _images(command: str, given: Mapping[str, Any], read: Callable[[str], str]) -> dict[str, Any]:
    image, weights = given.get("image"), given.get("weight", [])
    if image is None:
        if weights:
            raise InvalidRequestError("--weight goes with --image.", "Give the images too.")
        return {}
    if isinstance(image, str):
        return {"image": read(image)}
    images = [read(one) for one in image]
    if command != "vary":
        return {"images": images}
    if weights and len(weights) != len(images):
        raise InvalidRequestError(
            f"There are {len(images)} images and {len(weights)} weights.",
            "Give --weight once for each --image, in their order, or not at all.",
        )
    shares = weights or [1] * len(images)
    pairs = zip(images, shares, strict=True)
    return {"images": [{"image": one, "weight": share} for one, share in pairs]}


def _mask(given: Mapping[str, Any], read: Callable[[str], str]) -> Any:
    """Return the mask: what its flags cover together, or the JSON as it is."""
    flags = [name for name in _MASKS if name in given]
    if "mask_json" in flags:
        if len(flags) > 1:
            raise InvalidRequestError("--mask-json is the whole mask.", "Leave the others out.")
        return _mask_of_json(given["mask_json"], read)
    parts: dict[str, Any] = {}
    if "mask" in given:
        parts["image"] = read(given["mask"])
    if "box" in given:
        parts["box"] = _box(given["box"])
    parts |= {name: given[name] for name in ("words", "pick") if name in given}
    if "outpaint" in given:
        parts["outpaint"] = given["outpaint"]
    return parts or None


def _box(text: str) -> dict[str, float]:
    try:
        numbers = [float(part) if "." in part else int(part) for part in text.split(",")]
        return dict(zip(_CORNERS, numbers, strict=True))
    except ValueError as error:
        raise InvalidRequestError(
            f"--box: '{plain(text)[:40]}' is not X0,Y0,X1,Y1.",
            "Give the top left and the bottom right corner: --box 0,0,256,256.",
        ) from error


def _mask_of_json(text: str, read: Callable[[str], str]) -> Any:
    try:
        mask = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"--mask-json is not JSON: {error}.", "See docs/tools.md."
        ) from error
    if isinstance(mask, dict) and isinstance(mask.get("image"), str):
        return {**mask, "image": read(mask["image"])}
    return mask
