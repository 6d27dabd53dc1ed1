"""The hub's token: where it comes from. It is sent to the hub, and never written anywhere.

Looked for where the hub's own libraries do (HF_TOKEN, then what `hf auth login` stored), then in
the system's keyring, if the package keyring is installed. Imported by the downloading process only.
"""

import logging
from dataclasses import dataclass, field
from importlib.util import find_spec

from huggingface_hub import get_token

KEYRING_SERVICE, KEYRING_USER = "huggingface", "flux-mcp"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubToken:
    """A token, and how its owner knows it."""

    secret: str = field(repr=False)
    source: str


def find_token() -> HubToken | None:
    """Return the token to download with; `None` if there is none."""
    secret = get_token()
    if secret:
        return HubToken(secret, "HF_TOKEN or 'hf auth login'")
    secret = _from_keyring()
    return HubToken(secret, "the keyring") if secret else None


def _from_keyring() -> str | None:
    if find_spec("keyring") is None:
        return None
    # An optional package, and none of its back ends is loaded for those who have another token.
    import keyring  # noqa: PLC0415
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        return keyring.get_password(KEYRING_SERVICE, KEYRING_USER)
    except KeyringError as error:
        logger.warning("the keyring cannot be read: %s", type(error).__name__)
        return None
