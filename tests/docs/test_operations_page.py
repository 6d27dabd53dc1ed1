"""What docs/operations.md says of log lines, spans and metrics is what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flux_mcp.jobs.executor import ExecutorState
from flux_mcp.jobs.fleet import WorkerInfo
from flux_mcp.jobs.queue import EndedJob, UnfinishedJobs
from flux_mcp.observability.traffic import HttpTraffic
from flux_mcp.service.metrics import Metrics, Sources
from flux_mcp.worker_protocol.messages import Environment, Memory

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
SOURCE = "".join(path.read_text("utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
MOMENT = "2026-01-01T00:00:00.000000+00:00"


def rows(heading: str) -> list[list[str]]:
    body = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in body.splitlines()
        if line.startswith("| `")
    ]


def ended(seq: int, status: str, code: str | None) -> EndedJob:
    return EndedJob(seq, "text2img", "micro", status, code, 4, 0.1, 0.2, MOMENT, MOMENT, MOMENT)


@pytest.fixture
async def scraped() -> dict[str, Any]:
    """One scrape of a server in which every metric has a sample."""
    environment = Environment(
        torch="2",
        diffusers="0",
        transformers="5",
        device="cuda:0",
        device_name="gpu",
        threads=1,
        platform="test",
    )
    memory = Memory(allocated_bytes=1, reserved_bytes=2, total_bytes=3)
    loaded, waiting = ("text2img/micro",), ("fill/micro",)
    worker = WorkerInfo("worker-0", True, loaded, environment, 1, memory, 1, waiting)  # noqa: FBT003
    traffic = HttpTraffic()
    traffic.refused("host_refused")

    async def jobs(_since: str) -> Any:
        done = (ended(1, "completed", None), ended(2, "failed", "storage"))
        return done, (UnfinishedJobs("text2img", "queued", 1, MOMENT),)

    state = ExecutorState(leads=True, workers=(worker,))
    text, _ = await Metrics(Sources(jobs, lambda: state, traffic, since="")).scrape()
    families = list(text_string_to_metric_families(text.decode()))
    return {family.name: family for family in families if family.name.startswith("flux_mcp_")}


@pytest.mark.anyio
async def test_the_table_of_metrics_is_what_a_scrape_says(scraped: dict[str, Any]) -> None:
    said = []
    for name, family in scraped.items():
        assert family.samples, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        suffix = "_total" if family.type == "counter" else ""
        said.append(
            [
                f"`{name}{suffix}`",
                family.type,
                ", ".join(f"`{label}`" for label in sorted(labels)),
                family.documentation,
            ]
        )
    assert rows("Metrics") == sorted(said)


@pytest.mark.anyio
async def test_rules_name_metrics_that_exist(scraped: dict[str, Any]) -> None:
    samples = {sample.name for family in scraped.values() for sample in family.samples}
    named = set(re.findall(r"\bflux_mcp_\w+", "".join(re.findall(r"expr: .*", PAGE))))
    assert named
    assert named <= samples


def test_every_log_line_of_the_page_is_written_somewhere() -> None:
    for message, *_ in rows("Log"):
        assert f'"{message.strip("`")}"' in SOURCE, message


def test_every_span_and_attribute_of_the_page_is_made_somewhere() -> None:
    traces = PAGE.split("\n## Traces\n")[1].split("\n## ")[0]
    named = set(re.findall(r"\bflux\.\w+", traces))
    made = set(re.findall(r'"(flux\.[a-z]\w*)"', SOURCE))
    assert named == made
