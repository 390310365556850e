"""Where a request comes from."""

import pytest

from amux_asgi.networks import inside, networks_of, origin_of


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
