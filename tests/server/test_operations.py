"""/healthz and /metrics behind the guard: who may ask, and what a refused caller adds up to."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from flux_mcp.server.app import build_server
from flux_mcp.server.transports.http import build_http_app
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

pytestmark = pytest.mark.anyio

ADDRESS = "http://127.0.0.1:8421"
OWNER, GUEST = "the-owners-own-token", "a-token-of-somebody-else"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    data = tmp_path / "data"
    data.mkdir()
    tokens = data / "tokens"
    tokens.write_text(f"{OWNER}\nguest {GUEST}\n", encoding="utf-8")
    tokens.chmod(0o600)
    service = Service(Settings(data_dir=data, transport="http", allowed_dirs=()), executes=False)
    await service.open()
    app = build_http_app(service, build_server(service))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        yield client
    await service.close()


def sent_by(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_probe_with_any_token_is_told_how_it_stands(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/healthz", headers=sent_by(GUEST))
    assert answer.status_code == 200
    assert set(answer.json()) == {
        "status", "reason", "leads", "queue_depth", "jobs_stopping", "version",
    }  # fmt: skip
    assert answer.json()["status"] == "no_worker"


async def test_a_probe_without_a_token_is_refused(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/healthz")).status_code == 401


async def test_metrics_are_for_the_owner_and_count_who_was_refused(
    http: httpx2.AsyncClient,
) -> None:
    assert (await http.get("/metrics")).status_code == 401
    assert (await http.get("/metrics", headers=sent_by(GUEST))).status_code == 403
    answer = await http.get("/metrics", headers=sent_by(OWNER))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'flux_mcp_http_requests_refused_total{code="unauthorized"} 1.0' in answer.text
    assert "flux_mcp_http_requests_in_flight 1.0" in answer.text
