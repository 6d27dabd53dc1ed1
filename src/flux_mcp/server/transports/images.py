"""Images over HTTP: uploads, and full images and thumbnails for callers who may see them.

The guard stands in front of these routes as of every other: who calls is known, and how much of a
body may come and how slowly. What is refused because of the request itself is answered by the
guard as well.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive

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
    settings = service.settings
    paths = ServerPaths.of(settings)

    async def upload(request: Request) -> Response:
        with _answering(request):
            try:
                answer = await receive_upload(
                    request, service.intake, settings.max_image_bytes, "http"
                )
            except FluxMcpError as error:
                return _refused(error, paths)
        url = link_to(base_url(request, settings.public_url), answer.id)
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
        Route(UPLOADS_PATH, endpoint=upload, methods=["POST"]),
        Route(IMAGE_PATH, endpoint=image, methods=["GET"]),
        Route(THUMBNAIL_PATH, endpoint=thumbnail, methods=["GET"]),
    ]


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


async def receive_upload(
    request: Request, intake: Intake, max_bytes: int, source: UploadSource
) -> UploadAnswer:
    """Return what the body of a request became: the image itself, or a form with one file.

    The body is written to a file without a name, which is gone however this ends.

    Args:
        request: Its body has not been read.
        intake: Takes the image in.
        max_bytes: Of the image.
        source: Where it comes from.

    Raises:
        BodyTooLargeError: there is more of it.
        MediaTypeError: it is said to be neither an image nor a form.
        InvalidRequestError: the form has no file, or several, or is broken.
        InvalidImageError: it is no image.
        StorageError: the disk refused.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == _FORM
    if not (is_form or media_type == _ANY_BYTES or media_type.startswith("image/")):
        raise MediaTypeError(
            f"A body of the type {media_type[:40] or 'none'!r} is no image.",
            "Send the image as it is, as image/png or what it is, or a multipart/form-data form "
            "with one file.",
        )
    most_bytes = max_bytes + (FORM_BYTES if is_form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes:
        raise _too_large(max_bytes)
    limited = Request(request.scope, _limited(request.receive, most_bytes, max_bytes))
    if is_form:
        return await _of_form(limited, intake, max_bytes, source)
    async with _written(limited, intake) as file:
        name = request.query_params.get("name")
        return await intake.bring_in(file, name=name, source=source)


async def _of_form(
    request: Request, intake: Intake, max_bytes: int, source: UploadSource
) -> UploadAnswer:
    hint = "Send a multipart/form-data form with one file: curl -F file=@image.png does."
    try:
        async with request.form(max_files=1, max_part_size=FORM_BYTES) as form:
            found = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            if not found:
                raise InvalidRequestError("The form has no file.", hint)
            (file,) = found
            if (file.size or 0) > max_bytes:
                raise _too_large(max_bytes)
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


def _limited(receive: Receive, most_bytes: int, max_bytes: int) -> Receive:
    """Return what reads a body and refuses it once there is more of it than may be."""
    come = 0

    async def read() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        if come > most_bytes:
            raise _too_large(max_bytes)
        return message

    return read


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The image file is larger than {max_bytes:,} bytes.", "Send a smaller one."
    )


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
