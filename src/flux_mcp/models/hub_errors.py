"""What the hub's errors mean, in words a person can act on. Imported by the downloading process.

No text of the libraries is passed on: their messages hold addresses that are signed for a while.
"""

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

from flux_mcp.errors import FluxMcpError, GatedModelError, HubError
from flux_mcp.models.hub_token import KEYRING_SERVICE, KEYRING_USER, HubToken
from flux_mcp.models.pulling import licence_page

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
    """Return the seconds the hub asked to be left alone; 0 if it did not ask."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def explain(error: Exception, repository: str, token: HubToken | None) -> FluxMcpError:
    """Return our error for one of the hub's, or of the line to it."""
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
    """Ask whose token it is; `None` if the hub does not say."""
    try:
        who = HfApi(token=token.secret).whoami()
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError):
        return None
    name = who.get("name")
    return name if isinstance(name, str) and name.isprintable() else None
