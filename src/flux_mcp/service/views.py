"""Views: the answers about jobs, the queue, downloads, images and dry runs, from their records.

`Views` reads the database and runs on its thread; the functions read nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flux_mcp.compose.audit import Finding
from flux_mcp.compose.composer import Composition
from flux_mcp.compose.problems import shorten
from flux_mcp.compose.tokens import TokenCount
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import Gallery, ImageRecord
from flux_mcp.jobs.downloads import Download, DownloadStore
from flux_mcp.jobs.estimates import Estimates
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue, QueueEntry
from flux_mcp.service.answers import (
    ComposedAnswer,
    DownloadAnswer,
    DryRunAnswer,
    FindingAnswer,
    ImageAnswer,
    JobAnswer,
    LoraAnswer,
    QueueAnswer,
    QueuedJobAnswer,
    TokensAnswer,
    UsedLoraAnswer,
)
from flux_mcp.service.planner import Decision
from flux_mcp.service.prompts import judge_plain

MAX_LISTED = 200
"""Lines of the queue in one answer: a result stays below a megabyte however long the queue is."""
MAX_FINDINGS = 24
"""Of the audit in one answer, shared by its prompts; for the same reason."""
LONGEST_FINDING = 600
"""Characters of each text of a finding; a regular expression may match a whole prompt."""
_SEVERITY = ("refuse", "warn", "advice")


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
        seconds=record.seconds,
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
    """The answers that need the database: about jobs, the queue, and the cost of a plan.

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
        self._estimates = estimates
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
            eta_s=_rounded(self._estimates.end_s(job)),
            kind=job.kind,
            model=job.model,
            quality=job.plan.quality,
            seed=job.plan.seeds[0],
            prompt=job.plan.prompt,
            pack=_pack_of(job.composed),
            session=job.session,
            notices=job.notices if trouble is None else (*job.notices, trouble),
            error=job.error,
            images=tuple(image_answer(record, self._files) for record in images),
        )

    def queue(self, principal: str | None = None) -> QueueAnswer:
        """Return who runs, who waits, how long; with a principal, the lines are its own only."""
        depth = self._jobs.depth()
        trouble = self._trouble() if depth else None
        return QueueAnswer(
            depth=depth,
            limit=self._limit,
            wait_s=self._estimates.start_s(),
            jobs=tuple(_entry(one) for one in self._jobs.entries(principal, MAX_LISTED)),
            downloads=tuple(one.id for one in self._downloads.running() if principal is None),
            notices=() if trouble is None else (trouble,),
        )

    def dry_run(self, decision: Decision) -> DryRunAnswer:
        """Return what was decided about a request, with estimates; nothing is queued."""
        known_s = self._estimates.draw_s(decision.plan)
        return DryRunAnswer(
            composed=composed_answers(decision),
            plan=decision.plan,
            loras=tuple(LoraAnswer.of(lora) for lora in decision.loras),
            draw_s=decision.expected_s if known_s is None else known_s,
            start_s=self._estimates.start_s(),
            notices=decision.notices,
        )


def composed_answers(decision: Decision) -> tuple[ComposedAnswer, ...]:
    """Return each different prompt of a decision, with its audit and its tokens."""
    different = {one.prompt: one for one in decision.wording.compositions}
    if not different:
        different = {text: judge_plain(text) for text in decision.plan.texts if text}
    tokens = dict(zip(dict.fromkeys(decision.plan.texts), decision.tokens, strict=True))
    most = MAX_FINDINGS // max(1, len(different))
    return tuple(_composed(one, tokens[text], most) for text, one in different.items())


def _composed(one: Composition, tokens: Sequence[TokenCount], most: int) -> ComposedAnswer:
    found = one.audit.findings
    kept = sorted(found, key=lambda finding: _SEVERITY.index(finding.verdict))[:most]
    return ComposedAnswer(
        prompt=one.prompt,
        verdict=one.audit.verdict,
        findings=tuple(_finding(finding) for finding in found if finding in kept),
        more_findings=len(found) - len(kept),
        report=one.report() if one.pack else {},
        tokens=tuple(
            TokensAnswer(
                encoder=count.encoder,
                tokens=count.tokens,
                limit=count.limit,
                exact=count.is_exact,
                cut=count.cut,
            )
            for count in tokens
        ),
    )


def _finding(finding: Finding) -> FindingAnswer:
    return FindingAnswer(
        **{
            name: shorten(value, LONGEST_FINDING) if isinstance(value, str) else value
            for name, value in asdict(finding).items()
        }
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _pack_of(reports: Sequence[Mapping[str, Any]]) -> str | None:
    return f"{reports[0]['pack']} {reports[0]['version']}" if reports else None


def _entry(entry: QueueEntry) -> QueuedJobAnswer:
    return QueuedJobAnswer(**asdict(entry))
