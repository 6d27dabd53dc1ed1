"""What each known client gets: the table of clients.toml, row by row."""

from dataclasses import asdict, fields

import pytest

from flux_mcp.server.clients import ClientFit, fit, known_clients, overrides_of
from flux_mcp.settings.settings import Settings

OLD, JUNE, NOVEMBER, STATELESS = "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"
EVERYBODY = ClientFit()


@pytest.mark.parametrize(
    ("protocol_version", "client_name", "fitted"),
    [
        (NOVEMBER, "somebody", EVERYBODY),
        (NOVEMBER, None, EVERYBODY),
        (NOVEMBER, "", EVERYBODY),
        (STATELESS, None, EVERYBODY),
        # Revisions without links.
        ("2024-11-05", "somebody", ClientFit(links=False)),
        (OLD, None, ClientFit(links=False)),
        (JUNE, "somebody", EVERYBODY),
        # Clients, whatever the case; a name that only begins so is another client's.
        (NOVEMBER, "claude-code", EVERYBODY),
        (NOVEMBER, "codex-mcp-client", ClientFit(links=False, structured=False)),
        (NOVEMBER, "Codex-MCP-Client", ClientFit(links=False, structured=False)),
        (NOVEMBER, "codex-mcp-client-of-mine", EVERYBODY),
        (OLD, "codex-mcp-client", ClientFit(links=False, structured=False)),
        (NOVEMBER, "@langchain/mcp-adapters", ClientFit(links=False)),
        (NOVEMBER, "langchain", ClientFit(links=False)),
        (NOVEMBER, "google-adk", ClientFit(structured=False, preview="none", wait_s=3, poll_s=3)),
        (NOVEMBER, "Cline", ClientFit(structured=False, preview="none")),
        ("2024-11-05", "@cline/core", ClientFit(links=False, structured=False, preview="none")),
        # The name of the Python SDK is that of many: none of them may be harmed.
        (NOVEMBER, "mcp", ClientFit(links=False, preview="none", wait_s=3)),
        (OLD, "mcp", ClientFit(links=False, preview="none", wait_s=3)),
        (STATELESS, "mcp", ClientFit(wait_s=3, poll_s=3)),
        (NOVEMBER, "mcp-inspector", EVERYBODY),
    ],
)
def test_a_client_gets_what_its_row_says(
    protocol_version: str, client_name: str | None, fitted: ClientFit
) -> None:
    """One case a row, and those beside it."""
    assert fit(protocol_version, client_name, {}) == fitted


def test_every_row_says_where_it_is_known_from_and_only_what_there_is() -> None:
    """A field of a row that is none of ClientFit's would be ignored until a client has that row."""
    names = {field.name for field in fields(ClientFit)}
    for row in known_clients():
        assert len(row.source) > 20, row.name
        assert set(row.different) <= names, row.name


def test_settings_win_over_every_row() -> None:
    """`auto` leaves the row; any other value is for all clients."""
    auto = overrides_of(Settings(default_wait_s=None))
    assert auto == {}
    said = overrides_of(Settings(links="on", structured="off", preview="normal", default_wait_s=12))
    for name in ("mcp", "codex-mcp-client", "somebody", None):
        row = fit(NOVEMBER, name, {})
        assert asdict(fit(NOVEMBER, name, said)) == {
            **asdict(row),
            "links": True,
            "structured": False,
            "preview": "normal",
            "wait_s": 12,
        }
    assert fit(NOVEMBER, "codex-mcp-client", overrides_of(Settings(structured="on"))).structured
    assert not fit(STATELESS, None, overrides_of(Settings(links="off"))).links
