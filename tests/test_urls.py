"""A URL in a stranger's answer is read in one way, or not at all."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis.strategies import sampled_from, text

from amux_asgi.errors import UpstreamBadResponseError
from amux_asgi.networks import is_global
from amux_asgi.urls import LONGEST, Place, place_of


def read(url: str) -> Place:
    return place_of(url, schemes={"https"}, ports={443})


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://example.com/a.png", "example.com", "/a.png"),
        ("https://example.com", "example.com", "/"),
        ("https://example.com?a=b", "example.com", "/?a=b"),
        ("https://example.com#part", "example.com", "/"),
        ("https://example.com/a#part", "example.com", "/a"),
        ("https://example.com/#a\\b", "example.com", "/"),
        ("https://example.com:443/a", "example.com", "/a"),
        ("HTTPS://Example.COM/A", "example.com", "/A"),
        ("https://my_bucket.oss-cn-beijing.example.com/", "my_bucket.oss-cn-beijing.example.com", "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
        ("https://8.8.8.8/a", "8.8.8.8", "/a"),
        ("https://[2606:4700::1111]/a", "2606:4700::1111", "/a"),
        ("https://example.com//a/../b/./c", "example.com", "//a/../b/./c"),
        (
            "https://example.com/a%2Fb+c?Expires=1&amp;x=1&sig=a%2Bb+c/d==&u=https://b@c/",
            "example.com",
            "/a%2Fb+c?Expires=1&amp;x=1&sig=a%2Bb+c/d==&u=https://b@c/",
        ),
        ("https://example.com/a?x=<>{}|^`'~;,", "example.com", "/a?x=<>{}|^`'~;,"),
    ],
)
def test_a_usual_url_is_read(url: str, host: str, target: str) -> None:
    """What is asked stays byte for byte: it may be signed."""
    assert read(url) == Place(scheme="https", host=host, port=443, target=target)


ODD_HOSTS = [
    "127.1",
    "127.0.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.0.0.0x1",
    "2130706433",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.256",
    "1.2.3.4.5",
    "1270.0.1",
    "127。0。0。1",
    "\uff1127.0.0.1",
    "1\uff127.0.0.1",
    "①27.0.0.1",
    "127.0.0.1%00.example.com",
    "example.com.",
    "example..com",
    ".example.com",
    "-example.com",
    "example-.com",
    "example.-com",
    "example.com-",
    "example.1",
    "example.0x1",
    "example。com",
    "exämple.com",
    "ex%61mple.com",
    "exa mple.com",
    "example.com\n",
    "example.com\t",
    "example.com\x00",
    "example.com\\.evil.example",
    "example.com\\@evil.example",
    "user@example.com",
    "user:secret@example.com",
    "@example.com",
    "a@b@example.com",
    "localhost",
    "metadata",
    "internal",
    "[::1",
    "::1",
    "[]",
    "[::1]",  # this one and the following are no spelling that is usual, or are never global
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:8.8.8.8]",
    "[2606:4700:0::1111]",
    "[2606:4700:0000::1111]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[127.0.0.1]",
    "[v1.a]",
    "a" * 64 + ".com",
    "a." * 130 + "com",
    "",
]


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_a_host_in_an_odd_spelling_is_refused(host: str) -> None:
    """Two parsers could read it in two ways, or it is no name of the public internet; the error names no host."""
    try:
        place = read(f"https://{host}/a.png")
    except UpstreamBadResponseError as error:
        assert error.message == "the upstream's picture lies where the gateway does not fetch from"
    else:
        assert place.is_address
        assert not is_global(place.host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/a",
        "//example.com/a",
        "/a",
        "http://example.com/",
        "http://example.com:443/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https:example.com",
        "https:/example.com/",
        "https:///example.com/",
        "https:\\\\example.com/",
        " https://example.com/",
        "https://example.com/ ",
        "https://example.com/a b",
        "https://example.com/a\r\nx: y",
        "https://example.com/a\n",
        "https://example.com/é",
        "https://example.com/a\\b",
        'https://example.com/a"b',
        "https://example.com:/",
        "https://example.com:80/",
        "https://example.com:8443/",
        "https://example.com:0443/",
        "https://example.com:443443/",
        "https://example.com:+443/",
        "https://example.com:\uff1443/",
        "https://example.com/" + "a" * LONGEST,
    ],
)
def test_another_scheme_or_port_or_an_odd_character_is_refused(url: str) -> None:
    """Nothing is mended: what is odd is somebody's attempt."""
    with pytest.raises(UpstreamBadResponseError):
        read(url)


@given(text(sampled_from("htps:/\\@?#%[].0127axe\uff11。 \n-_")), text(sampled_from("/:@?#\\a%.1 ")))
@example("example.com", "@evil.example/")
def test_no_other_parser_reads_another_host(before: str, after: str) -> None:
    """What is read at all, the standard library reads alike."""
    url = f"https://{before}.com{after}"
    try:
        place = read(url)
    except UpstreamBadResponseError:
        return

    parts = urlsplit(url)
    assert (parts.hostname, parts.username) == (place.host, None)
    assert parts.port in {None, 443}


@pytest.mark.parametrize(
    ("url", "authority", "is_address"),
    [
        ("https://example.com/", "example.com", False),
        ("https://example.com:8443/", "example.com:8443", False),
        ("http://example.com/", "example.com", False),
        ("http://example.com:443/", "example.com:443", False),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080", True),
        ("https://[::1]/", "[::1]", True),
        ("http://[::1]:8080/", "[::1]:8080", True),
    ],
)
def test_a_place_knows_what_it_is_called(url: str, authority: str, is_address: bool) -> None:  # noqa: FBT001, a row of the table
    """As the `host` header says it."""
    place = place_of(url, schemes={"http", "https"}, ports=range(65536))

    assert (place.authority, place.is_address) == (authority, is_address)


def test_a_scheme_that_is_none_of_ours_is_refused_whatever_is_allowed() -> None:
    """Only HTTP can be spoken."""
    with pytest.raises(UpstreamBadResponseError):
        place_of("ftp://example.com:21/", schemes={"ftp"}, ports={21})
