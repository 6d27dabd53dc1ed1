"""Writes a new pack to start from: small, complete and valid."""

import json
from pathlib import Path

from flux_mcp.compose.files import NAME, NAME_RULE
from flux_mcp.compose.manifest import MANIFEST, SCHEMA_FILE, pack_schema_text
from flux_mcp.compose.reader import FIXED_FILE, SUBJECTS
from flux_mcp.errors import InvalidRequestError, StorageError


def skeleton(name: str, folder: Path) -> Path:
    """Write a new pack, and beside it the schema for editors; return the pack's folder.

    Args:
        name: The pack's name.
        folder: The folder of packs; created if it does not exist.

    Raises:
        InvalidRequestError: the name is not valid, or something of that name exists.
        StorageError: the folder cannot be written to.
    """
    if not NAME.fullmatch(name):
        raise InvalidRequestError(f"'{name}' cannot be the name of a pack.", NAME_RULE)
    pack = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pack.mkdir()
        (pack / SUBJECTS).mkdir()
        for file, text in _files(name).items():
            (pack / file).write_text(text, encoding="utf-8", newline="\n")
        (folder / SCHEMA_FILE).write_text(pack_schema_text(), encoding="utf-8", newline="\n")
    except FileExistsError as error:
        raise InvalidRequestError(
            f"{pack} exists already, and nothing is overwritten.",
            "Choose another name, or remove it first.",
        ) from error
    except OSError as error:
        raise StorageError(
            f"The pack cannot be written to {pack}: {error.strerror}.",
            "Choose a folder that can be written to.",
        ) from error
    return pack


def _files(name: str) -> dict[str, str]:
    title = name.replace("-", " ").replace("_", " ").capitalize()
    manifest = {
        "$schema": f"../{SCHEMA_FILE}",
        "title": title,
        "description": "What this pack is for, in a sentence or two.",
        "version": "0.1.0",
        "kind": "text2img",
        "quality": "standard",
        "aspect_ratio": "1:1",
        "subject": {"description": "What the image shows.", "default": "lighthouse"},
        "variables": {
            "light": {
                "description": "How it is lit.",
                "default": "morning",
                "weights": {"morning": 2},
            },
            "season": {
                "description": "The time of year.",
                "default": "spring",
                "choices": {"spring": "spring", "autumn": "autumn"},
            },
        },
        "forbidden": [
            {
                "pattern": "watermark",
                "reason": "A watermark in the prompt appears in the image.",
                "instead": "clean image edges",
            }
        ],
    }
    return {
        MANIFEST: json.dumps(manifest, indent=2) + "\n",
        FIXED_FILE: (
            "# The text of every prompt. A line that begins like this one is a comment.\n"
            "# {subject} and {season} are filled in; light has none and comes last.\n"
            "A photograph of {subject} in {season}, taken with a 35 mm lens in natural colours.\n"
        ),
        "variable_light.txt": (
            "# The choices of the variable 'light': a name in brackets, and below it the text.\n"
            "[morning]\n"
            "Low morning sun comes in from the left and throws long, soft shadows.\n"
            "[overcast]\n"
            "Even light from an overcast sky softens every edge.\n"
        ),
        f"{SUBJECTS}/lighthouse.txt": "a white lighthouse on a rocky shore\n",
        f"{SUBJECTS}/orchard.txt": "an old orchard behind a dry stone wall\n",
    }
