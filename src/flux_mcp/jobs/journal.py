"""Journal: the log line and the OpenTelemetry spans of each transition of a job.

Whoever moves a job calls the journal. Its log lines carry the job's id, kind, model, principal and
trace; `JobTraces` holds the open spans of the jobs this process draws; `submit_span` and
`current_traceparent` tie a job to the trace of the call that submitted it. The journal also keeps
the last trouble of this process with drawing, for health checks. It changes no job.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flux_mcp import __version__
from flux_mcp.errors import FluxMcpError
from flux_mcp.jobs.job import FINAL, Job, JobStatus
from flux_mcp.observability.logs import log_fields
from flux_mcp.observability.tracing import mark_failed
from flux_mcp.principals import LOCAL
from flux_mcp.worker_protocol.messages import Done, ErrorInfo, Phase, Progress

logger = logging.getLogger(__name__)

TROUBLE_S = 600.0
"""Trouble older than this is forgotten. A probe may keep jobs away from a server in trouble, which
then could never show that it can draw again. As long as an idle worker stays."""
_TROUBLES = frozenset({"worker_lost", "engine_unavailable", "weights_invalid", "internal"})
"""Error codes that are about the machine; all others are about the one job."""
_HEADER: Final = "traceparent"
_SPAN_OF_PHASE: dict[Phase, str] = {
    "loading": "flux.load",
    "encoding": "flux.encode",
    "denoising": "flux.step",
    "decoding": "flux.decode",
    "upscaling": "flux.upscale",
    "saving": "flux.save",
}


# --- log lines ---------------------------------------------------------------------------------


def job_fields(job: Job) -> dict[str, str | int | None]:
    """Return the fields that every log line about a job has."""
    return {
        "job_id": job.id,
        "kind": job.kind,
        "model": job.model,
        "principal": None if job.principal == LOCAL else job.principal,
        "trace_id": trace_id_of(job),
    }


class Journal:
    """One method for each transition of a job in this process; the trouble it last had."""

    def __init__(self) -> None:
        self._traces = JobTraces()
        self._trouble: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """The code of what went wrong with the last worker or job, `None` if nothing did."""
        if self._trouble is None or time.monotonic() - self._trouble[1] > TROUBLE_S:
            return None
        return self._trouble[0]

    @contextmanager
    def about(self, job: Job) -> Iterator[None]:
        """Put the job's fields on every log line of the block."""
        with log_fields(**job_fields(job), attempt=job.attempt):
            yield

    def started(self, job: Job) -> None:
        """Log that an attempt begins."""
        self._traces.begin(job)
        logger.info("job started", extra={"wait_s": _wait_s(job)})

    def progress(self, event: Progress) -> None:
        """Trace how far a job is; nothing is logged."""
        self._traces.progress(event)

    def drawn(self, job: Job, done: Done) -> None:
        """Trace that the worker has drawn a job: trouble is over."""
        self._trouble = None
        self._traces.drawn(job.id, done.load_s, done.draw_s)

    def saving(self, job: Job) -> None:
        """Trace that a job's images are being saved."""
        self._traces.saving(job.id)

    def completed(self, job: Job, done: Done) -> None:
        """Log that a job is completed."""
        self._traces.end(job.id, "completed")
        seconds = {"wait_s": _wait_s(job), "load_s": done.load_s, "draw_s": done.draw_s}
        logger.info("job completed", extra={**seconds, "images": job.plan.images})

    def failed(self, job: Job, error: ErrorInfo) -> None:
        """Log that a job failed: the code only, the message may quote the request."""
        if error.code in _TROUBLES:
            self._in_trouble(error.code)
        self._traces.end(job.id, "failed", error.code)
        logger.warning("job failed", extra={"code": error.code})

    def cancelled(self, job: Job) -> None:
        """Log that a running job stopped as asked."""
        self._traces.end(job.id, "cancelled")
        logger.info("job cancelled")

    def lost(self, job: Job, why: str, status: JobStatus) -> None:
        """Log that a job's worker is gone, and what became of the job."""
        if status == "cancelled":
            # It was killed because it did not stop in time: that is no trouble of the machine.
            self.cancelled(job)
            return
        self._in_trouble("worker_lost")
        self._traces.end(job.id, status, "worker_lost")
        logger.warning("job lost its worker", extra={"reason": why, "status": status})

    def not_started(self, job: Job, why: str, status: JobStatus) -> None:
        """Log that no worker could be started for a job, and what became of the job."""
        self._traces.end(job.id, status)
        self.worker_failed(why)

    def worker_failed(self, why: str) -> None:
        """Log that a worker died while starting."""
        self._in_trouble("worker_lost")
        logger.warning("the worker could not be started", extra={"reason": why})

    def taken_back(self, job: Job) -> None:
        """Log what became of a job that a server which is gone left running."""
        with self.about(job):
            logger.warning("job was left running and is taken back", extra={"status": job.status})

    def given_back(self, moved: Mapping[str, JobStatus]) -> None:
        """Log what became of the jobs this process ran when it stopped leading."""
        for job_id, status in moved.items():
            self._traces.end(job_id, status)
            logger.info("job given back", extra={"job_id": job_id, "status": status})
        self._traces.forget()

    def _in_trouble(self, code: str) -> None:
        self._trouble = (code, time.monotonic())


def _wait_s(job: Job) -> float | None:
    """Return the seconds from the submit to the newest claim."""
    if job.started_at is None:
        return None
    claimed, created = (datetime.fromisoformat(text) for text in (job.started_at, job.created_at))
    return (claimed - created).total_seconds()


# --- spans of a job ----------------------------------------------------------------------------


