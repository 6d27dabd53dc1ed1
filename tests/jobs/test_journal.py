"""Spans that nobody records: no state, and a client's trace is handed on all the same."""

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from flux_mcp.errors import UnknownModelError
from flux_mcp.jobs.journal import JobTraces, current_traceparent, submit_span, trace_id_of
from flux_mcp.worker_protocol.messages import Progress

from .factories import make_job

OF_A_CLIENT = SpanContext(
    trace_id=0xABC, span_id=0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
)


def test_without_an_exporter_a_job_leaves_nothing_behind_and_every_event_is_harmless() -> None:
    traces, job = JobTraces(), make_job(attempt=1)
    traces.begin(job)
    assert not traces._open
    traces.progress(
        Progress(job_id=job.id, attempt=1, seq=0, phase="denoising", step=1, total_steps=4)
    )
    traces.drawn(job.id, 0.0, 0.1)
    traces.saving(job.id)
    traces.end(job.id, "completed")
    traces.forget()
    assert not traces._open


def test_a_trace_that_a_client_began_is_stored_with_the_job_though_nothing_is_exported() -> None:
    assert current_traceparent() is None
    with trace.use_span(NonRecordingSpan(OF_A_CLIENT)), submit_span():
        handed_on = current_traceparent()
    assert handed_on == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert trace_id_of(make_job(traceparent=handed_on)) == f"{0xABC:032x}"
    assert trace_id_of(make_job()) is None


def test_an_error_passes_through_a_submit() -> None:
    with pytest.raises(UnknownModelError), submit_span():
        raise UnknownModelError("There is no such model.")
