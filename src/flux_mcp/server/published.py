"""What clients are shown before they use anything: instructions, tools, templates of resources.

Every process that serves reads this at its start, and nothing else of the server's work. The tools
are read from tools.json, which is generated from the models of `tools.py` (a test compares the
two): building the schemas would take a third of the start.
"""

import json
import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Literal

from mcp.server import MCPServer
from mcp.types import Tool

ResourceKind = Literal["image", "thumbnail", "job", "download", "pack", "lora"]
ReadResource = Callable[[ResourceKind, str], Awaitable[str | bytes]]
"""Reads a resource of a kind by its id or name."""

TOOLS_FILE = Path(__file__).with_name("tools.json")
INSTRUCTIONS = (
    "Generates images with FLUX on this machine's own GPU; one job at a time, the rest wait in a "
    "queue that survives restarts. flux_generate starts from words. flux_edit changes an image by "
    "instruction. flux_fill generates inside a mask or extends an image. flux_variation varies "
    "images. flux_structural follows edges or depth. Every image is kept with prompt, seed and "
    "model; its id works wherever a tool takes an image. Find images with flux_search_gallery. "
    "When an answer has a job_id and no images yet, call flux_get_job. A prompt pack keeps the "
    "style of many images: name one in the argument pack instead of writing a prompt; "
    "flux://packs/{name} says what it takes. Tell the user the notices of an answer."
)
PACK_URI = "flux://packs/{name}"
LORA_URI = "flux://loras/{name}"


_SENTENCE_END = re.compile(r"(?<=\.) ")
_NAME = re.compile(r"flux_[a-z_]+")
_Object = dict[str, Any]


def published_tools(
    names: Collection[str] | None = None, *, compact: bool = False
) -> tuple[Tool, ...]:
    """Return the tools as clients see them, always in the same order.

    Args:
        names: Those that are published; `None` publishes all eight. Nothing that is published
            names another.
        compact: Without output schemas, and nothing that an earlier tool of the list says is said
            again: sentences, and descriptions of arguments that are the same.
    """
    tools: list[_Object] = json.loads(TOOLS_FILE.read_bytes())
    if names is not None:
        tools = [_naming_only(names, tool) for tool in tools if tool["name"] in names]
    if compact:
        tools = _said_once(tools)
    return tuple(Tool.model_validate(tool) for tool in tools)


def instructions(names: Collection[str] | None = None) -> str:
    """Return what a client is told about the server: of its tools those that are published."""
    return INSTRUCTIONS if names is None else _only_sentences(INSTRUCTIONS, names)


def _naming_only(names: Collection[str], node: Any) -> Any:
    """Return a tool, or a part of one, whose descriptions name no tool but these."""
    if isinstance(node, list):
        return [_naming_only(names, item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _only_sentences(value, names)
        if key == "description" and isinstance(value, str)
        else _naming_only(names, value)
        for key, value in node.items()
    }


def _only_sentences(text: str, names: Collection[str]) -> str:
    sentences = _SENTENCE_END.split(text)
    return " ".join(one for one in sentences if set(_NAME.findall(one)) <= {*names})


def _said_once(tools: list[_Object]) -> list[_Object]:
    sentences: set[str] = set()
    arguments: dict[str, _Object] = {}
    compacted = []
    for tool in tools:
        told = [one for one in _SENTENCE_END.split(tool["description"]) if one not in sentences]
        sentences.update(told)
        schema = tool["inputSchema"]
        properties = {}
        for name, argument in schema["properties"].items():
            is_told = arguments.setdefault(name, argument) is not argument
            same = is_told and arguments[name] == argument
            properties[name] = _undescribed(argument) if same else argument
        compacted.append(
            {
                **{key: value for key, value in tool.items() if key != "outputSchema"},
                "description": " ".join(told),
                "inputSchema": {**schema, "properties": properties},
            }
        )
    return compacted


def _undescribed(argument: _Object) -> _Object:
    """Return an argument without descriptions, its own and those inside."""
    bare = {key: value for key, value in argument.items() if key != "description"}
    if "items" in bare:
        bare["items"] = _undescribed(bare["items"])
    if "properties" in bare:
        bare["properties"] = {
            name: _undescribed(inner) for name, inner in bare["properties"].items()
        }
    return bare


def add_resource_templates(server: MCPServer, read: ReadResource) -> None:
    """Register the templates of resources; `read` is called when a client reads one."""

    @server.resource(
        "flux://images/{image_id}",
        name="image",
        title="Finished image",
        description="The full PNG of a gallery image, with its facts in the metadata.",
        mime_type="image/png",
    )
    async def image(image_id: str) -> str | bytes:
        return await read("image", image_id)

    @server.resource(
        "flux://images/{image_id}/thumbnail",
        name="thumbnail",
        title="Thumbnail",
        description="A 512 px WebP of a gallery image.",
        mime_type="image/webp",
    )
    async def thumbnail(image_id: str) -> str | bytes:
        return await read("thumbnail", image_id)

    @server.resource(
        "flux://jobs/{job_id}",
        name="job",
        title="Job",
        description="A job as it stands: status, progress, images.",
        mime_type="application/json",
    )
    async def job(job_id: str) -> str | bytes:
        return await read("job", job_id)

    @server.resource(
        "flux://downloads/{download_id}",
        name="download",
        title="Download of weights",
        description="A download as it stands: phase, bytes, speed, seconds left, error.",
        mime_type="application/json",
    )
    async def download(download_id: str) -> str | bytes:
        return await read("download", download_id)

    @server.resource(
        PACK_URI,
        name="pack",
        title="Prompt pack",
        description="What a prompt pack holds: its subjects, variables with their choices, what it "
        "forbids, what it asks of the model.",
        mime_type="application/json",
    )
    async def pack(name: str) -> str | bytes:
        return await read("pack", name)

    @server.resource(
        LORA_URI,
        name="lora",
        title="LoRA",
        description="What a LoRA on this machine is: the family of models it is for, the words a "
        "prompt needs for it, its rank and hash.",
        mime_type="application/json",
    )
    async def lora(name: str) -> str | bytes:
        return await read("lora", name)
