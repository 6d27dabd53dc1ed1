"""Images over HTTP: uploads, and full images and thumbnails for callers who may see them.

The guard stands in front of these routes as of every other: who calls is known, and how much of a
body may come and how slowly. What is refused because of the request itself is answered by the
guard as well.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message

from flux_mcp.errors import (
    AccessError,
    BodyTooLargeError,
    CapacityError,
    FluxMcpError,
    InvalidRequestError,
    MediaTypeError,
    RequestError,
    StorageError,
    UnknownImageError,
)
from flux_mcp.gallery.uploads import UploadSource
from flux_mcp.principals import acting_as, only
from flux_mcp.server.links import base_url, link_to
from flux_mcp.server.redaction import ServerPaths, for_others
from flux_mcp.server.transports.guard import REFUSING
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.service.intake import Intake
from flux_mcp.service.service import Service

UPLOADS_PATH = "/uploads"
IMAGE_PATH, THUMBNAIL_PATH = "/images/{image_id}.png", "/images/{image_id}/thumbnail"
FORM_BYTES = 64 * 1024
"""What a form may have besides its file."""
DRAIN_BYTES = 1024 * 1024
_FORM = "multipart/form-data"
_ANY_BYTES = "application/octet-stream"
_STATUS: Mapping[type[FluxMcpError], int] = {
    UnknownImageError: 404,
    RequestError: 400,
    CapacityError: 503,
}
"""The first row counts that an error is of; 500 for what is nobody's mistake."""
_KEPT = "private, max-age=31536000, immutable"
"""What an id names never changes. Not for caches that several callers share."""


