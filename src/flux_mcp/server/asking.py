"""Images that the user is asked for: `ask`, and `ask:TOKEN` for a page that is open already.

A job is stored with the hash of its inputs, so there is no job while its image is missing. A call
that asks is refused with the address of the page, or waits for the image first; when the image is
there it is a call like any other, which names an upload.
"""

import asyncio
import threading
import webbrowser
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flux_mcp.errors import ImageWantedError, InvalidRequestError
from flux_mcp.principals import is_over_network, only
from flux_mcp.requests.schemas import DrawRequest
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.service.inputs import asked_tokens, with_given
from flux_mcp.service.service import Service

MOST_PAGES = 32
"""That are remembered; of more, the oldest is closed."""
_ASK_AGAIN = "Say 'ask' instead: it opens a new page."


class ImagePage(Protocol):
    """A page on which the user gives one image."""

    @property
    def token(self) -> str:
        """In `ask:TOKEN`."""

    @property
    def url(self) -> str:
        """Its address on this machine."""

    @property
    def arrived(self) -> "asyncio.Future[UploadAnswer]":
        """Done when the image is there; cancelled when the page has ended without one."""

    def close(self) -> None:
        """End it; what it has not got by now it does not get."""


OpenPage = Callable[[Service], Awaitable[ImagePage]]
Tell = Callable[[str], Awaitable[None]]
"""Tells a client how far its call is."""


@dataclass
class _Asked:
    """A page, and the request that opened it."""

    page: ImagePage
    request: DrawRequest
    is_used: bool = False
    """Whether a call has taken its image."""


class WantedImages:
    """Puts the images that the user gives in the place of what asks for them.

    Args:
        service: What the images are brought into.
        open_page: Opens a page; `None` where the user is not at this machine.
    """

    def __init__(self, service: Service, open_page: OpenPage | None) -> None:
        self._service = service
        self._open_page = open_page
        self._pages: OrderedDict[str, _Asked] = OrderedDict()
        self._ending = asyncio.Event()

    def stop(self) -> None:
        """End all pages, and answer calls that wait for an image, because the server ends."""
        self._ending.set()
        for asked in self._pages.values():
            asked.page.close()

    async def fill(self, request: DrawRequest, wait_s: float, tell: Tell) -> DrawRequest:
        """Return a request with the image that it asks for; the same one if it asks for none.

        Where the user cannot be asked it is left to be refused with everything else about it.

        Args:
            request: What the client asks.
            wait_s: How long its call may wait for the image.
            tell: Tells its client that it waits.

        Raises:
            ImageWantedError: the image is not there yet.
            InvalidRequestError: the page is not there any more, or several images are asked for.
        """
        mode = self._service.settings.ask_page
        if self._open_page is None or mode == "off" or only() is not None or is_over_network():
            return request
        tokens = asked_tokens(request)
        if not tokens:
            return request
        if len(tokens) > 1:
            raise InvalidRequestError(
                "A call asks the user for one image, and this one for several.",
                "Ask for one; bring the others in before: each call tells the id of its images.",
            )
        (token,) = tokens
        asked = await self._opened(request) if token is None else self._known(token)
        # Who only gets the address can do nothing with it while the call waits.
        if token is not None or mode == "open":
            await self._wait(asked.page, wait_s, tell)
        arrived = asked.page.arrived
        if arrived.cancelled():
            raise InvalidRequestError("The page has ended without an image.", _ASK_AGAIN)
        if not arrived.done():
            raise self._wanted(asked.page)
        asked.is_used = True
        return with_given(request, arrived.result().id)

    async def _opened(self, request: DrawRequest) -> _Asked:
        """Return a new page, or that of the same call made before, whose image nobody took."""
        for asked in self._pages.values():
            if asked.request == request and not (asked.is_used or asked.page.arrived.cancelled()):
                return asked
        assert self._open_page is not None  # noqa: S101 - asked before
        page = await self._open_page(self._service)
        asked = self._pages[page.token] = _Asked(page, request)
        if len(self._pages) > MOST_PAGES:
            _, oldest = self._pages.popitem(last=False)
            oldest.page.close()
        if self._service.settings.ask_page == "open":
            # A browser in the terminal does not come back before it is closed.
            threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
        return asked

    def _known(self, token: str) -> _Asked:
        found = self._pages.get(token.strip())
        if found is None:
            raise InvalidRequestError(
                "There is no page for an image under this token, or not any more.", _ASK_AGAIN
            )
        return found

    async def _wait(self, page: ImagePage, wait_s: float, tell: Tell) -> None:
        if wait_s <= 0 or page.arrived.done():
            return
        await tell(f"waiting for an image of the user at {page.url}")
        ending = asyncio.create_task(self._ending.wait())
        first: set[asyncio.Future[Any]] = {page.arrived, ending}
        try:
            await asyncio.wait(first, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()

    def _wanted(self, page: ImagePage) -> ImageWantedError:
        return ImageWantedError(
            "The user has not given the image yet. Nothing is queued.",
            f"Show the user this link, for one image: {page.url} . Then call again with "
            f"'ask:{page.token}' instead of 'ask': the call waits for the image.",
        )
