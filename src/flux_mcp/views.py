"""Stored values -> answers. Pure, but for the paths it names."""

from collections.abc import Sequence

from flux_mcp.answers import ImageAnswer, JobAnswer, QueuedJobAnswer
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.jobs.estimates import Finished, estimate_s
from flux_mcp.jobs.job import Job


def image_uri(image_id: str) -> str:
    """Return the resource URI of a gallery image."""
    return f"flux://images/{image_id}"


def image_answer(record: ImageRecord, files: ImageFiles) -> ImageAnswer:
    """Return what callers are told of a picture."""
    return ImageAnswer(
        id=record.id,
        uri=image_uri(record.id),
        path=str(files.path_of(record.file)),
        thumbnail_uri=f"{image_uri(record.id)}/thumbnail",
        width=record.width,
        height=record.height,
        seed=record.seed,
        model=record.model,
        kind=record.kind,
        prompt=record.prompt,
        sha256=record.sha256,
        pixels_sha256=record.pixels_sha256,
        parents=record.parents,
        job_id=record.job_id,
        session=record.session,
        rating=record.rating,
        seconds=record.seconds,
        licence=record.licence,
        created_at=record.created_at,
    )


def job_answer(
    job: Job,
    images: Sequence[ImageRecord],
    files: ImageFiles,
    position: int | None,
    eta_s: float | None,
) -> JobAnswer:
    """Return what callers are told of a job."""
    return JobAnswer(
        job_id=job.id,
        status=job.status,
        phase=job.phase,
        step=job.step,
        total_steps=job.total_steps,
        position=position,
        eta_s=None if eta_s is None else round(eta_s, 2),
        kind=job.kind,
        model=job.model,
        quality=job.plan.quality,
        seed=job.plan.seeds[0],
        prompt=job.plan.prompt,
        session=job.session,
        notices=job.notices,
        error=job.error,
        images=tuple(image_answer(record, files) for record in images),
    )


def queued_answer(job: Job, position: int | None) -> QueuedJobAnswer:
    """Return one line of the queue."""
    return QueuedJobAnswer(
        job_id=job.id,
        status=job.status,
        kind=job.kind,
        model=job.model,
        step=job.step,
        total_steps=job.total_steps,
        position=position,
        session=job.session,
        created_at=job.created_at,
    )


def waits_s(ahead: Sequence[Job], history: Sequence[Finished]) -> float | None:
    """Return the seconds until all of `ahead` are done; `None` when one cannot be estimated."""
    total_s = 0.0
    for job in ahead:
        left_s = job.eta_s if job.eta_s is not None else estimate_s(job.plan, history)
        if left_s is None:
            return None
        total_s += left_s
    return total_s