def image_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of a server."""
    paths = ServerPaths.of(service.settings)

    def uploaded(request: Request, answer: UploadAnswer) -> Response:
        url = link_to(base_url(request, service.settings.public_url), answer.id)
        return JSONResponse(
            {**answer.model_dump(mode="json", exclude={"name"}), "url": url},
            201,
            headers={"location": url},
        )

    async def image(request: Request) -> Response:
        with _answering(request):
            try:
                stored = await service.gallery.find_stored(request.path_params["image_id"])
                headers = _kept_headers(stored.sha256)
                if _has_it(request, headers["etag"]):
                    return Response(status_code=304, headers=headers)
                found = await asyncio.to_thread(_look_at, stored.path)
            except FluxMcpError as error:
                return _refused(error, paths)
        return FileResponse(
            stored.path,
            headers=headers,
            media_type="image/png",
            filename=f"{stored.id}.png",
            stat_result=found,
            content_disposition_type="inline",
        )

    async def thumbnail(request: Request) -> Response:
        with _answering(request):
            try:
                data = await service.gallery.read_thumbnail(request.path_params["image_id"])
            except FluxMcpError as error:
                return _refused(error, paths)
        headers = _kept_headers(hashlib.sha256(data).hexdigest())
        if _has_it(request, headers["etag"]):
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type="image/webp")

    return [
        upload_route(UPLOADS_PATH, service, "http", uploaded),
        Route(IMAGE_PATH, endpoint=image, methods=["GET"]),
        Route(THUMBNAIL_PATH, endpoint=thumbnail, methods=["GET"]),
    ]


def upload_route(
    path: str,
    service: Service,
    source: UploadSource,
    answered: Callable[[Request, UploadAnswer], Response],
) -> Route:
    """Return a route that takes an image in.

    Args:
        path: Its path.
        service: Takes it in.
        source: Where it comes from.
        answered: Returns what is said of an image that was taken in.
    """
    paths = ServerPaths.of(service.settings)

    async def upload(request: Request) -> Response:
        body = _UploadBody(request, service.settings.max_image_bytes)
        with _answering(request):
            try:
                answer = await receive_upload(body, service.intake, source)
            except AccessError:
                await body.drain()
                raise
            except FluxMcpError as error:
                return _refused(error, paths)
        return answered(request, answer)

    return Route(path, endpoint=upload, methods=["POST"])


@contextmanager
def _answering(request: Request) -> Iterator[None]:
    """Answer for the principal of a request; what is wrong with that itself the guard answers."""
    try:
        with acting_as(request.user.access_token.client_id, over_network=True):
            yield
    except AccessError:
        request.scope[REFUSING]()
        raise


def _refused(error: FluxMcpError, paths: ServerPaths) -> Response:
    """Return an error as JSON.

    Raises:
        AccessError: it is one, which is the guard's to answer.
    """
    if isinstance(error, AccessError):
        raise error
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return error_response(error, status, None if only() is None else paths)


def error_response(error: FluxMcpError, status: int, hidden: ServerPaths | None) -> Response:
    """Return an error as JSON.

    Args:
        error: What is wrong.
        status: Of HTTP.
        hidden: What callers of elsewhere are not told; `None` for the owner.
    """
    message, hint = error.message, error.hint
    if hidden is not None:
        message, hint = hidden.hidden_in(message), hidden.hidden_in(for_others(hint))
    return JSONResponse({"error": {"code": error.code, "message": message, "hint": hint}}, status)


# --- what comes in -----------------------------------------------------------------------------


class _UploadBody:
    """The body of an upload.

    Args:
        request: Its body has not been read.
        max_bytes: Of its image.
    """

    def __init__(self, request: Request, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.is_form = self.media_type == _FORM
        self.request = Request(request.scope, self._read)
        self._receive = request.receive
        self._most_bytes = max_bytes + (FORM_BYTES if self.is_form else 0)
        self._come_bytes = 0
        self._is_whole = False

    def check_declared(self) -> None:
        """Refuse a body that is too large by what is said of it, before it is sent.

        Raises:
            BodyTooLargeError: it is.
        """
        declared = self.request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._most_bytes:
            raise self.too_large()

    def too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The image file is larger than {self.max_bytes:,} bytes.", "Send a smaller one."
        )

    async def _read(self) -> Message:
        message = await self._receive()
        self._come_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._come_bytes > self._most_bytes:
            raise self.too_large()
        return message

    async def drain(self) -> None:
        """Read a little of what is left of a refused body.

        The connection is closed after the refusal. A client that is still sending then would get
        no answer, but an error of its own.
        """
        if "expect" in self.request.headers:
            return  # it waits to be told to send, and is not
        left_bytes = DRAIN_BYTES
        with suppress(AccessError, ClientDisconnect):
            while not self._is_whole and left_bytes > 0:
                message = await self._receive()
                left_bytes -= len(message.get("body", b""))
                self._is_whole = not message.get("more_body", False)


async def receive_upload(body: _UploadBody, intake: Intake, source: UploadSource) -> UploadAnswer:
    """Return what the body of a request became: the image itself, or a form with one file.

    The body is written to a file without a name, which is gone however this ends.

    Args:
        body: Of the request.
        intake: Takes the image in.
        source: Where it comes from.

    Raises:
        BodyTooLargeError: there is more of it.
        MediaTypeError: it is said to be neither an image nor a form.
        InvalidRequestError: the form has no file, or several, or is broken.
        InvalidImageError: it is no image.
        StorageError: the disk refused.
    """
    media_type = body.media_type
    if not (body.is_form or media_type == _ANY_BYTES or media_type.startswith("image/")):
        raise MediaTypeError(
            f"A body of the type {media_type[:40] or 'none'!r} is no image.",
            "Send the image as it is, as image/png or what it is, or a multipart/form-data form "
            "with one file.",
        )
    body.check_declared()
    if body.is_form:
        return await _of_form(body, intake, source)
    async with _written(body.request, intake) as file:
        name = body.request.query_params.get("name")
        return await intake.bring_in(file, name=name, source=source)


async def _of_form(body: _UploadBody, intake: Intake, source: UploadSource) -> UploadAnswer:
    hint = "Send a multipart/form-data form with one file: curl -F file=@image.png does."
    try:
        async with body.request.form(max_files=1, max_part_size=FORM_BYTES) as form:
            found = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            if not found:
                raise InvalidRequestError("The form has no file.", hint)
            (file,) = found
            if (file.size or 0) > body.max_bytes:
                raise body.too_large()
            return await intake.bring_in(file.file, name=file.filename, source=source)
    except HTTPException as error:
        raise InvalidRequestError(f"The form cannot be read: {error.detail}", hint) from error


@asynccontextmanager
async def _written(request: Request, intake: Intake) -> AsyncIterator[IO[bytes]]:
    """Give a file that holds the body of a request."""
    with await intake.temporary_file() as file:
        try:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.seek, 0)
        except OSError as error:
            raise StorageError(
                f"The upload could not be written: {error.strerror}.", "Free disk space."
            ) from error
        yield file


# --- what goes out -----------------------------------------------------------------------------


def _look_at(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}.",
            "Restore it, or draw the image again.",
        ) from error


def _kept_headers(sha256: str) -> dict[str, str]:
    # Two callers of one machine may share a cache: the answer is for this token only.
    return {"etag": f'"{sha256}"', "cache-control": _KEPT, "vary": "authorization"}


def _has_it(request: Request, etag: str) -> bool:
    """Whether a caller has what it asks for (RFC 9110, 13.1.2: compared weakly)."""
    given = ",".join(request.headers.getlist("if-none-match"))
    tags = [one.strip().removeprefix("W/") for one in given.split(",")]
    return etag in tags or "*" in tags
