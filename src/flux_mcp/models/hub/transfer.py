"""Requests to the hub: the token, its errors, tries again, and one file received and checked.

huggingface_hub 2.4 deletes what it has of a file when its process ends (file_download.py,
`_download_to_tmp_and_move`); a shard of FLUX is 10 GB. Therefore files are received here, through
its session, into `<key>.incomplete`, which the next process continues. One process downloads at a
time (`hold_download_lock`).
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in __all__
    hf_raise_for_status,
)

from flux_mcp.errors import FluxMcpError, GatedModelError, HubError, WeightsInvalidError
from flux_mcp.models.hub.manifest import content_key
from flux_mcp.models.hub.selection import HubFile, licence_page

KEYRING_SERVICE, KEYRING_USER = "huggingface", "flux-mcp"

logger = logging.getLogger(__name__)


# --- the token -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubToken:
    """A token, and where it was found, in words."""

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
    # An optional package; its back ends are not loaded where another token was found.
    import keyring  # noqa: PLC0415
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        return keyring.get_password(KEYRING_SERVICE, KEYRING_USER)
    except KeyringError as error:
        logger.warning("the keyring cannot be read: %s", type(error).__name__)
        return None


# --- errors --------------------------------------------------------------------------------------

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_WHOAMI_TIMEOUT_S = 10.0
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"


def is_transient(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, httpx2.TransportError)


def retry_after_s(error: Exception) -> float:
    """Return the seconds after which the hub asks to be called again; 0 if it does not."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def explain(error: Exception, repository: str, token: HubToken | None) -> FluxMcpError:
    """Return the error for callers that stands for one of the hub's, or of the network."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or status in (_UNAUTHORIZED, _FORBIDDEN):
        return _gated(repository, token, status)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError("The hub's libraries are set to stay offline.", "Unset HF_HUB_OFFLINE.")
    hub = constants.ENDPOINT
    if status is not None:
        return HubError(
            f"{hub} answered {status} for {repository}.",
            "It does not have this repository, revision or file: look at models.toml, or at "
            "HF_ENDPOINT if it names a mirror."
            if not is_transient(error)
            else "It has trouble: try again later. What is downloaded is kept.",
        )
    return HubError(
        f"{hub} cannot be reached, or broke off too often ({type(error).__name__}).",
        "Look at the network, a proxy, or HF_ENDPOINT; then run the same command again: what is "
        "downloaded is kept.",
    )


def _gated(repository: str, token: HubToken | None, status: int | None) -> GatedModelError:
    page = licence_page(repository)
    if token is None:
        return GatedModelError(
            f"{repository} is gated: it is given to accounts that accepted its licence, and there "
            "is no token that says who you are.",
            f"1. Accept the licence at {page}. 2. Make a token of that account, one that may read "
            f"gated repositories, at {_TOKENS_PAGE}. 3. Give it in the variable HF_TOKEN, or store "
            f"it with 'hf auth login', or with 'keyring set {KEYRING_SERVICE} {KEYRING_USER}'. "
            "4. Run the same command again.",
        )
    account = _account_of(token)
    if account is None and status == _UNAUTHORIZED:
        return GatedModelError(
            f"The hub does not know the token from {token.source}, and {repository} is gated.",
            f"It may have expired: make a new one at {_TOKENS_PAGE}.",
        )
    who = f"the account '{account}'" if account else "its account"
    return GatedModelError(
        f"{repository} is gated, and {who}, whose token comes from {token.source}, may not have "
        "it.",
        f"Accept the licence at {page} with that account; some owners then let you in by hand. A "
        f"fine-grained token also needs the right to read gated repositories: {_TOKENS_PAGE}.",
    )


def _account_of(token: HubToken) -> str | None:
    """Ask the hub whose token it is; `None` if it does not say."""
    try:
        who = HfApi(token=token.secret).whoami()
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError):
        return None
    name = who.get("name")
    return name if isinstance(name, str) and name.isprintable() else None


# --- receiving -----------------------------------------------------------------------------------

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
MAX_PAUSE_S = 30.0
MAX_ASKED_PAUSE_S = 300.0
_PARTIAL, _RANGE_REFUSED = 206, 416


class StoppedError(Exception):
    """Another file failed: this one stops here, and what was received stays."""


@dataclass(frozen=True)
class Patience:
    """How often something is tried again, and after how long."""

    tries: int
    backoff_s: float
    stop: threading.Event

    def pause(self, failures: int, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            StoppedError: something else failed meanwhile.
        """
        own_s = min(MAX_PAUSE_S, self.backoff_s * 2 ** (failures - 1))
        asked_s = min(MAX_ASKED_PAUSE_S, retry_after_s(error))
        if self.stop.wait(max(own_s, asked_s)):
            raise StoppedError

    def call(self, ask: Callable[[], T]) -> T:
        """Call `ask` until it answers.

        Raises:
            StoppedError: something else failed meanwhile.
            HfHubHTTPError: the hub refused, or failed as often as is allowed.
            httpx2.TransportError: the connection failed as often as is allowed.
        """
        failures = 0
        while True:
            try:
                return ask()
            except (HfHubHTTPError, httpx2.TransportError) as error:
                failures += 1
                if failures >= self.tries or not is_transient(error):
                    raise
                self.pause(failures, error)


