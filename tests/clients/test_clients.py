"""Every client gets its image, reads ids, and loses no slow job: `make clients`."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients.install import client_rows

CLIENTS = [row.id for row in client_rows()]
MOST_SEARCH_TOKENS = 1_200
"""Of a search that finds twenty images: of its text, and of its structured content."""
SERVER_PER_CALL = pytest.mark.xfail(
    reason="it starts a server for each call: a worker that ends with each never gets far enough",
    strict=True,
)
Results = Mapping[str, dict[str, Any]]


@pytest.mark.parametrize("client", CLIENTS)
def test_it_hands_its_model_every_tool(results: Results, client: str) -> None:
    # Claude Code describes a tool when its model looks for it; it looked for those it called.
    assert results[client]["tools"] >= 4 if client == "claude-code" else 8


@pytest.mark.parametrize("client", CLIENTS)
def test_its_model_sees_the_image_or_is_told_its_path(results: Results, client: str) -> None:
    image = results[client]["image"]
    assert image["error"] is None
    assert image["id"]
    assert image["pixels"] == "yes" or (image["pixels"] == "no" and image["path"]), image
    assert image["link"] != "as a broken image"


@pytest.mark.parametrize("client", CLIENTS)
def test_over_http_its_model_sees_the_image_as_well(results: Results, client: str) -> None:
    image = results[client]["image_over_http"]
    assert image is not None
    assert image["id"], image
    assert image["pixels"] != "as base64 text", image


@pytest.mark.parametrize("client", CLIENTS)
def test_its_model_edits_an_image_by_the_id_it_read(results: Results, client: str) -> None:
    assert results[client]["edit"] == "works"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_search_is_short(results: Results, client: str) -> None:
    search = results[client]["search"]
    assert search["images"] == 20
    forms = search["text"] + search["structured"]
    assert search["tokens"] <= forms * MOST_SEARCH_TOKENS


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(client, marks=SERVER_PER_CALL if client == "llama-index" else ())
        for client in CLIENTS
    ],
)
def test_a_slow_image_is_one_job_and_arrives(results: Results, client: str) -> None:
    slow = results[client]["slow"]
    assert slow["jobs"] == 1, slow
    assert slow["gets_image"], slow


@pytest.mark.parametrize("client", CLIENTS)
def test_its_model_cancels_a_job_by_the_id_it_read(results: Results, client: str) -> None:
    assert results[client]["cancel"] == "works"
