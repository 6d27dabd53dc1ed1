"""Resources: images, thumbnails, jobs, downloads, packs and LoRAs, read and listed by URI."""

import asyncio
import json
from urllib.parse import quote

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
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.server.published import LORA_URI, PACK_URI, ResourceKind
from flux_mcp.server.results import error_text
from flux_mcp.service.answers import LoraAnswer
from flux_mcp.service.service import Service

LISTED = 20
"""Newest images in resources/list, which the SDK does not page."""


class ResourceReader:
    """Reads and lists the resources of one service; their templates are in published.py."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def read(self, kind: ResourceKind, key: str) -> str | bytes:
        """Return a resource by its id or name: images as bytes, everything else as JSON.

        Raises:
            ResourceNotFoundError: there is none of that id or name.
            ResourceError: it is there and cannot be read.
        """
        try:
            return await self._read(kind, key)
        except (UnknownImageError, UnknownJobError, UnknownLoraError, UnknownPackError) as error:
            raise ResourceNotFoundError(error_text(error)) from error
        except FluxMcpError as error:
            raise ResourceError(error_text(error)) from error

    async def _read(self, kind: ResourceKind, key: str) -> str | bytes:
        match kind:
            case "image":
                return await self._service.gallery.read_image(key)
            case "thumbnail":
                return await self._service.gallery.read_thumbnail(key)
            case "job":
                return (await self._service.look(key)).model_dump_json()
            case "download":
                return (await self._service.downloads.find(key)).model_dump_json()
            case "pack":
                pack = await asyncio.to_thread(self._service.packs.find, key)
                return json.dumps(pack.describe(), ensure_ascii=False)
            case "lora":
                # The hash too in the thread: it reads the whole file.
                lora = await asyncio.to_thread(lambda: LoraAnswer.of(self._service.loras.find(key)))
                return lora.model_dump_json()

    async def listed(self) -> list[Resource]:
        """Return the prompt packs, the LoRAs and the newest images."""
        page = await self._service.gallery.search(SearchRequest(limit=LISTED))
        packs = [
            Resource(
                uri=PACK_URI.format(name=pack.name),
                name=pack.name,
                title=pack.title,
                description=pack.description,
                mime_type="application/json",
            )
            for pack in await asyncio.to_thread(list, self._service.packs)
        ]
        loras = [
            Resource(
                uri=LORA_URI.format(name=quote(lora.name, safe="")),
                name=lora.name,
                title=lora.about.title,
                description=lora_line(lora),
                mime_type="application/json",
            )
            for lora in await asyncio.to_thread(list, self._service.loras)
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
