"""Intake: the images of a request, from whatever names them to checked files and plan inputs.

Knows where images may come from and asks the gallery for its own. Writes nothing until `store`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flux_mcp.images.decoding import InputImage, load_image, store_image
from flux_mcp.images.masks import finish_mask, mask_from_box, mask_from_image
from flux_mcp.images.references import (
    DataReference,
    GalleryReference,
    parse_reference,
    read_path,
)
from flux_mcp.principals import only
from flux_mcp.requests.geometry import Size
from flux_mcp.requests.plan import InputRole, PlanInput
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    FillRequest,
    Mask,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.settings.settings import Settings


@dataclass(frozen=True)
class Incoming:
    """A checked image and what the plan says of it."""

    image: InputImage
    plan_input: PlanInput


class Intake:
    """Resolves, checks and stores the images of requests.

    Args:
        settings: Limits and folders.
        read_image: Returns the PNG of a gallery image by id; raises `UnknownImageError`, or
            `StorageError` when its file is gone.
    """

    def __init__(self, settings: Settings, read_image: Callable[[str], Awaitable[bytes]]) -> None:
        self._settings = settings
        self._read_image = read_image

    async def collect(self, request: DrawRequest) -> list[Incoming]:
        """Return every image of a request, decoded and checked, in the order plans list them.

        Raises:
            RequestError: a reference names nothing, or nothing usable.
        """
        match request:
            case EditRequest():
                return [await self._incoming(image, "reference") for image in request.images]
            case VariationRequest():
                return [
                    await self._incoming(item.image, "reference", item.weight)
                    for item in request.images
                ]
            case FillRequest():
                image = await self._incoming(request.image, "image")
                return [image, await self._mask(request, image.image)]
            case StructuralRequest(image=str(image)):
                return [await self._incoming(image, "image")]
            case StructuralRequest(control_image=str(image)):
                return [await self._incoming(image, "control")]
            case _:
                return []

    async def store(self, incoming: Iterable[Incoming]) -> None:
        """Write the images into the uploads folder, under their hashes."""
        uploads = self._settings.paths.uploads
        for item in incoming:
            await asyncio.to_thread(store_image, uploads, item.image)

    async def _incoming(self, reference: str, role: InputRole, weight: float = 1.0) -> Incoming:
        picture, image_id = await self._load(reference, "RGB")
        return Incoming(picture, _plan_input(picture, role, weight, image_id))

    async def _mask(self, request: FillRequest, image: InputImage) -> Incoming:
        size = Size(image.width, image.height)
        mask = await self._raw_mask(request.mask, size)
        mask = await asyncio.to_thread(
            finish_mask, mask, invert=request.invert, feather_px=request.feather_px
        )
        return Incoming(mask, _plan_input(mask, "mask"))

    async def _raw_mask(self, mask: Mask, size: Size) -> InputImage:
        if mask.box is not None:
            return await asyncio.to_thread(mask_from_box, mask.box, size)
        picture, _ = await self._load(mask.image or "", "L")
        return mask_from_image(picture, size)

    def _readable_dirs(self) -> tuple[Path, ...]:
        # A name of its own comes from elsewhere: it has no business in this machine's folders.
        return self._settings.readable_dirs if only() is None else ()

    async def _load(
        self, reference: str, mode: Literal["RGB", "L"]
    ) -> tuple[InputImage, str | None]:
        settings = self._settings
        # In a thread: a data: URI holds megabytes of base64.
        parsed = await asyncio.to_thread(parse_reference, reference)
        image_id = None
        if isinstance(parsed, GalleryReference):
            image_id = parsed.image_id
            data = await self._read_image(image_id)
        elif isinstance(parsed, DataReference):
            data = parsed.data
        else:
            data = await asyncio.to_thread(
                read_path, parsed.path, self._readable_dirs(), settings.max_image_bytes
            )
        picture = await asyncio.to_thread(
            load_image,
            data,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            mode=mode,
        )
        return picture, image_id


def _plan_input(
    picture: InputImage, role: InputRole, weight: float = 1.0, image_id: str | None = None
) -> PlanInput:
    return PlanInput(
        role=role,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        weight=weight,
        image_id=image_id,
    )
