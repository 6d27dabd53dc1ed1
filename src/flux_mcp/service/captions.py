"""Captions: what finished images show, in a sentence, where a model that says it is on this disk.

They are for callers that are shown no image. Each is made once, one after the other, and goes on
being made when nobody waits for it any longer.
"""

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from flux_mcp.images.decoding import encode_image
from flux_mcp.models.hub.helpers import InstalledHelper
from flux_mcp.service.answers import ImageAnswer, ImageCaption
from flux_mcp.service.image_models import ImageModels

logger = logging.getLogger(__name__)

MAX_KEPT = 1000
"""Captions that are remembered."""


class Captions:
    """Asks for captions and keeps them. For one event loop.

    Args:
        models: Make them.
    """

    def __init__(self, models: ImageModels) -> None:
        self._models = models
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="captions")
        self._is_closed = False
        self._kept: OrderedDict[tuple[str, str], Future[str]] = OrderedDict()

    def close(self) -> None:
        """Begin no other caption; whoever asks for some is told none."""
        self._is_closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def added(
        self, images: tuple[ImageAnswer, ...], wait_s: float
    ) -> tuple[ImageAnswer, ...]:
        """Return images with their captions; as they are where no model here can make any.

        Args:
            images: Finished images.
            wait_s: How long to wait for captions that are not made yet.
        """
        captioner = await asyncio.to_thread(self._models.captioner) if images else None
        if captioner is None or self._is_closed:
            return images
        begun = [self._begun(image, captioner) for image in images]
        await asyncio.wait({asyncio.wrap_future(one) for one in begun}, timeout=wait_s)
        texts = [one.result() if one.done() and not one.cancelled() else None for one in begun]
        captions = [ImageCaption(model=captioner.spec.title, text=text) for text in texts]
        return tuple(
            image if caption.text == "" else image.model_copy(update={"caption": caption})
            for image, caption in zip(images, captions, strict=True)
        )

    def _begun(self, image: ImageAnswer, captioner: InstalledHelper) -> "Future[str]":
        """Return the caption of an image, which is made if it was not; "" where it cannot be."""
        key = (captioner.spec.id, image.pixels_sha256)
        future = self._kept.get(key)
        if future is None:
            file = Path(image.path).with_suffix(".webp")
            future = self._kept[key] = self._thread.submit(self._make, file, captioner)
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return future

    def _make(self, thumbnail: Path, captioner: InstalledHelper) -> str:
        """Return what an image shows. An image it fails for is not tried again: it takes long."""
        try:
            with Image.open(thumbnail) as opened:
                image = encode_image(opened.convert("RGB"))
            return self._models.caption(captioner, image)
        except Exception as error:  # noqa: BLE001 - it must not fail the answer about the image
            logger.warning(
                "no caption of an image",
                extra={"model": captioner.spec.id, "file": thumbnail.name, "reason": str(error)},
            )
            return ""
