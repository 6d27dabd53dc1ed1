"""A keyring whose only secret is in a file: keyring's own interface, without a desktop."""

import os
from pathlib import Path

from keyring.backend import KeyringBackend

from flux_mcp.models.hub.transfer import KEYRING_SERVICE, KEYRING_USER


class Keyring(KeyringBackend):
    """Knows one secret."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        if (service, username) != (KEYRING_SERVICE, KEYRING_USER):
            return None
        return Path(os.environ["TEST_KEYRING_FILE"]).read_text(encoding="utf-8")

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError
