"""Resources: images, thumbnails and jobs by URI."""

import asyncio
import json
from collections.abc import Awaitable
from typing import TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Resource

from flux_mcp.errors import (
    FluxMcpError,
    UnknownImageError,
    UnknownJobError,
    UnknownLoraError,
    UnknownPackError,
)
from flux_mcp.models.loras.library import Lora
from flux_mcp.requests.schemas import SearchRequest
from flux_mcp.service.answers import LoraAnswer
from flux_mcp.service.service import Service

T = TypeVar("T")

PACK_URI = "flux://packs/{name}"
LORA_URI = "flux://loras/{name}"
LISTED = 20
"""Newest images in resources/list, which the SDK does not page."""


def add_resources(server: MCPServer, service: Service) -> None:
    """Register the resource templates."""

    @server.resource(
        "flux://images/{image_id}",
        name="image",
        title="Finished image",
        description="The full PNG of a gallery image, with its facts in the metadata.",
        mime_type="image/png",
    )
    async def image(image_id: str) -> bytes:
        return await _found(service.gallery.read_image(image_id))

    @server.resource(
        "flux://images/{image_id}/thumbnail",
        name="thumbnail",
        title="Thumbnail",
        description="A 512 px WebP of a gallery image.",
        mime_type="image/webp",
    )
    async def thumbnail(image_id: str) -> bytes:
        return await _found(service.gallery.read_thumbnail(image_id))

    @server.resource(
        "flux://jobs/{job_id}",
        name="job",
        title="Job",
        description="A job as it stands: status, progress, images.",
        mime_type="application/json",
    )
    async def job(job_id: str) -> str:
        return (await _found(service.look(job_id))).model_dump_json()

    @server.resource(
        "flux://downloads/{download_id}",
        name="download",
        title="Download of weights",
        description="A download as it stands: phase, bytes, speed, seconds left, error.",
        mime_type="application/json",
    )
    async def download(download_id: str) -> str:
        return (await _found(service.downloads.find(download_id))).model_dump_json()

    @server.resource(
        PACK_URI,
        name="pack",
        title="Prompt pack",
        description="What a prompt pack holds: its subjects, variables with their choices, what it "
        "forbids, what it asks of the model.",
        mime_type="application/json",
    )
    async def pack(name: str) -> str:
        found = await _found(asyncio.to_thread(service.packs.find, name))
        return json.dumps(found.describe(), ensure_ascii=False)

    @server.resource(
        LORA_URI,
        name="lora",
        title="LoRA",
        description="What a LoRA on this machine is: the family of models it is for, the words a "
        "prompt needs for it, its rank and hash.",
        mime_type="application/json",
    )
    async def lora(name: str) -> str:
        # The hash too in the thread: it reads the whole file.
        looking = asyncio.to_thread(lambda: LoraAnswer.of(service.loras.find(name)))
        return (await _found(looking)).model_dump_json()


async def _found(looking: Awaitable[T]) -> T:
    """Return what was looked for; say in the protocol's words what went wrong."""
    try:
        return await looking
    except (UnknownImageError, UnknownJobError, UnknownLoraError, UnknownPackError) as error:
        raise ResourceNotFoundError(str(error)) from error
    except FluxMcpError as error:
        raise ResourceError(str(error)) from error


async def listed_resources(service: Service) -> list[Resource]:
    """Return the prompt packs, the LoRAs and the newest images as resources."""
    page = await service.gallery.search(SearchRequest(limit=LISTED))
    packs = [
        Resource(
            uri=PACK_URI.format(name=pack.name),
            name=pack.name,
            title=pack.title,
            description=pack.description,
            mime_type="application/json",
        )
        for pack in await asyncio.to_thread(list, service.packs)
    ]
    loras = [
        Resource(
            uri=LORA_URI.format(name=lora.name),
            name=lora.name,
            title=lora.about.title,
            description=lora_line(lora),
            mime_type="application/json",
        )
        for lora in await asyncio.to_thread(list, service.loras)
    ]
    images = [
        Resource(
            uri=image.uri,
            name=f"{image.id}.png",
            title=image.prompt[:80] or image.id,
            mime_type="image/png",
        )
        for image in page.images
    ]
    return [*packs, *loras, *images]


def lora_line(lora: Lora) -> str:
    """Say in one line what a LoRA is for, and which words it needs."""
    words = ", ".join(lora.about.trigger_words)
    needs = f" The prompt needs: {words}." if words else ""
    return f"LoRA for models of the family {' or '.join(lora.families)}.{needs}"
