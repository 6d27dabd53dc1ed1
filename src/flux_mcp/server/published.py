"""What clients are shown before they use anything: instructions, tools, templates of resources.

Every process that serves reads this at its start, and nothing else of the server's work. The tools
are read from tools.json, which is generated from the models of `tools.py` (a test compares the
two): building the schemas would take a third of the start.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from mcp.server import MCPServer
from mcp.types import Tool

ResourceKind = Literal["image", "thumbnail", "job", "download", "pack", "lora"]
ReadResource = Callable[[ResourceKind, str], Awaitable[str | bytes]]
"""Reads a resource of a kind by its id or name."""

TOOLS_FILE = Path(__file__).with_name("tools.json")
INSTRUCTIONS = (
    "Generates images with FLUX on this machine's own GPU; one job at a time, the rest wait in a "
    "queue that survives restarts. flux_generate starts from words, flux_edit changes an image by "
    "instruction, flux_fill generates inside a mask, flux_variation varies images, "
    "flux_structural follows edges. Every image is kept with prompt, seed and model: use "
    "flux_search_gallery to find it, and its id wherever a tool takes an image. When an answer has "
    "a job_id and no images yet, call flux_get_job. A prompt pack keeps the style of many "
    "images: name one in the argument pack instead of writing a prompt; flux://packs/{name} says "
    "what it takes. Tell the user the notices of an answer."
)
PACK_URI = "flux://packs/{name}"
LORA_URI = "flux://loras/{name}"


def published_tools() -> list[Tool]:
    """Return the eight tools as clients see them, always in the same order."""
    return [Tool.model_validate(tool) for tool in json.loads(TOOLS_FILE.read_bytes())]


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
