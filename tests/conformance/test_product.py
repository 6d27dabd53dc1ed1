"""The product's own server passes every scenario of the suite that needs no fixtures."""

import pytest
from mcp import Client

from flux_mcp.server.tools import TOOLS
from tests.conformance.node import Suite, SuiteRun
from tests.conformance.scenarios import (
    FIXTURES,
    MODERN,
    NOT_SERVED,
    PRODUCT,
    REVISIONS,
    UNTESTABLE,
)

RUNS = [(scenario, revision) for scenario, under in PRODUCT.items() for revision in under]


@pytest.mark.parametrize(("scenario", "revision"), RUNS)
def test_the_product_passes(
    product_runs: dict[str, SuiteRun], scenario: str, revision: str
) -> None:
    run = product_runs[revision]
    assert run.failures(scenario) == {}
    statuses = {check.status for check in run.checks[scenario]}
    assert "SUCCESS" in statuses
    assert statuses <= {"SUCCESS", "INFO"}, run.checks[scenario]


def test_of_the_stateless_scenario_only_what_needs_a_fixture_fails(
    product_runs: dict[str, SuiteRun],
) -> None:
    failures = product_runs[MODERN].failures("server-stateless")
    assert failures.keys() == UNTESTABLE.keys()
    for check, fixture in UNTESTABLE.items():
        assert "Not testable" in failures[check]
        assert fixture in failures[check]


def test_every_scenario_of_the_suite_has_its_place(suite: Suite) -> None:
    listed = suite.scenarios()
    assert listed.keys() == PRODUCT.keys() | FIXTURES.keys() | NOT_SERVED.keys()
    assert not (PRODUCT.keys() & FIXTURES.keys())
    for scenario, revisions in PRODUCT.items():
        assert frozenset(revisions) == listed[scenario] & frozenset(REVISIONS), scenario


@pytest.mark.anyio
async def test_the_product_serves_the_eight_tools_and_none_of_the_fixtures(product: str) -> None:
    async with Client(f"{product}/mcp") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        extensions = client.server_capabilities.extensions or {}
    assert tools == {row.name for row in TOOLS}
    assert not (extensions.keys() & set(NOT_SERVED.values()))
