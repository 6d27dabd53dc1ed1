"""Writes real packs into real folders."""

import json
from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = {
    "title": "Test",
    "description": "A pack for tests.",
    "version": "1.0.0",
    "subject": {"description": "What is shown.", "default": "cat"},
    "variables": {
        "light": {"description": "The light.", "default": "soft"},
        "colour": {
            "description": "A colour.",
            "default": "red",
            "choices": {"red": "red", "blue": "blue"},
        },
    },
}
FILES: dict[str, str | bytes] = {
    "fixed_block.txt": "A photograph in {colour} tones.\n",
    "variable_light.txt": "[soft]\nThe light is soft.\n[hard]\nThe light is hard.\n",
    "subjects/cat.txt": "a tabby cat on a chair\n",
    "subjects/dog.txt": "a brown dog on a rug\n",
}


def manifest(**changes: Any) -> str:
    """Return pack.json with some keys changed; `None` takes a key out. One key each line."""
    kept = {key: value for key, value in {**MANIFEST, **changes}.items() if value is not None}
    return json.dumps(kept, indent=2)


def write_pack(
    folder: Path, files: dict[str, str | bytes | None] | None = None, **changes: Any
) -> Path:
    """Write a pack that is right, but for what the test changes; `None` leaves a file out."""
    all_files = {"pack.json": manifest(**changes), **FILES, **(files or {})}
    for name, text in all_files.items():
        if text is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def line_of(text: str, part: str) -> int:
    """Return the line of the first place a part stands in a text."""
    return text[: text.index(part)].count("\n") + 1
