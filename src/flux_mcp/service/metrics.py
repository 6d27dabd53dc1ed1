"""Metrics: what Prometheus scrapes from this process.

Jobs that have ended are counted from the database, whichever process ran them; what stands now,
workers, queue and HTTP requests, is read when it is scraped. Imported by the first scrape: most
processes never see one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flux_mcp import __version__
from flux_mcp.errors import StorageError
from flux_mcp.jobs.executor import ExecutorState
from flux_mcp.jobs.job import utc_now
from flux_mcp.jobs.queue import EndedJob, UnfinishedJobs
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.observability.traffic import HttpTraffic
from flux_mcp.storage.database import BUSY_TIMEOUT_MS

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long the database may take; Prometheus gives up after 10 s (`scrape_timeout`)."""
OVERLAP = timedelta(seconds=2 * BUSY_TIMEOUT_MS / 1000)
"""Jobs are looked for from this long before the newest one known: a process stamps the end of a job
before its commit, which may wait for other writers as long as `BUSY_TIMEOUT_MS`."""

WAIT_BUCKETS_S = (0.1, 0.5, 1, 2, 5, 10, 20, 45, 60, 120, 240, 600, 1800, 3600)
"""Among them the moments that matter to callers: 45 s is the usual `wait_s`, clients cut a call off
at 60 to 240 s."""
RENDER_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 45, 60, 120, 240, 600, 1800)
"""From micro on a CPU (tenths of a second) over a 4-step model on a large GPU (a second or two) to
a 12-billion-parameter model that does not fit into its GPU (minutes)."""
LOAD_BUCKETS_S = (0.1, 0.5, 1, 2, 5, 10, 20, 45, 60, 120, 240)
"""From micro (tenths) over 20 to 60 GB from a fast disk (tens) to the same from a slow one."""


@dataclass(frozen=True)
class Sources:
    """Where the numbers come from."""

    jobs: Callable[[str], Awaitable[tuple[Sequence[EndedJob], Sequence[UnfinishedJobs]]]]
    """The jobs that ended at a moment or later, and those that have not ended."""
    state: Callable[[], ExecutorState]
    traffic: HttpTraffic
    since: str
    """Jobs that ended before this moment are not counted: when this process started."""


