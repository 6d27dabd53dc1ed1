"""The processes of these tests: each server and each run of the suite is started once."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.node import Inspector, Suite, SuiteRun, find_node
from tests.conformance.scenarios import REVISIONS
from tests.conformance.servers import listening


@pytest.fixture(scope="session")
def node() -> str:
    return find_node()


@pytest.fixture(scope="session")
def suite(node: str) -> Suite:
    return Suite(node)


@pytest.fixture(scope="session")
def inspector(node: str, tmp_path_factory: pytest.TempPathFactory) -> Inspector:
    return Inspector(node, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def product(data_dir: Path) -> Iterator[str]:
    """The address of `flux-mcp serve --transport http`; the suite can send no token."""
    options = ["--transport", "http", "--port", "0", "--loopback-without-token"]
    with listening(["serve", *options, "--data-dir", str(data_dir)]) as address:
        yield address


@pytest.fixture(scope="session")
def fixtures() -> Iterator[str]:
    """The address of the conformance server."""
    with listening(["--port", "0"], module="tests.conformance.server") as address:
        yield address


@pytest.fixture(scope="session")
def product_runs(
    suite: Suite, product: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SuiteRun]:
    """Every scenario of a revision against the product, those that cannot pass as well."""
    return {
        revision: suite.run(
            f"{product}/mcp",
            tmp_path_factory.mktemp("product"),
            *("--suite", "all", "--spec-version", revision),
        )
        for revision in REVISIONS
    }


@pytest.fixture(scope="session")
def required(
    suite: Suite, fixtures: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], SuiteRun]:
    """Run a requirement set against the conformance server, once."""

    @cache
    def run(revision: str) -> SuiteRun:
        results = tmp_path_factory.mktemp("required")
        return suite.run(f"{fixtures}/mcp", results, "--requirements", revision)

    return run


@pytest.fixture(scope="session")
def server_variables() -> list[str]:
    """What a server that the Inspector starts needs: it hands on little of its environment."""
    names = ("PYTHONPATH", "FLUX_MCP_TORCH_THREADS", "OMP_NUM_THREADS")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return [word for pair in given for word in ("-e", pair)]
