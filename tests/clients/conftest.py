"""Every client is run once, several at a time: each mostly waits for slow images."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.clients.driving import Run, drive, filled_gallery
from tests.clients.facts import facts_of
from tests.clients.install import ClientRow, client_rows
from tests.clients.matrix import PAGE, RESULTS, matrix_page, results_text

PROCESSES = 3
"""Clients at a time: each takes ten seconds of a processor, and waits a minute."""


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> tuple[ClientRow, ...]:
    """The clients that the tests of this session ask for."""
    called = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {call.params.get("client") for call in called if call is not None}
    return tuple(row for row in client_rows() if row.id in asked)


@pytest.fixture(scope="session", autouse=True)
def usual_waits(isolated_environment: None) -> None:
    """Let calls wait as long as they do for this client: other tests have one wait for all."""
    os.environ.pop("FLUX_MCP_DEFAULT_WAIT_S", None)


@pytest.fixture(scope="session")
def results(
    rows: tuple[ClientRow, ...], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, dict[str, Any]]:
    """The facts about each client. Where all were driven, they and the matrix are written."""
    folder = tmp_path_factory.mktemp("clients")
    gallery = filled_gallery(folder / "gallery")

    def run(job: tuple[ClientRow, str]) -> Run:
        row, transport = job
        ran = drive(row, transport, folder / row.id / transport, gallery)
        if not ran.recorder.turns:
            # Several give a server five seconds to start, which is too little on a loaded machine.
            ran = drive(row, transport, folder / row.id / f"{transport}-again", gallery)
        kept = [[turn.scene, turn.text] for turn in ran.recorder.turns]
        left = folder / row.id / transport
        (left / "turns.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
        (left / "output").write_text(ran.output, encoding="utf-8")
        return ran

    # The slowest first, so that none is left alone at the end.
    slowest = sorted(rows, key=lambda row: -row.slow_s)
    jobs = [(row, "stdio") for row in slowest] + [(row, "http") for row in slowest]
    with ThreadPoolExecutor(PROCESSES) as pool:
        runs = dict(zip(jobs, pool.map(run, jobs), strict=True))
    facts = {row.id: facts_of(row, runs[row, "stdio"], runs[row, "http"]) for row in rows}
    if len(rows) == len(client_rows()):
        RESULTS.write_text(results_text(list(facts.values())), encoding="utf-8")
        PAGE.write_text(matrix_page(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    print(f"What the clients did and were told: {folder}")  # noqa: T201 - for who looks why
    return facts
