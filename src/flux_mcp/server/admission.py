"""Who is let in: the decisions of the guard, from the headers of a request alone. Pure.

The Host header stops a web page that has pointed a name of its own at this machine (DNS
rebinding); the Origin header stops a page that calls us across sites; the token stops everybody
else. MCP asks for the first two of every server over HTTP (2026-07-28, transports, "Security").
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flux_mcp.config import Settings
from flux_mcp.errors import HostRefusedError, OriginRefusedError, UnauthorizedError
from flux_mcp.principals import LOCAL
from flux_mcp.server.tokens import Tokens

LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_SCHEMES = ("http", "https")
_BEARER = "bearer"

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Admission:
    """Decides who a request comes from.

    Args:
        names: Names under which this server may be reached, lower case, without ports.
        origins: Origins of pages that may call, besides those of `names`.
        tokens: Whose token is whose.
        without_token: Whether a request without a token is the owner's. Only on loopback.
    """

    names: frozenset[str]
    origins: frozenset[str]
    tokens: Tokens
    without_token: bool = False

    def principal(self, headers: Headers) -> str:
        """Return on whose behalf a request comes.

        Raises:
            HostRefusedError: it was sent to a name that is not ours.
            OriginRefusedError: a web page of somewhere else sent it.
            UnauthorizedError: it has no token, more than one, or one that nobody has.
        """
        self._check_host(_values(headers, b"host"))
        self._check_origin(_values(headers, b"origin"))
        return self._owner_of(_values(headers, b"authorization"))

    def _check_host(self, values: Sequence[str]) -> None:
        if len(values) != 1 or _host_name(values[0]) not in self.names:
            raise HostRefusedError(
                "This server does not answer under the name in the Host header.",
                "Use 127.0.0.1 or localhost, or add the name to the setting allowed_hosts.",
            )

    def _check_origin(self, values: Sequence[str]) -> None:
        if not values:
            return  # not a browser
        if len(values) != 1 or not self._is_ours(values[0]):
            raise OriginRefusedError(
                "Web pages of that origin may not call this server.",
                "If you trust the page, add its origin to the setting allowed_origins.",
            )

    def _is_ours(self, origin: str) -> bool:
        if origin.lower() in self.origins:
            return True
        scheme, slashes, authority = origin.partition("://")
        return bool(slashes) and scheme.lower() in _SCHEMES and _host_name(authority) in self.names

    def _owner_of(self, values: Sequence[str]) -> str:
        if not values and self.without_token:
            return LOCAL
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        found = self.tokens.principal_of(token.strip()) if scheme.lower() == _BEARER else None
        if found is None:
            raise UnauthorizedError(
                "A token of this server is needed.",
                "Send the header 'Authorization: Bearer TOKEN'; the tokens are in the file that "
                "the server named when it started.",
            )
        return found


def admission(settings: Settings, tokens: Tokens) -> Admission:
    """Return who the settings let in."""
    names = {name.lower() for name in settings.allowed_hosts} | LOOPBACK_NAMES
    if not is_any_address(settings.host):
        names.add(settings.host.lower())
    origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
    without = settings.loopback_without_token
    return Admission(frozenset(names), frozenset(origins), tokens, without)


def is_any_address(host: str) -> bool:
    """Whether a server bound to it is reached under every address of its machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _host_name(authority: str) -> str | None:
    """Return the name of `name`, `name:port` or `[address]:port`, lower case; `None` if neither."""
    found = _HOST.fullmatch(authority)
    return found.group(1).strip("[]").lower() if found else None
