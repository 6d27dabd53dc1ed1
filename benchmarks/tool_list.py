"""What does the list of tools cost a client? Tokens that a model reads, bytes of tools/list.

Method: `flux-mcp serve` over stdio is asked for its tools, and the answer is written as compact
JSON in UTF-8, without a space, as clients keep it. What a client hands to its model with each
request is, for each tool, `{"name", "description", "parameters"}` with the input schema as
parameters; its tokens are counted with o200k_base, the public tokenizer of OpenAI's models, as in
answers.py (`pip install bpe-openai`). cl100k_base, an older one, gives 2 % fewer. The whole list,
with titles, annotations and output schemas, is counted as well: few clients show it to their model.
So is the list with the setting `compact_schemas`.

The numbers do not depend on the machine: tests/server/test_schema.py asserts the targets for bytes
and characters.

Unit: tokens, bytes and characters; ratios to the targets.
"""

from pathlib import Path
from typing import Any

from common import Result, compact, flux_server, ratio, scratch, start_async, tokens

READ_TOKENS = 4_500
LIST_BYTES = 36_000
READ_CHARACTERS = 17_500


def size(value: Any) -> int:
    """Return how many bytes a value has as compact JSON."""
    return len(compact(value).encode())


def read_by_a_model(tool: dict[str, Any]) -> dict[str, Any]:
    """Return what a client hands to its model for a tool."""
    parameters = tool["inputSchema"]
    return {"name": tool["name"], "description": tool["description"], "parameters": parameters}


async def listed_by(folder: Path, **settings: object) -> dict[str, Any]:
    """Return the list of tools of a server as its client gets it."""
    async with flux_server(folder / "data", **settings) as client:
        answer = await client.list_tools()
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


async def measure(quick: bool) -> Result:
    """Ask two servers once; there is nothing to repeat."""
    with scratch() as folder:
        listed = await listed_by(folder)
        fewer = await listed_by(folder, compact_schemas=True)
    tools: list[dict[str, Any]] = listed["tools"]
    result = Result("tool_list", quick, {"tools": len(tools)})
    for tool in tools:
        numbers = {
            "name_and_title": size(tool["name"]) + size(tool["title"]),
            "description": size(tool["description"]),
            "input_schema": size(tool["inputSchema"]),
            "output_schema": size(tool["outputSchema"]),
            "whole": size(tool),
            "tokens": tokens(read_by_a_model(tool)),
        }
        result.absolute[tool["name"]] = numbers
        parts = ", ".join(f"{part.replace('_', ' ')} {n:,}" for part, n in numbers.items())
        result.line(tool["name"], parts)
    read = sum(len(tool["description"]) + len(compact(tool["inputSchema"])) for tool in tools)
    read_tokens = {
        name: sum(tokens(read_by_a_model(tool)) for tool in of["tools"])
        for name, of in (("", listed), ("compact_", fewer))
    }
    beside = {
        "list_tokens": tokens(listed),
        "compact_read_tokens": read_tokens["compact_"],
        "compact_list_tokens": tokens(fewer),
    }
    for name, count in beside.items():
        result.absolute[name] = count
        result.line(name.replace("_", " "), f"{count:,}")
    totals = {
        "read_tokens": (read_tokens[""], READ_TOKENS),
        "list_bytes": (size(listed), LIST_BYTES),
        "read_characters": (read, READ_CHARACTERS),
    }
    for name, (found, target) in totals.items():
        result.absolute[name] = found
        result.ratios[f"{name}_of_target"] = ratio(found, target)
        result.line(name.replace("_", " "), f"{found:,}", f"at most {target:,}")
    return result


if __name__ == "__main__":
    start_async(__doc__, measure)
