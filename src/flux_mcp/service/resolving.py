"""References that the database knows: ids, the first characters of one, `latest`.

Runs on the database thread, in the same visit as everything else that is looked up for a decision.
What a reference stands for is fixed here and said; a plan holds the id of the image itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flux_mcp.errors import InvalidRequestError, UnknownImageError
from flux_mcp.gallery.store import ID_PREFIX, Gallery, ImageRecord
from flux_mcp.gallery.uploads import UPLOAD_PREFIX, UploadRecord, Uploads
from flux_mcp.images.references import LatestReference, StoredReference
from flux_mcp.jobs.queue import JobQueue

LEAST_CHARACTERS = 4
"""Of the beginning of an id, after `img_` or `upl_`."""
MOST_SHOWN = 5
_PROMPT_CHARACTERS = 40


@dataclass(frozen=True)
class StoredImage:
    """The image that a reference stands for."""

    image_id: str
    file: str
    """Below the data folder, as its row names it."""
    row: ImageRecord | None
    """`None` of an upload."""
    notice: str | None = None
    """What is said of it where the reference is not its id."""
    changes: tuple[str, ...] = ()
    """Of an upload: what was changed about it when it came in."""


@dataclass(frozen=True)
class StoredImages:
    """What the references are looked up in."""

    gallery: Gallery
    uploads: Uploads
    queue: JobQueue


@dataclass(frozen=True)
class Asking:
    """Who refers to images, and with which request."""

    principal: str
    """Whose newest image `latest` is."""
    sees: str | None
    """Whose images there are for it; `None`: all."""
    asked: Callable[[], Mapping[str, Any]]
    """Returns the request as jobs store it."""


def resolve(
    references: Iterable[StoredReference], images: StoredImages, by: Asking
) -> dict[StoredReference, StoredImage]:
    """Return the image that each reference stands for.

    Raises:
        UnknownImageError: there is none, for this caller.
        InvalidRequestError: an id is given by its beginning, and several begin so.
    """
    found: dict[StoredReference, StoredImage] = {}
    for one in references:
        if isinstance(one, LatestReference):
            found[one] = _latest(one, images, by)
        elif one.image_id.startswith(UPLOAD_PREFIX):
            found[one] = _upload_by_id(one.image_id, images.uploads, by.sees)
        else:
            found[one] = _by_id(one.image_id, images.gallery, by.sees)
    return found


def _by_id(image_id: str, gallery: Gallery, sees: str | None) -> StoredImage:
    try:
        row = gallery.find(image_id, sees)
    except UnknownImageError as error:
        if len(image_id) - len(ID_PREFIX) < LEAST_CHARACTERS:
            raise
        rows = gallery.beginning_with(image_id, sees, MOST_SHOWN + 1)
        if not rows:
            raise
        if len(rows) > 1:
            raise _several(image_id, [_shown(row) for row in rows]) from error
        return StoredImage(rows[0].id, rows[0].file, rows[0], f"{image_id} is {_shown(rows[0])}.")
    return StoredImage(row.id, row.file, row)


def _upload_by_id(image_id: str, uploads: Uploads, sees: str | None) -> StoredImage:
    try:
        return _uploaded(uploads.find(image_id, sees))
    except UnknownImageError as error:
        if len(image_id) - len(UPLOAD_PREFIX) < LEAST_CHARACTERS:
            raise
        found = uploads.beginning_with(image_id, sees, MOST_SHOWN + 1)
        if not found:
            raise
        if len(found) > 1:
            raise _several(image_id, [_shown_upload(one) for one in found]) from error
        return _uploaded(found[0], f"{image_id} is {_shown_upload(found[0])}.")


def _several(image_id: str, shown: Sequence[str]) -> InvalidRequestError:
    several = str(len(shown)) if len(shown) <= MOST_SHOWN else f"more than {MOST_SHOWN}"
    return InvalidRequestError(
        f"{image_id!r} is the beginning of {several} images.",
        f"Give more of it: {'; '.join(shown[:MOST_SHOWN])}.",
    )


def _uploaded(upload: UploadRecord, notice: str | None = None) -> StoredImage:
    return StoredImage(upload.id, upload.file, None, notice, upload.notices)


def _latest(reference: LatestReference, images: StoredImages, by: Asking) -> StoredImage:
    """Return the newest image of the caller: what it made, or brought in.

    Not one that this request itself has made without anybody being told: a client whose call was
    cut off makes the call again, and means the image that it meant before.
    """
    name = "latest" if reference.session is None else f"latest:{reference.session}"
    gallery, queue = images.gallery, images.queue
    passed_over: list[ImageRecord] = []
    row = gallery.newest(by.principal, reference.session)
    while row is not None and queue.is_untold(row.job_id, by.asked()):
        passed_over.append(row)
        row = gallery.newest(by.principal, reference.session, before=row)
    # A session is of jobs: what is brought in is in none.
    upload = images.uploads.newest(by.principal) if reference.session is None else None
    if upload is not None and (row is None or row.created_at < upload.created_at):
        found, shown = _uploaded(upload), _shown_upload(upload)
        passed_over = [one for one in passed_over if one.created_at > upload.created_at]
    elif row is not None:
        found, shown = StoredImage(row.id, row.file, row), _shown(row)
    else:
        where = "" if reference.session is None else f" in the session {reference.session[:80]!r}"
        raise UnknownImageError(
            f"{name[:100]}: there is no image of yours{where}.",
            "Generate one first, or name another image; flux_search_gallery finds them.",
        )
    notice = f"{name} is {shown}."
    if passed_over:
        notice += (
            f" {passed_over[0].id} is newer, and not meant: this call made it before, and its "
            "answer was not received."
        )
    if queue.has_unfinished(by.principal, reference.session):
        notice += " What is not finished yet is not meant."
    return replace(found, notice=notice)


def _shown_upload(upload: UploadRecord) -> str:
    name = "" if upload.name is None else f", {upload.name!r}"
    return f"{upload.id} (brought in {_minute(upload.created_at)}{name})"


def _shown(row: ImageRecord) -> str:
    prompt = " ".join(row.prompt.split())
    if len(prompt) > _PROMPT_CHARACTERS:
        prompt = f"{prompt[: _PROMPT_CHARACTERS - 3]}..."
    return f"{row.id} ({_minute(row.created_at)}, {prompt!r})"


def _minute(created_at: str) -> str:
    return f"{created_at[:16].replace('T', ' ')} UTC"
