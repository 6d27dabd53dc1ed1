"""What does the list of tools cost a client? Bytes of tools/list, characters that a model reads.

Method: `flux-mcp serve` over stdio is asked for its tools, and the answer is written as compact
JSON in UTF-8, without a space, as clients keep it. Per tool: its name and title, description, input
schema and output schema, in bytes. What a client hands to its model with each request are the
descriptions and the input schemas; the sum of their characters is the second number.

The numbers do not depend on the machine: tests/server/test_schema.py asserts the two targets.

Unit: bytes and characters; ratios to the targets.
"""

import json
from typing import Any

from common import Result, flux_server, ratio, scratch, start_async

LIST_BYTES = 40_000
READ_CHARACTERS = 18_000


def compact(value: Any) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def size(value: Any) -> int:
    """Return how many bytes a value has as compact JSON."""
    return len(compact(value).encode())


async def measure(quick: bool) -> Result:
    """Ask a server once; there is nothing to repeat."""
    with scratch() as folder:
        async with flux_server(folder / "data") as client:
            listed = (await client.list_tools()).model_dump(
                mode="json", by_alias=True, exclude_none=True
            )
    tools: list[dict[str, Any]] = listed["tools"]
    result = Result("tool_list", quick, {"tools": len(tools)})
    for tool in tools:
        numbers = {
            "name_and_title": size(tool["name"]) + size(tool["title"]),
            "description": size(tool["description"]),
            "input_schema": size(tool["inputSchema"]),
            "output_schema": size(tool["outputSchema"]),
            "whole": size(tool),
        }
        result.absolute[tool["name"]] = numbers
        parts = ", ".join(f"{part.replace('_', ' ')} {n:,}" for part, n in numbers.items())
        result.line(tool["name"], parts)
    read = sum(len(tool["description"]) + len(compact(tool["inputSchema"])) for tool in tools)
    totals = {"list_bytes": (size(listed), LIST_BYTES), "read_characters": (read, READ_CHARACTERS)}
    for name, (found, target) in totals.items():
        result.absolute[name] = found
        result.ratios[f"{name}_of_target"] = ratio(found, target)
        result.line(name.replace("_", " "), f"{found:,}", f"at most {target:,}")
    return result


if __name__ == "__main__":
    start_async(__doc__, measure)
