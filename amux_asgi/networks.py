"""Addresses: the networks a key may be used from, and where the gateway may go on a stranger's word."""

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


def is_global(address: str) -> bool:
    """Tell whether an address is a single machine's on the public internet, whatever names lead to it.

    Transition addresses (IPv4 in IPv6's clothes, NAT64, 6to4, Teredo) are not, whatever they hold.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _CLOSED)
    return parsed in _PUBLIC_6 and parsed.scope_id is None and not any(parsed in network for network in _CLOSED_6)


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


# Source: IANA's registries of special-purpose addresses, IPv4 and IPv6.
_CLOSED: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' own; clouds have services there, too
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's service for its machines, an address that looks public
            "169.254.0.0/16",  # link-local, metadata services among them
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_PUBLIC_6: Final = IPv6Network("2000::/3")  # all that was ever given out for the public internet
_CLOSED_6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
