"""An entry as a YAML document, to be shown; pure. YAML files are not edited."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""What readers of YAML 1.1 and 1.2 take for something else than a text."""


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return a mapping of mappings, lists of scalars, and scalars as a document."""
    return "\n".join(_lines(data, ""))


def _lines(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in data.items():
        name = key if _PLAIN.fullmatch(key) and key.lower() not in _NOT_TEXT else json.dumps(key)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            # JSON's scalars, and its lists of them, are YAML's too (YAML 1.2, 1.3).
            yield f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}"
