"""Tracing with OpenTelemetry: the exporter of this process, and the attributes of failed spans.

OpenTelemetry keeps one tracer provider for each process, which this module installs where settings
or standard variables ask for one; without it every span is a no-op, and neither the SDK nor an
exporter is imported. The SDK reads the rest of its standard variables itself: headers, time-outs,
certificates, sampler, batch size, resource. The spans of jobs are in jobs/journal.py.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from flux_mcp import __version__
from flux_mcp.errors import TracingUnavailableError
from flux_mcp.settings.environment import traces_are_asked_for
from flux_mcp.settings.installation import install_command
from flux_mcp.settings.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

_EXPORTER = ("opentelemetry-sdk>=1.35", "opentelemetry-exporter-otlp-proto-http>=1.35")
"""The packages of the extra `otel`."""
_TRACES_PATH = "/v1/traces"
"""Where a collector takes traces below its endpoint (opentelemetry.io/docs/specs/otlp)."""


def start_tracing(settings: Settings) -> None:
    """Install the exporter if settings or OpenTelemetry's own variables ask for one.

    Raises:
        TracingUnavailableError: `otlp_endpoint` is set, but the packages are not installed. Where
            only a standard variable asks, which may be meant for other programs, that is a warning.
    """
    if settings.otlp_endpoint is None and not traces_are_asked_for():
        return
    try:
        _install(settings.otlp_endpoint)
    except ImportError as error:
        missing = TracingUnavailableError(
            f"Traces are to be exported, but {error.name} is not installed.",
            f"Install it: {install_command(*_EXPORTER)}. Or unset the endpoint.",
        )
        if settings.otlp_endpoint is not None:
            raise missing from error
        logger.warning("nothing is traced", extra={"code": missing.code, "reason": str(missing)})


def stop_tracing() -> None:
    """Send what is not sent yet. For a process that leaves without Python's own end."""
    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shutdown is not None:
        shutdown()


def mark_call(code: str, job_id: str | None) -> None:
    """Set the outcome of a tool call on its span, the current one: the SDK began it.

    Args:
        code: `ok`, or the code of the error it was answered with.
        job_id: The job it is about, if any.
    """
    span = trace.get_current_span()
    if job_id is not None:
        span.set_attribute("flux.job_id", job_id)
    if code != "ok":
        mark_failed(span, code)


def mark_failed(span: Span, code: str) -> None:
    """Set the error code a span failed with, and its status.

    In the attribute of the semantic conventions and in one of ours: the SDK writes its own value
    into the first for a tool call (mcp 2.3, server/_otel.py).
    """
    span.set_attributes({"error.type": code, "flux.error_code": code})
    span.set_status(StatusCode.ERROR)


def _install(endpoint: str | None) -> None:
    # Imported here: a twentieth of a second that only those pay who trace.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import (  # noqa: PLC0415
        OTELResourceDetector,
        Resource,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    ours = {"service.name": "flux-mcp", "service.version": __version__}
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what we say of ourselves.
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    to = None if endpoint is None else endpoint.rstrip("/") + _TRACES_PATH
    exporter = _without_texts(OTLPSpanExporter(endpoint=to))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    logger.info("traces are exported", extra={"endpoint": to or "of the standard variables"})


def _without_texts(inner: "SpanExporter") -> "SpanExporter":
    """Return an exporter that sends no text of an exception: that may quote what a user wrote.

    Our own spans have none; the SDK's spans of requests do (mcp 2.3, server/_otel.py).
    """
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415
    from opentelemetry.trace import Status  # noqa: PLC0415

    class WithoutTexts(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return inner.export([_bare(span) for span in spans])

        def shutdown(self) -> None:
            inner.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return inner.force_flush(timeout_millis)

    def _bare(span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=span.attributes,
            links=span.links,
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    return WithoutTexts()
