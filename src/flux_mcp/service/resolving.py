"""References that the database knows: ids, the first characters of one, `latest`.

Runs on the database thread, in the same visit as everything else that is looked up for a decision.
What a reference stands for is fixed here and said; a plan holds the id of the image itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flux_mcp.errors import InvalidRequestError, UnknownImageError
from flux_mcp.gallery.store import ID_PREFIX, Gallery, ImageRecord
from flux_mcp.images.references import LatestReference, StoredReference
from flux_mcp.jobs.queue import JobQueue

LEAST_CHARACTERS = 4
"""Of the beginning of an id, after `img_`."""
MOST_SHOWN = 5
_PROMPT_CHARACTERS = 40


@dataclass(frozen=True)
class StoredImage:
    """The image that a reference stands for."""

    image_id: str
    file: str
    """Below the data folder, as its row names it."""
    row: ImageRecord
    notice: str | None = None
    """What is said of it where the reference is not its id."""


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
    references: Iterable[StoredReference], gallery: Gallery, queue: JobQueue, by: Asking
) -> dict[StoredReference, StoredImage]:
    """Return the image that each reference stands for.

    Raises:
        UnknownImageError: there is none, for this caller.
        InvalidRequestError: an id is given by its beginning, and several begin so.
    """
    found: dict[StoredReference, StoredImage] = {}
    for one in references:
        if isinstance(one, LatestReference):
            found[one] = _latest(one, gallery, queue, by)
        else:
            found[one] = _by_id(one.image_id, gallery, by.sees)
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
            several = str(len(rows)) if len(rows) <= MOST_SHOWN else f"more than {MOST_SHOWN}"
            raise InvalidRequestError(
                f"{image_id!r} is the beginning of {several} images.",
                f"Give more of it: {'; '.join(map(_shown, rows[:MOST_SHOWN]))}.",
            ) from error
        return StoredImage(rows[0].id, rows[0].file, rows[0], f"{image_id} is {_shown(rows[0])}.")
    return StoredImage(row.id, row.file, row)


def _latest(
    reference: LatestReference, gallery: Gallery, queue: JobQueue, by: Asking
) -> StoredImage:
    """Return the newest image of the caller.

    Not one that this request itself has made without anybody being told: a client whose call was
    cut off makes the call again, and means the image that it meant before.
    """
    name = "latest" if reference.session is None else f"latest:{reference.session}"
    passed_over: list[ImageRecord] = []
    row = gallery.newest(by.principal, reference.session)
    while row is not None and queue.is_untold(row.job_id, by.asked()):
        passed_over.append(row)
        row = gallery.newest(by.principal, reference.session, before=row)
    if row is None:
        where = "" if reference.session is None else f" in the session {reference.session[:80]!r}"
        raise UnknownImageError(
            f"{name[:100]}: there is no image of yours{where}.",
            "Generate one first, or name another image; flux_search_gallery finds them.",
        )
    notice = f"{name} is {_shown(row)}."
    if passed_over:
        notice += (
            f" {passed_over[0].id} is newer, and not meant: this call made it before, and its "
            "answer was not received."
        )
    if queue.has_unfinished(by.principal, reference.session):
        notice += " What is not finished yet is not meant."
    return StoredImage(row.id, row.file, row, notice)


def _shown(row: ImageRecord) -> str:
    prompt = " ".join(row.prompt.split())
    if len(prompt) > _PROMPT_CHARACTERS:
        prompt = f"{prompt[: _PROMPT_CHARACTERS - 3]}..."
    return f"{row.id} ({row.created_at[:16].replace('T', ' ')} UTC, {prompt!r})"
