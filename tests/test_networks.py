"""Where a request comes from, and where a stranger may send the gateway."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis.strategies import ip_addresses

from amux_asgi.networks import inside, is_global, networks_of, origin_of


@pytest.mark.parametrize(
    ("networks", "peer", "within"),
    [
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8", "192.0.2.7"), "192.0.2.7", True),
        (("192.0.2.7",), "192.0.2.8", False),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),  # IPv4 in IPv6's clothes
        (("10.0.0.0/8",), "::ffff:a00:1", True),
        (("10.0.0.0/8",), "::10.0.0.1", False),  # an address of another kind
        (("10.0.0.0/8",), "64:ff9b::a00:1", False),
        (("::ffff:10.0.0.0/104",), "10.0.0.1", True),
        (("::ffff:10.0.0.0/104",), "::ffff:10.0.0.1", True),
        (("::/0",), "10.0.0.1", False),
        (("::/0",), "::ffff:10.0.0.1", False),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("2001:db8::/32",), "2001:db8:ffff::1", True),
        (("2001:db8::/32",), "2001:DB8:0:0:0:0:0:1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        ((), "10.0.0.1", False),
        (("0.0.0.0/0", "::/0"), None, False),
        (("0.0.0.0/0", "::/0"), "", False),
        (("0.0.0.0/0", "::/0"), "/run/gateway.sock", False),
        (("10.0.0.0/8",), "10.0.0.1, 8.8.8.8", False),
        (("10.0.0.0/8",), "010.0.0.1", False),
        (("10.0.0.0/8",), "167772161", False),
    ],
)
def test_an_address_is_in_a_network_or_not(networks: tuple[str, ...], peer: str | None, within: bool) -> None:  # noqa: FBT001, a row of the table
    """Whatever is no address is nowhere."""
    assert inside(networks_of(networks), peer) is within


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "example.com", "10.*", "::ffff:10.0.0.1/100"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """A bit behind the prefix is a slip, and might let in more than was meant."""
    with pytest.raises(ValueError, match=r"."):
        networks_of((text,))


def test_a_list_of_networks_is_read_once() -> None:
    """The second time it is the same object."""
    assert networks_of(("10.1.0.0/16",)) is networks_of(("10.1.0.0/16",))


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("/run/gateway.sock", "/run/gateway.sock"),
        (None, ""),
    ],
)
def test_a_client_is_told_from_others_by_what_it_cannot_choose(peer: str | None, origin: str) -> None:
    """One customer has as many IPv6 addresses as it likes, all in one network."""
    assert origin_of(peer) == origin


PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # everybody else's
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # Oracle's
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::1",  # Teredo
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # Amazon's metadata
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1111%eth0",
    "",
    "localhost",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "8.8.8.8/32",
    "\uff18.8.8.8",
    "8。8。8。8",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_nobody_is_sent_to_an_address_that_is_not_the_internets(address: str) -> None:
    """Our own networks, a cloud's inner services, what holds another address, what is none."""
    assert not is_global(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "168.63.129.15",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "2400:3200::1",
    ],
)
def test_what_lies_on_the_internet_may_be_asked(address: str) -> None:
    """Also right beside a closed network."""
    assert is_global(address)


@given(ip_addresses())
def test_no_address_is_open_that_the_standard_library_calls_private(address: IPv4Address | IPv6Address) -> None:
    """We are stricter than it, never more generous."""
    assert address.is_global or not is_global(str(address))


@given(ip_addresses(v=4))
def test_an_ipv4_address_in_other_clothes_is_closed(address: IPv4Address) -> None:
    """Whatever carries it over would deliver it inside our own network."""
    inner = int(address)
    clothes = (
        inner,  # ::a.b.c.d
        0xFFFF << 32 | inner,
        0x64_FF9B << 96 | inner,
        0x64_FF9B_0001 << 80 | inner,
        0x2002 << 112 | inner << 80,
        0x2001 << 112 | inner << 64,
        0x2001 << 112 | inner ^ 0xFFFF_FFFF,
    )

    assert not [each for each in clothes if is_global(str(IPv6Address(each)))]