class Transfer:
    """Receives one file.

    Args:
        file: What the hub says of it.
        url: Where it is asked for; redirects are followed, and lose the token on other hosts.
        headers: Of each request; the token is among them.
        blob: Where it goes once it is whole and right.
        patience: How often it is tried.
        see_bytes: Called with how many bytes of the file there are, after each piece.
    """

    def __init__(
        self,
        file: HubFile,
        url: str,
        headers: dict[str, str],
        blob: Path,
        patience: Patience,
        see_bytes: Callable[[int], None],
    ) -> None:
        self._file = file
        self._url = url
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._blob = blob
        self._partial = partial_of(blob)
        self._patience = patience
        self._see_bytes = see_bytes

    def run(self) -> int:
        """Receive what is missing, check the file, put it in its place; return the bytes received.

        Raises:
            WeightsInvalidError: what was sent is not the file; it is deleted.
            httpx2.TransportError: the connection broke off too often.
            HfHubHTTPError: the hub refused, or failed too often.
            StoppedError: something else failed meanwhile.
            OSError: the disk refused.
        """
        self._blob.parent.mkdir(parents=True, exist_ok=True)
        received = 0
        while True:
            resumed = self._have()
            received += self._receive()
            found = content_key(self._partial, self._file.key)
            if found == self._file.key:
                self._partial.replace(self._blob)
                return received
            self._partial.unlink()
            self._see_bytes(0)
            if not resumed:
                raise WeightsInvalidError(
                    f"What came for {self._file.path} is not what the hub says it is: its hash is "
                    f"{found}, not {self._file.key}.",
                    "It was deleted. Run the same command again; if that happens again, the hub or "
                    "the mirror HF_ENDPOINT names has a damaged file.",
                )
            # What an earlier process left may have been damaged: once more, from the start.

    def _have(self) -> int:
        try:
            return self._partial.stat().st_size
        except FileNotFoundError:
            return 0

    def _receive(self) -> int:
        """Receive until the file has its size; return how many bytes came."""
        failures = received = 0
        if self._have() > self._file.size_bytes:
            self._partial.unlink()
        with self._partial.open("ab", buffering=0) as out:
            while (have := self._have()) < self._file.size_bytes:
                error = self._stream(out, have)
                gained = max(0, self._have() - have)
                received += gained
                if error is not None:
                    failures = 1 if gained else failures + 1
                    if failures >= self._patience.tries:
                        raise error
                    self._patience.pause(failures, error)
            os.fsync(out.fileno())
        return received

    def _stream(self, out: BinaryIO, have: int) -> Exception | None:
        """Ask for the file from byte `have` on and write what comes.

        Returns:
            The error that broke it off, if it may be tried again.

        Raises:
            HfHubHTTPError: the hub refused.
        """
        headers = dict(self._headers)
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with get_session().stream(
                "GET", self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as response:
                hf_raise_for_status(response)
                if response.status_code != _PARTIAL:
                    out.truncate(0)  # it sends the whole file, whatever it was asked for
                    have = 0
                for piece in response.iter_bytes(CHUNK_BYTES):
                    left = self._file.size_bytes - have
                    out.write(piece[:left])
                    have += min(len(piece), left)
                    self._see_bytes(have)
                    if have == self._file.size_bytes:
                        return None
                    if self._patience.stop.is_set():
                        raise StoppedError
        except httpx2.TransportError as broken:
            return broken
        except HfHubHTTPError as refused:
            if refused.response.status_code == _RANGE_REFUSED:
                out.truncate(0)
            elif not is_transient(refused):
                raise
            return refused
        return httpx2.RemoteProtocolError("the answer ended before the file did")


def partial_of(blob: Path) -> Path:
    """Return the path of a blob until it is complete."""
    return blob.with_name(f"{blob.name}.incomplete")