@dataclass
class _OpenSpans:
    """The open spans of one job."""

    job: Span
    steps_per_pass: int
    waits_since_ns: int
    attempt: Span | None = None
    phase: Span | None = None
    phase_name: Phase | None = None


class JobTraces:
    """The spans of the jobs that this process draws; none where nothing is exported."""

    def __init__(self) -> None:
        self._open: dict[str, _OpenSpans] = {}

    def begin(self, job: Job) -> None:
        """Begin an attempt of a job that was just claimed."""
        now_ns = time.time_ns()
        spans = self._open.get(job.id) or self._begin_job(job)
        if spans is None:
            return
        inside = trace.set_span_in_context(spans.job)
        wait = _tracer().start_span("flux.wait", inside, start_time=spans.waits_since_ns)
        wait.end(now_ns)
        spans.attempt = _tracer().start_span(
            "flux.attempt", inside, attributes={"flux.attempt": job.attempt}, start_time=now_ns
        )

    def progress(self, event: Progress) -> None:
        """Take an event of a running job: a phase or a step ends, the next begins."""
        spans = self._open.get(event.job_id)
        if spans is None or spans.attempt is None:
            return
        if event.phase == "denoising":
            self._step(spans, event.step)
        elif event.phase != spans.phase_name:
            self._turn(spans, event.phase)

    def saving(self, job_id: str) -> None:
        """Note that a job's images are being saved now."""
        spans = self._open.get(job_id)
        if spans is not None:
            self._turn(spans, "saving")

    def drawn(self, job_id: str, load_s: float, draw_s: float) -> None:
        """Note that the worker is done with a job, and how long it took by its own clock."""
        spans = self._open.get(job_id)
        if spans is not None and spans.attempt is not None:
            self._turn(spans, None)
            spans.attempt.set_attributes({"flux.load_s": load_s, "flux.draw_s": draw_s})

    def end(self, job_id: str, status: JobStatus, code: str | None = None) -> None:
        """End an attempt; the job's own span as well, unless the job waits for another one here."""
        spans = self._open.get(job_id)
        if spans is None:
            return
        self._turn(spans, None)
        for span in (spans.attempt, spans.job if status in FINAL else None):
            if span is not None:
                span.set_attribute("flux.status", status)
                if code is not None:
                    mark_failed(span, code)
        if spans.attempt is not None:
            spans.attempt.end()
            spans.attempt = None
        spans.waits_since_ns = time.time_ns()
        if status in FINAL:
            spans.job.end()
            del self._open[job_id]

    def forget(self) -> None:
        """End every span: this process no longer leads, and another may draw what waits."""
        for job_id, spans in list(self._open.items()):
            self.end(job_id, "queued")
            spans.job.set_attribute("flux.status", "queued")
            spans.job.end()
        self._open.clear()

    def _begin_job(self, job: Job) -> _OpenSpans | None:
        context = None
        if job.traceparent is not None:
            context = TraceContextTextMapPropagator().extract({_HEADER: job.traceparent})
        created_ns = int(datetime.fromisoformat(job.created_at).timestamp() * 1e9)
        span = _tracer().start_span(
            "flux.job", context, attributes=job_attributes(job), start_time=created_ns
        )
        if not span.is_recording():
            return None
        self._open[job.id] = _OpenSpans(span, job.plan.steps_drawn, created_ns)
        return self._open[job.id]

    def _step(self, spans: _OpenSpans, done: int) -> None:
        """Take `done` finished steps; a pass begins with an event of its own, before its first."""
        ends_pass = spans.phase_name == "denoising" and done % spans.steps_per_pass == 0
        self._turn(spans, None if ends_pass else "denoising")
        if not ends_pass and spans.phase is not None:
            spans.phase.set_attribute("flux.step", done + 1)

    def _turn(self, spans: _OpenSpans, phase: Phase | None) -> None:
        """End the current phase's span and begin that of `phase`."""
        now_ns = time.time_ns()
        if spans.phase is not None:
            spans.phase.end(now_ns)
        spans.phase, spans.phase_name = None, phase
        if phase is not None and spans.attempt is not None:
            inside = trace.set_span_in_context(spans.attempt)
            name = _SPAN_OF_PHASE[phase]
            spans.phase = _tracer().start_span(name, inside, start_time=now_ns)


# --- the span of a submit, and what ties a job to it -------------------------------------------


@contextmanager
def submit_span() -> Iterator[Span]:
    """Trace a submit; the job stored inside takes `current_traceparent` along."""
    with _tracer().start_as_current_span(
        "flux.submit", record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except FluxMcpError as error:
            # The code without the text: that may quote the request.
            mark_failed(span, error.code)
            raise


def current_traceparent() -> str | None:
    """Return the current span as a W3C `traceparent`; `None` without one.

    A trace that a client began is handed on even where nothing is exported here.
    """
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_HEADER)


def trace_id_of(job: Job) -> str | None:
    """Return the trace a job belongs to, as log lines name it."""
    # version-traceid-parentid-flags: www.w3.org/TR/trace-context/#traceparent-header
    return None if job.traceparent is None else job.traceparent.split("-")[1]


def job_attributes(job: Job) -> dict[str, str | int]:
    """Return the attributes of a job's spans."""
    plan = job.plan
    return {
        "flux.job_id": job.id,
        "flux.kind": job.kind,
        "flux.model": job.model,
        "flux.precision": plan.precision,
        "flux.width_px": plan.width,
        "flux.height_px": plan.height,
        "flux.steps": plan.steps_drawn,
        "flux.count": len(plan.seeds),
    }


def _tracer() -> Tracer:
    return trace.get_tracer("flux_mcp", __version__)
