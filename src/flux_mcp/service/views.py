"""Views: the answers about jobs, the queue, downloads and images, from their records.

`Views` reads the database and runs on its thread; the functions read nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import Gallery, ImageRecord
from flux_mcp.jobs.downloads import Download, DownloadStore
from flux_mcp.jobs.estimates import Estimates
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue, QueueEntry
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.service.answers import (
    DownloadAnswer,
    ImageAnswer,
    JobAnswer,
    QueueAnswer,
    QueuedJobAnswer,
    UsedLoraAnswer,
)

MAX_LISTED = 200
"""Lines of the queue in one answer: a result stays below a megabyte however long the queue is."""


def image_uri(image_id: str) -> str:
    """Return the resource URI of a gallery image."""
    return f"flux://images/{image_id}"


def image_answer(record: ImageRecord, files: ImageFiles) -> ImageAnswer:
    """Return the answer about a gallery image."""
    return ImageAnswer(
        id=record.id,
        uri=image_uri(record.id),
        path=str(files.path_of(record.file)),
        thumbnail_uri=f"{image_uri(record.id)}/thumbnail",
        width=record.width,
        height=record.height,
        seed=record.seed,
        model=record.model,
        loras=tuple(UsedLoraAnswer.model_validate(one) for one in record.loras),
        kind=record.kind,
        prompt=record.prompt,
        sha256=record.sha256,
        pixels_sha256=record.pixels_sha256,
        parents=record.parents,
        job_id=record.job_id,
        session=record.session,
        rating=record.rating,
        seconds=round(record.seconds, 2),
        licence=record.licence,
        created_at=record.created_at,
    )


def download_answer(download: Download) -> DownloadAnswer:
    """Return the answer about a download of weights."""
    return DownloadAnswer(
        download_id=download.id,
        status=download.status,
        phase=download.phase,
        percent=download.step,
        eta_s=_rounded(download.eta_s),
        models=download.models,
        message=download.message,
        error=download.error,
    )


class Views:
    """The answers that need the database: about jobs and the queue.

    `trouble` returns why no job runs at present, to be told about those that wait.
    """

    def __init__(
        self,
        jobs: JobQueue,
        estimates: Estimates,
        gallery: Gallery,
        files: ImageFiles,
        downloads: DownloadStore,
        limit: int,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._jobs = jobs
        self.estimates = estimates
        self._gallery = gallery
        self._files = files
        self._downloads = downloads
        self._limit = limit
        self._trouble = trouble

    def job(self, job: Job) -> JobAnswer:
        """Return the answer about a job; with its images once it is completed."""
        images = self._gallery.of_job(job.id) if job.status == "completed" else ()
        trouble = self._trouble() if job.status == "queued" else None
        return JobAnswer(
            job_id=job.id,
            status=job.shown_status,
            phase=job.phase,
            step=job.step,
            total_steps=job.total_steps,
            position=self._jobs.position(job),
            eta_s=_rounded(self.estimates.end_s(job)),
            kind=job.kind,
            model=job.model,
            quality=job.plan.quality,
            seed=job.plan.seeds[0],
            prompt=job.plan.prompt,
            pack=_pack_of(job.composed),
            session=job.session,
            notices=job.notices if trouble is None else (*job.notices, trouble),
            error=job.error,
            masked=_masked(job),
            structure=self._structure(job.plan),
            images=tuple(image_answer(record, self._files) for record in images),
        )

    def _structure(self, plan: RenderPlan) -> Path | None:
        if not plan.has_made_structure:
            return None
        made = next(item.sha256 for item in plan.inputs if item.role == "control")
        return self._files.upload_path(made)

    def queue(self, principal: str | None = None) -> QueueAnswer:
        """Return who runs, who waits, how long; with a principal, the lines are its own only."""
        depth = self._jobs.depth()
        trouble = self._trouble() if depth else None
        return QueueAnswer(
            depth=depth,
            limit=self._limit,
            wait_s=self.estimates.start_s(),
            jobs=tuple(_entry(one) for one in self._jobs.entries(principal, MAX_LISTED)),
            downloads=tuple(one.id for one in self._downloads.running() if principal is None),
            notices=() if trouble is None else (trouble,),
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _masked(job: Job) -> tuple[str, str] | None:
    inputs = job.plan.inputs
    mask = next((item.sha256 for item in inputs if item.role == "mask"), None)
    return None if mask is None else (inputs[0].sha256, mask)


def _pack_of(reports: Sequence[Mapping[str, Any]]) -> str | None:
    return f"{reports[0]['pack']} {reports[0]['version']}" if reports else None


def _entry(entry: QueueEntry) -> QueuedJobAnswer:
    return QueuedJobAnswer(**asdict(entry))
