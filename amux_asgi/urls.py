"""A URL in a stranger's answer, read in the one way in which it may be asked."""

import re
from collections.abc import Container
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec import Struct

from amux_asgi.errors import UpstreamBadResponseError

PORTS: Final = {"https": 443, "http": 80}
LONGEST: Final = 8192  # characters; signed URLs have some thousands


class Place(Struct, frozen=True, kw_only=True):
    """Where a URL leads. `host` is a name or an address, in lower case, without brackets; `target` is what is asked."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def is_address(self) -> bool:
        """Tell whether the host is an address, so that there is no name to look up."""
        return self.host[-1].isdecimal() or ":" in self.host

    @property
    def authority(self) -> str:
        """Give what stands in the `host` header."""
        host = bracketed(self.host)
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def bracketed(host: str) -> str:
    """Write a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def place_of(url: str, *, schemes: Container[str], ports: Container[int]) -> Place:
    """Read a URL. Path and query stay as they are, byte for byte, since they may be signed; a fragment is left out.

    Raises:
        UpstreamBadResponseError: another scheme or port, user info, or a host or a character that two parsers could
            read in two ways.
    """
    found = _URL.fullmatch(url) if len(url) <= LONGEST else None
    if found is None:
        raise _refused()
    scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
    port = int(found["port"] or PORTS.get(scheme, 0))
    if not (scheme in PORTS and scheme in schemes and port in ports and _is_host(host)):
        raise _refused()
    target = found["target"] or ""
    return Place(scheme=scheme, host=host, port=port, target=target if target.startswith("/") else f"/{target}")


def _is_host(host: str) -> bool:
    return len(host) <= _LONGEST_NAME and (_NAME.fullmatch(host) is not None or _is_address(host))


def _is_address(host: str) -> bool:
    """Tell whether this is an address in its one usual spelling."""
    try:
        return str(IPv6Address(host) if ":" in host else IPv4Address(host)) == host
    except ValueError:
        return False


def _refused() -> UpstreamBadResponseError:
    return UpstreamBadResponseError("the upstream's picture lies where the gateway does not fetch from")


_LONGEST_NAME: Final = 253  # characters
_URL: Final = re.compile(
    r"""
    (?P<scheme> [A-Za-z]+ ) ://
    (?P<host> \[[0-9A-Fa-f:.]+\] | [A-Za-z0-9._-]+ )  # no user, no scope, nothing escaped, only ASCII
    (?: : (?P<port> [1-9][0-9]{0,4} ) )?
    (?P<target> [/?] [!$-\[\]-~]* )?                  # no blank, quote, backslash or fragment, only ASCII
    (?: \# [!-~]* )?
    """,
    re.VERBOSE,
)
_NAME: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)  # with a dot inside and none at its end; the last part is never a number
