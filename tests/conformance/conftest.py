"""The processes of these tests: each server and each run of the suite is started once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
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


Started = Mapping[str, Mapping[str, Future[SuiteRun]]]
"""Runs of the suite by fixture and revision."""
RUNS: Mapping[str, tuple[str, Callable[[str], Sequence[str]]]] = {
    "product_runs": ("product", lambda revision: ["--suite", "all", "--spec-version", revision]),
    "required": ("fixtures", lambda revision: ["--requirements", revision]),
}
"""Fixtures that are runs of the suite, each with its server and the options for a revision."""


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """Begin every run that a test of this session waits for.

    A run mostly waits, so those against one server go on beside those against the other; the
    revisions follow each other, as both ask the same server.
    """
    asked = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    runs: dict[str, dict[str, Future[SuiteRun]]] = {}
    with ExitStack() as pools:
        for name in RUNS.keys() & asked:
            server, options = RUNS[name]
            url = f"{request.getfixturevalue(server)}/mcp"
            pool = pools.enter_context(ThreadPoolExecutor(max_workers=1))
            runs[name] = {
                revision: pool.submit(
                    suite.run, url, tmp_path_factory.mktemp(server), *options(revision)
                )
                for revision in REVISIONS
            }
        yield runs


@pytest.fixture(scope="session")
def product_runs(started: Started) -> dict[str, SuiteRun]:
    """Every scenario of a revision against the product, those that cannot pass as well."""
    return {revision: run.result() for revision, run in started["product_runs"].items()}


@pytest.fixture(scope="session")
def required(started: Started) -> Callable[[str], SuiteRun]:
    """Return the run of a requirement set against the conformance server."""
    return lambda revision: started["required"][revision].result()


@pytest.fixture(scope="session")
def server_variables() -> list[str]:
    """What a server that the Inspector starts needs: it hands on little of its environment."""
    names = ("PYTHONPATH", "FLUX_MCP_TORCH_THREADS", "OMP_NUM_THREADS")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return [word for pair in given for word in ("-e", pair)]
