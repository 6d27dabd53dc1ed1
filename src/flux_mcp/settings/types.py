"""What some settings may be: names that others use as well, and hosts. Pure."""

import ipaddress
from typing import Annotated, Literal

from pydantic import Field

HostName = Annotated[
    # A name or an address; no port: any port of such a name is ours.
    str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$")
]
Licence = Literal["apache-2.0", "mit", "flux-non-commercial", "other"]
"""Licence classes of weights; the first two allow any use."""
AttentionBackend = Literal["native", "native_cudnn", "native_flash", "flash", "sage", "xformers"]
"""Rows of models/switches.toml."""
AttentionSetting = Literal["auto", AttentionBackend]
CompileSetting = Literal["auto", "on", "off"]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^/?#\s]+$")]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
