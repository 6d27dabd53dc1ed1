"""The conformance server passes the requirement sets entirely, and every extension scenario."""

import re
from collections.abc import Callable

import pytest
from mcp import Client

from flux_mcp.server.tools import TOOLS
from tests.conformance.node import Suite, SuiteRun
from tests.conformance.scenarios import FIXTURES, LEAST_CHECKS, MODERN, REVISIONS

HANDLERS = ("logging/setLevel", "resources/subscribe", "resources/unsubscribe")
EXTENSIONS = [scenario for scenario in FIXTURES if scenario.startswith("tasks-")]
TOTAL = re.compile(r"^Total: (\d+) passed, (\d+) failed$", re.MULTILINE)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_requirement_set_passes_entirely(
    suite: Suite, required: Callable[[str], SuiteRun], revision: str
) -> None:
    run = required(revision)
    assert run.ended.code == 0, str(run.ended)
    failed = {scenario: run.failures(scenario) for scenario in run.checks}
    assert {scenario: found for scenario, found in failed.items() if found} == {}
    # The suite's own words agree with what it wrote down, and nothing was left out.
    total = TOTAL.search(run.ended.out)
    assert total is not None, str(run.ended)
    assert total.groups() == (str(run.count("SUCCESS")), "0")
    assert run.count("SUCCESS") >= LEAST_CHECKS[revision]
    assert run.checks.keys() >= suite.scenarios("--requirements", revision).keys()
    assert "expected failure" not in run.ended.out.lower()


@pytest.mark.parametrize("scenario", EXTENSIONS)
def test_an_extension_scenario_passes(required: Callable[[str], SuiteRun], scenario: str) -> None:
    run = required(MODERN)
    assert run.failures(scenario) == {}


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_every_fixture_a_scenario_needs_is_served(fixtures: str, mode: str) -> None:
    async with Client(f"{fixtures}/mcp", mode=mode) as client:
        served = {tool.name for tool in (await client.list_tools()).tools}
        assert served >= {row.name for row in TOOLS}
        served |= {prompt.name for prompt in (await client.list_prompts()).prompts}
        served |= {str(one.uri) for one in (await client.list_resources()).resources}
        templates = (await client.list_resource_templates()).resource_templates
        served |= {one.uri_template for one in templates}
    assert set(FIXTURES.values()) - set(HANDLERS) <= served
