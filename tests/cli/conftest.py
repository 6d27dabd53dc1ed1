"""A hub on loopback for all tests of a session."""

from collections.abc import Iterator

import pytest

from tests.models.hub_server import HubServer


@pytest.fixture(scope="session")
def running_hub() -> Iterator[HubServer]:
    with HubServer().running() as server:
        yield server