class Metrics:
    """Answers scrapes."""

    def __init__(self, sources: Sources) -> None:
        # Else every counter and histogram has a second series: when it was first counted.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # 0.26 annotates the rest
        self._sources = sources
        self._registry = CollectorRegistry()
        self._jobs = _JobCounters(self._registry)
        self._seen = _Seen(sources.since)
        self._now = _Now(sources.state, sources.traffic)
        self._registry.register(self._now)
        ProcessCollector(registry=self._registry)
        self._scraping = asyncio.Lock()

    async def scrape(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and the content type of that.

        A database that does not answer in time leaves the jobs as they were counted last, and sets
        `flux_mcp_database_up` to 0.
        """
        # One at a time: two at once would count the same jobs twice.
        async with self._scraping:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    now = utc_now()
                    ended, standing = await self._sources.jobs(self._seen.look_from)
            except (StorageError, TimeoutError) as error:
                logger.warning("metrics without the database", exc_info=error)
                self._now.standing = None
            else:
                for job in self._seen.new(ended):
                    self._jobs.count(job)
                self._now.standing, self._now.moment = standing, now
            text = await asyncio.to_thread(generate_latest, self._registry)
        return text, CONTENT_TYPE_LATEST


class _Seen:
    """Which ended jobs are counted. Remembers only as many as can come up again."""

    def __init__(self, since: str) -> None:
        self.look_from = since
        """Look for jobs that ended at this moment or later."""
        self._counted: frozenset[int] = frozenset()

    def new(self, found: Sequence[EndedJob]) -> Iterator[EndedJob]:
        """Yield what was not counted yet of everything that ended since `look_from`."""
        before, self._counted = self._counted, frozenset(job.seq for job in found)
        if found:
            newest = max(datetime.fromisoformat(job.finished_at) for job in found)
            self.look_from = max(
                self.look_from, (newest - OVERLAP).isoformat(timespec="microseconds")
            )
        yield from (job for job in found if job.seq not in before)


class _JobCounters:
    """What ended jobs add up to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by_model = ("kind", "model")
        self._ended = Counter(
            "flux_mcp_jobs_ended",
            "Jobs that ended since this process started, whichever process ran them.",
            (*by_model, "status"),
            registry=registry,
        )
        self._failed = Counter(
            "flux_mcp_jobs_failed",
            "Jobs that failed, by the code of their error.",
            ("kind", "code"),
            registry=registry,
        )
        self._steps = Counter(
            "flux_mcp_steps",
            "Denoising steps of completed jobs; over the sum of the render seconds: steps per "
            "second.",
            by_model,
            registry=registry,
        )
        self._wait = Histogram(
            "flux_mcp_job_wait_seconds",
            "From the submit of a completed job to its (last) start.",
            ("kind",),
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._load = Histogram(
            "flux_mcp_job_load_seconds",
            "Loading weights for a completed job; almost nothing where they were loaded already.",
            by_model,
            buckets=LOAD_BUCKETS_S,
            registry=registry,
        )
        self._render = Histogram(
            "flux_mcp_job_render_seconds",
            "In the pipeline, for all images of a completed job.",
            by_model,
            buckets=RENDER_BUCKETS_S,
            registry=registry,
        )

    def count(self, job: EndedJob) -> None:
        """Add one job."""
        self._ended.labels(job.kind, job.model, job.status).inc()
        if job.status == "failed":
            self._failed.labels(job.kind, job.code or "internal").inc()
        if job.status != "completed":
            return
        self._steps.labels(job.kind, job.model).inc(job.total_steps)
        if job.started_at is not None:
            self._wait.labels(job.kind).observe(_seconds(job.created_at, job.started_at))
        for histogram, seconds in ((self._load, job.load_s), (self._render, job.draw_s)):
            if seconds is not None:
                histogram.labels(job.kind, job.model).observe(seconds)


class _Now(Collector):
    """What is read off at the moment of a scrape: queue, worker, memory, traffic."""

    def __init__(self, state: Callable[[], ExecutorState], traffic: HttpTraffic) -> None:
        self._state = state
        self._traffic = traffic
        self.standing: Sequence[UnfinishedJobs] | None = ()
        """Unfinished jobs; `None` while the database does not answer."""
        self.moment = ""
        """When that was."""

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also those that have no sample now: so the documents know them."""
        yield _gauge("build_info", "Always 1; the version of this server.", ["version"]).with_(
            [__version__], 1
        )
        yield from self._queue()
        yield from self._worker()
        yield _gauge(
            "http_requests_in_flight", "HTTP requests being answered, open streams too."
        ).with_([], self._traffic.in_flight)
        refused = CounterMetricFamily(
            "flux_mcp_http_requests_refused",
            "Requests not admitted, by the code of their error.",
            labels=["code"],
        )
        for code, times in self._traffic.refusals.items():
            refused.add_metric([code], times)
        yield refused

    def _queue(self) -> Iterator[Metric]:
        yield _gauge("database_up", "Whether the database answered this scrape.").with_(
            [], self.standing is not None
        )
        queued = _gauge("jobs_queued", "Jobs that wait.", ["kind"])
        running = _gauge("jobs_running", "Jobs that run: loading to saving.", ["kind"])
        oldest = _gauge(
            "queue_oldest_wait_seconds", "How long the oldest waiting job has waited; 0 if none."
        )
        if self.standing is not None:
            for family, status in ((queued, "queued"), (running, "running")):
                found = {one.kind: one.jobs for one in self.standing if one.status == status}
                for kind in KIND_NAMES:
                    family.with_([kind], found.get(kind, 0))
            waiting = [one.oldest_at for one in self.standing if one.status == "queued"]
            oldest.with_([], _seconds(min(waiting), self.moment) if waiting else 0)
        yield from (queued, running, oldest)

    def _worker(self) -> Iterator[Metric]:
        state = self._state()
        yield _gauge("leads", "Whether this process holds the GPU lock and runs jobs.").with_(
            [], state.leads
        )
        up = _gauge("worker_up", "Whether the worker process runs.", ["worker"])
        starts = CounterMetricFamily(
            "flux_mcp_worker_starts",
            "Worker processes started since this process leads.",
            labels=["worker"],
        )
        each = ["worker", "pipeline"]
        loaded = _gauge("pipeline_loaded", "Always 1; one for each that is.", each)
        waiting = _gauge("pipeline_waiting", "Always 1; one for each in host memory.", each)
        resident = _gauge(
            "worker_resident_memory_bytes", "Host memory of the worker process.", ["worker"]
        )
        allocated = _gauge(
            "gpu_memory_allocated_bytes",
            "Memory of the GPU in live tensors, when the worker last ended a job.",
            ["worker", "device"],
        )
        reserved = _gauge(
            "gpu_memory_reserved_bytes",
            "Memory of the GPU that the worker keeps from other programs, at that time.",
            ["worker", "device"],
        )
        total = _gauge("gpu_memory_total_bytes", "Memory of the GPU.", ["worker", "device"])
        for worker in state.workers:
            name = [worker.worker_id]
            up.with_(name, worker.is_running)
            starts.add_metric(name, worker.starts)
            for gauge, pipelines in ((loaded, worker.loaded), (waiting, worker.waiting)):
                for pipeline in pipelines:
                    gauge.with_([*name, pipeline], 1)
            if worker.pid is not None:
                resident.with_(name, _resident_bytes(worker.pid))
            if worker.memory is not None and worker.environment is not None:
                gpu = [*name, worker.environment.device]
                allocated.with_(gpu, worker.memory.allocated_bytes)
                reserved.with_(gpu, worker.memory.reserved_bytes)
                total.with_(gpu, worker.memory.total_bytes)
        yield from (up, starts, loaded, waiting, resident, allocated, reserved, total)


class _Gauge(GaugeMetricFamily):
    """A gauge that is filled where it is named."""

    def with_(self, labels: Sequence[str], value: float) -> "_Gauge":
        """Add a sample; return the gauge."""
        self.add_metric(labels, value)
        return self


def _gauge(name: str, about: str, labels: Sequence[str] = ()) -> _Gauge:
    return _Gauge(f"flux_mcp_{name}", about, labels=labels)


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0  # it ended between the look and the question


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
