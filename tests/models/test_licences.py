"""Every licence class that a row can have is explained in a line."""

from typing import get_args

from flux_mcp.models.registry import FREE_LICENCES, load_licences
from flux_mcp.settings.settings import Licence


def test_every_licence_is_explained():
    rows = load_licences()
    assert set(rows) == set(get_args(Licence))
    for licence, row in rows.items():
        assert row.source
        assert ("any use" in row.about) == (licence in FREE_LICENCES)
