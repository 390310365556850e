"""Where a request comes from: an address, and the networks a key may be used from."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_SITE: Final = 64  # bits of an IPv6 address that one customer of a provider cannot choose


@lru_cache(maxsize=10_000)
def networks_of(written: tuple[str, ...]) -> tuple[Network, ...]:
    """Read networks, once for every list of them; one that is IPv4 in IPv6's clothes counts as IPv4.

    Raises:
        ValueError: one of them is none; it is written as '10.0.0.0/8', with no bit behind the prefix.
    """
    return tuple(_network(text) for text in written)


def inside(networks: tuple[Network, ...], peer: str | None) -> bool:
    """Tell whether a client's address is in one of the networks; no address is in none."""
    address = _address(peer)
    return address is not None and any(address in network for network in networks)


def origin_of(peer: str | None) -> str:
    """Say by what a client is told from others: its address, or its network where it can choose among addresses."""
    address = _address(peer)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> _SITE << _SITE, _SITE)))
    return str(peer or "") if address is None else str(address)


def _network(text: str) -> Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - _MAPPED.prefixlen))
    return network


def _address(peer: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(peer or "")
    except ValueError:  # a socket in the file system, or nothing
        return None
    return getattr(address, "ipv4_mapped", None) or address
