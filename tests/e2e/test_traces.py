"""What a real collector gets from real servers: one tree from the tool call to the steps."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from flux_mcp.settings.environment import traces_are_asked_for

from .calls import FAST, SLOW, call, draws, is_final, job, job_until
from .collector import Collector, attributes, collecting
from .light import light_worker
from .observed import Start, starter

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX here"),
]

MARKER = "zanzibarquartz"
ASKED: dict[str, Any] = {**FAST, "prompt": f"a {MARKER} circle", "count": 2}
STEPS, PASSES = 4, 2
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@dataclass(frozen=True)
class Traced:
    """What two servers on one folder did, exported and logged, and are gone."""

    collector: Collector
    job_id: str
    """Drawn by the server that was asked."""
    elsewhere_id: str
    """Drawn by the other one."""
    log: list[str]
    """Of the server that draws."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(light_worker(holds=False), id="light worker"),
        pytest.param({}, id="worker", marks=pytest.mark.torture),
    ],
)
async def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Traced]:
    """One server draws two jobs, one of them for the other server, and refuses three calls."""
    start = starter(tmp_path_factory.mktemp("traced"))
    with collecting() as collector:
        ours = {
            "FLUX_MCP_OTLP_ENDPOINT": collector.endpoint,
            "FLUX_MCP_LOG_FORMAT": "json",
            **request.param,
        }
        standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": "two"}
        async with start(**ours, **OFTEN) as server:
            answer = await job(server.client, "flux_generate", **ASKED, wait_s=200)
            for arguments in (
                {"prompt": MARKER, "model": MARKER},
                {"prompt": MARKER, "width": MARKER, "height": MARKER},
            ):
                assert (await call(server.client, "flux_generate", **arguments)).is_error
            with pytest.raises(Exception, match=MARKER):
                await server.client.get_prompt("product-shot", {"subject": "a cup", MARKER: MARKER})
            # Exported while the server runs, not only at its end.
            check_tree_below_submit(await trace_of(collector, answer.job_id or ""))
            async with start(**standard, **OFTEN) as other:
                elsewhere = await job(other.client, "flux_generate", **ASKED, wait_s=200)
                assert not other.process.children()
        yield Traced(collector, answer.job_id or "", elsewhere.job_id or "", server.lines())


def ended(job_id: str) -> Any:
    def is_there(spans: list[Span]) -> bool:
        jobs = [span for span in spans if span.name == "flux.job"]
        return job_id in [attributes(span)["flux.job_id"] for span in jobs]

    return is_there


async def trace_of(collector: Collector, job_id: str) -> list[Span]:
    """Return the spans of the trace that a job's own span is in."""
    spans = await asyncio.to_thread(collector.spans_when, ended(job_id))
    own = next(
        span
        for span in spans
        if span.name == "flux.job" and attributes(span)["flux.job_id"] == job_id
    )
    return [span for span in spans if span.trace_id == own.trace_id]


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def one(spans: list[Span], name: str) -> Span:
    (found,) = named(spans, name)
    return found


def check_tree_below_submit(spans: list[Span]) -> Span:
    """Check the part of the tree that every completed job has; return its root."""
    submit, own, attempt = (one(spans, f"flux.{name}") for name in ("submit", "job", "attempt"))
    wait = one(spans, "flux.wait")
    assert own.parent_span_id == submit.span_id
    assert {attempt.parent_span_id, wait.parent_span_id} == {own.span_id}
    phases = {
        name: named(spans, f"flux.{name}") for name in ("load", "encode", "step", "decode", "save")
    }
    assert {name: len(found) for name, found in phases.items()} == {
        "load": 1,
        "encode": 1,
        "step": STEPS * PASSES,
        "decode": PASSES,
        "save": 1,
    }
    inside = [span for found in phases.values() for span in found]
    assert {span.parent_span_id for span in inside} == {attempt.span_id}
    # Phases lie inside the attempt, and none begins before the one before it has ended.
    inside.sort(key=lambda span: span.start_time_unix_nano)
    ends = [attempt.start_time_unix_nano]
    for span in inside:
        assert ends[-1] <= span.start_time_unix_nano <= span.end_time_unix_nano
        ends.append(span.end_time_unix_nano)
    assert ends[-1] <= attempt.end_time_unix_nano <= own.end_time_unix_nano
    assert [attributes(span)["flux.step"] for span in inside if span.name == "flux.step"] == list(
        range(1, STEPS * PASSES + 1)
    )
    assert (wait.start_time_unix_nano, wait.end_time_unix_nano) == (
        own.start_time_unix_nano,
        attempt.start_time_unix_nano,
    )
    facts = attributes(own)
    assert facts["flux.status"] == "completed"
    assert (facts["flux.kind"], facts["flux.model"]) == ("text2img", "micro")
    assert (facts["flux.width_px"], facts["flux.height_px"]) == (64, 64)
    assert (facts["flux.steps"], facts["flux.count"]) == (STEPS, PASSES)
    assert facts["flux.precision"]
    assert attributes(attempt)["flux.attempt"] == 1
    return submit


async def test_a_call_and_the_steps_of_its_job_are_one_tree(traced: Traced) -> None:
    # The call's span ends after the job's: it is there when the server is gone.
    spans = await trace_of(traced.collector, traced.job_id)
    submit = check_tree_below_submit(spans)
    called = one(spans, "tools/call flux_generate")
    assert submit.parent_span_id == called.span_id
    assert attributes(called)["flux.job_id"] == traced.job_id


