"""Spans of jobs: from the call that submits one to the saving of its pictures.

    tools/call flux_generate           the SDK's span
    └── flux.submit                    stored with the job as `traceparent`
        └── flux.job                   created to ended, in whichever process draws it
            ├── flux.wait              in the queue; again when a lost worker sent it back there
            └── flux.attempt           claimed to ended
                ├── flux.load, flux.encode, flux.decode, flux.save
                └── flux.step          one for each denoising step

Made in the executor from the events it sees anyway: the worker knows nothing of tracing. Only the
API is used, which does nothing until telemetry.py installs an exporter. Spans name ids, sizes and
codes, never words of a request.

`JobTraces` owns the open spans of the jobs of this process.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flux_mcp import __version__
from flux_mcp.errors import FluxMcpError
from flux_mcp.jobs.job import FINAL, Job, JobStatus
from flux_mcp.requests.messages import Phase, Progress

_HEADER: Final = "traceparent"
_SPAN_OF_PHASE: dict[Phase, str] = {
    "loading": "flux.load",
    "encoding": "flux.encode",
    "denoising": "flux.step",
    "decoding": "flux.decode",
    "saving": "flux.save",
}


def _tracer() -> Tracer:
    return trace.get_tracer("flux_mcp", __version__)


# --- submitting --------------------------------------------------------------------------------


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
    """Return where the current span belongs, as W3C Trace Context writes it; `None` without one.

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
    """Return what spans say of a job."""
    plan = job.plan
    return {
        "flux.job_id": job.id,
        "flux.kind": job.kind,
        "flux.model": job.model,
        "flux.precision": plan.precision,
        "flux.width_px": plan.width,
        "flux.height_px": plan.height,
        "flux.steps": plan.steps,
        "flux.count": len(plan.seeds),
    }


def mark_failed(span: Span, code: str) -> None:
    """Say with which of our codes a span failed.

    In the field of the conventions, and in one of ours: the SDK puts a word of its own into that of
    a tool call (mcp 2.3, server/_otel.py).
    """
    span.set_attributes({"error.type": code, "flux.error_code": code})
    span.set_status(StatusCode.ERROR)


# --- drawing -----------------------------------------------------------------------------------


@dataclass
class _Open:
    """The open spans of one job."""

    job: Span
    steps_per_pass: int
    waits_since_ns: int
    attempt: Span | None = None
    phase: Span | None = None
    phase_name: Phase | None = None


class JobTraces:
    """The spans of the jobs that this process draws. Of no effect for jobs nobody traces."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

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
        """Note that a job's pictures are being saved now."""
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

    def _begin_job(self, job: Job) -> _Open | None:
        context = None
        if job.traceparent is not None:
            context = TraceContextTextMapPropagator().extract({_HEADER: job.traceparent})
        created_ns = int(datetime.fromisoformat(job.created_at).timestamp() * 1e9)
        span = _tracer().start_span(
            "flux.job", context, attributes=job_attributes(job), start_time=created_ns
        )
        if not span.is_recording():
            return None
        self._open[job.id] = _Open(span, job.plan.steps, created_ns)
        return self._open[job.id]

    def _step(self, spans: _Open, done: int) -> None:
        """Take `done` finished steps; a pass begins with an event of its own, before its first."""
        ends_pass = spans.phase_name == "denoising" and done % spans.steps_per_pass == 0
        self._turn(spans, None if ends_pass else "denoising")
        if not ends_pass and spans.phase is not None:
            spans.phase.set_attribute("flux.step", done + 1)

    def _turn(self, spans: _Open, phase: Phase | None) -> None:
        """End the current phase's span and begin that of `phase`."""
        now_ns = time.time_ns()
        if spans.phase is not None:
            spans.phase.end(now_ns)
        spans.phase, spans.phase_name = None, phase
        if phase is not None and spans.attempt is not None:
            inside = trace.set_span_in_context(spans.attempt)
            name = _SPAN_OF_PHASE[phase]
            spans.phase = _tracer().start_span(name, inside, start_time=now_ns)