async def test_the_tree_is_whole_when_another_process_draws(traced: Traced) -> None:
    spans = await trace_of(traced.collector, traced.elsewhere_id)
    submit = check_tree_below_submit(spans)
    assert submit.parent_span_id == one(spans, "tools/call flux_generate").span_id
    # What each calls itself: as we do, or as a standard variable says.
    assert traced.collector.services == {"flux-mcp", "two"}


@pytest.mark.torture
async def test_a_job_that_loses_its_worker_has_two_attempts_in_one_job(tmp_path: Path) -> None:
    with collecting() as collector:
        await lose_a_worker(starter(tmp_path), collector)


async def lose_a_worker(start: Start, collector: Collector) -> None:
    variables = {"FLUX_MCP_OTLP_ENDPOINT": collector.endpoint, **OFTEN}
    async with start(**variables, **light_worker(holds=True)) as server:
        lost = await job(server.client, "flux_generate", **SLOW, wait_s=0)
        await job_until(server.client, lost.job_id or "", draws)
        server.worker().kill()
        await job_until(server.client, lost.job_id or "", lambda _: server.said("job started") == 2)
        await job_until(server.client, lost.job_id or "", draws)
        await call(server.client, "flux_cancel_job", job_id=lost.job_id)
        await job_until(server.client, lost.job_id or "", is_final)
        spans = await trace_of(collector, lost.job_id or "")
    own = one(spans, "flux.job")
    attempts = sorted(named(spans, "flux.attempt"), key=lambda span: span.start_time_unix_nano)
    assert [attributes(span)["flux.attempt"] for span in attempts] == [1, 2]
    assert [attributes(span)["flux.status"] for span in attempts] == ["queued", "cancelled"]
    assert attributes(attempts[0])["error.type"] == "worker_lost"
    assert attempts[0].status.code == Status.STATUS_CODE_ERROR
    assert len(named(spans, "flux.wait")) == 2
    assert {span.parent_span_id for span in attempts} == {own.span_id}
    assert attributes(own)["flux.status"] == "cancelled"
    assert own.status.code != Status.STATUS_CODE_ERROR


async def test_no_word_of_a_user_is_in_any_span_and_refusals_have_their_code(
    traced: Traced,
) -> None:
    assert not [body for body in traced.collector.bodies if MARKER.encode() in body]
    spans = traced.collector.spans_when(
        lambda spans: bool(named(spans, "prompts/get product-shot"))
    )
    refused = [
        attributes(span).get("flux.error_code", "none")
        for span in named(spans, "tools/call flux_generate")
    ]
    assert sorted(refused) == ["invalid_size", "none", "none", "unknown_model"]
    submits = [attributes(span).get("error.type", "none") for span in named(spans, "flux.submit")]
    assert sorted(submits) == ["none", "none", "unknown_model"]
    failed = one(spans, "prompts/get product-shot")
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "")


async def test_the_log_names_the_trace_and_no_word_of_a_user(traced: Traced) -> None:
    assert not [line for line in traced.log if MARKER in line]
    spans = await trace_of(traced.collector, traced.job_id)
    trace_id = spans[0].trace_id.hex()
    of_the_job = [line for line in traced.log if traced.job_id in line]
    assert len(of_the_job) >= 4
    assert all(f'"trace_id": "{trace_id}"' in line for line in of_the_job)


def serve(data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start a server without a client: it ends at once."""
    return subprocess.run(
        [sys.executable, "-m", "flux_mcp", "serve"],
        env={**os.environ, "FLUX_MCP_DATA_DIR": str(data), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def without_sdk(tmp_path: Path) -> dict[str, str]:
    """An environment in which the SDK cannot be imported, as where the extra is missing."""
    folder = tmp_path / "hides"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
        "sys.modules['opentelemetry.exporter'] = None\n",
        encoding="utf-8",
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


def test_an_endpoint_without_the_packages_ends_the_command_with_what_to_install(
    tmp_path: Path, without_sdk: dict[str, str]
) -> None:
    ended = serve(tmp_path, FLUX_MCP_OTLP_ENDPOINT="http://127.0.0.1:4318", **without_sdk)
    assert ended.returncode == 1
    assert "[tracing_unavailable]" in ended.stderr
    assert "install 'opentelemetry-sdk>=1.35'" in ended.stderr
    assert ended.stdout == ""


def test_a_standard_variable_without_the_packages_is_a_warning(
    tmp_path: Path, without_sdk: dict[str, str]
) -> None:
    ended = serve(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318", **without_sdk)
    assert ended.returncode == 0
    assert "WARNING flux_mcp.observability.tracing: nothing is traced" in ended.stderr
    assert "install 'opentelemetry-sdk>=1.35'" in ended.stderr


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
NOT_ASKED_FOR = [
    {},
    {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
    {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
    {"OTEL_TRACES_EXPORTER": "console"},
]


@pytest.mark.parametrize(
    "variables",
    [
        *NOT_ASKED_FOR[:2],
        *(pytest.param(one, marks=pytest.mark.torture) for one in NOT_ASKED_FOR[2:]),
    ],
)
def test_a_server_that_nobody_asks_for_traces_imports_no_sdk(
    tmp_path: Path, without_sdk: dict[str, str], variables: dict[str, str]
) -> None:
    ended = serve(tmp_path, **variables, **without_sdk)
    assert ended.returncode == 0
    assert "traced" not in ended.stderr
    assert "exported" not in ended.stderr


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        *((variables, False) for variables in NOT_ASKED_FOR),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
    ],
)
def test_which_variables_ask_for_traces(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, asked: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_are_asked_for() == asked
