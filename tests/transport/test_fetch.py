"""Pictures are fetched from where a stranger says, and nothing else comes of it."""

import base64
import gzip
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from amux_asgi.errors import (
    End,
    UpstreamBadResponseError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamRedirectError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from amux_asgi.transport.fetch import PUBLIC, Fetcher, FetchPolicy, resolve
from tests.picture_server import HERE, NAME, PictureServer, leading_to, picture_server
from tests.samples import GIF, JPEG, PNG, SVG, WEBP
from tests.stub import Reader, Script, Stub, Writer, sending

pytestmark = pytest.mark.anyio
LONG = 30.0  # seconds
CAP = 2**20  # bytes
KINDS = {"png": PNG, "jpeg": JPEG, "webp": WEBP, "gif": GIF, "svg": SVG}


def picture(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Write an answer that holds a picture."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(data)}", *headers]).encode() + b"\r\n\r\n" + data


def answering(data: bytes) -> Script:
    """Answer, and leave the connection to the client."""

    async def script(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()

    return script


def without_end(head: bytes, piece: bytes) -> Script:
    """Send a little, again and again, for as long as somebody reads."""

    async def script(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await checkpoint()  # or nothing else of the stub would run

    return script


class Once:
    """Close the first connection without an answer, then answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, _stub: Stub, _reader: Reader, writer: Writer) -> None:
        self.asked += 1
        if self.asked % 2:
            writer.close()
        else:
            writer.write(picture(PNG))


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SCRIPTS: dict[str, Script] = {
    "/picture": answering(picture(PNG, "content-type: image/png")),
    "/octets": answering(picture(PNG, "content-type: application/octet-stream")),
    "/s3": answering(picture(PNG, "Content-Type: binary/octet-stream")),
    "/typed": answering(picture(PNG, "content-type: IMAGE/PNG; charset=binary", "content-encoding: identity")),
    "/chunked": answering(CHUNKED + b"5\r\n" + PNG[:5] + b"\r\n%x\r\n" % (len(PNG) - 5) + PNG[5:] + b"\r\n0\r\n\r\n"),
    "/html": answering(picture(b"<html>secret.example.com</html>", "content-type: text/html")),
    "/html-as-png": answering(picture(b"<html>hello</html>", "content-type: image/png")),
    "/json": answering(picture(b'{"error": "gone"}', "content-type: application/json")),
    "/png-as-html": answering(picture(PNG, "content-type: text/html")),
    "/nothing": answering(picture(b"")),
    "/forbidden": answering(picture(PNG, status="403 Forbidden")),
    "/part": answering(picture(PNG, status="206 Partial Content")),
    "/busy": answering(picture(PNG, status="503 Service Unavailable")),
    "/gzip": answering(picture(gzip.compress(PNG), "content-encoding: gzip")),
    "/gzip-then-identity": answering(picture(PNG, "content-encoding: gzip", "content-encoding: identity")),
    "/cookie": answering(picture(PNG, "set-cookie: visitor=a; path=/; domain=example.com")),
    "/one-too-many": answering(picture(PNG + bytes(CAP))),
    "/endless-body": without_end(CHUNKED, b"10000\r\n" + bytes(2**16) + b"\r\n"),
    "/drip": without_end(CHUNKED, b"1\r\nx\r\n"),
    "/hints": without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "/stall-body": sending(picture(PNG)[:-10], close=False),
    "/cut": sending(picture(PNG)[:-10]),
    "/unframed": sending(b"HTTP/1.1 200 OK\r\n\r\n" + PNG),
    "/no-http": sending(b"\x00\x01\x02 this is no HTTP\r\n\r\n"),
    "/silent": sending(b""),
    "/once": Once(),
}


@pytest.fixture(scope="module")
def _server() -> Generator[PictureServer]:
    with picture_server(SCRIPTS) as server:
        yield server


@pytest.fixture
def server(_server: PictureServer) -> Generator[PictureServer]:
    """Give the server, and see that every connection to it is closed in the end."""
    stub = _server.stub
    stub.requests.clear()
    stub.release.clear()
    yield _server
    while stub.open:
        stub.closed.acquire()


async def fetch(server: PictureServer, path: str, *, cap: int = CAP, timeout: float = LONG) -> bytes:
    return await Fetcher(server.policy).fetch(server.url + path, cap=cap, timeout=timeout)


@contextmanager
def listener() -> Generator[int]:
    """Give a port where nobody may come."""
    with socket.create_server((HERE, 0)) as listening:
        yield listening.getsockname()[1]
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize("path", ["/picture", "/octets", "/s3", "/typed", "/chunked"])
async def test_a_picture_is_fetched_byte_for_byte(server: PictureServer, path: str) -> None:
    """Whatever its server calls it."""
    assert await fetch(server, path) == PNG


async def test_an_upstream_is_told_nothing(server: PictureServer) -> None:
    """No credential, no cookie, no referrer: only the headers that every such request has, and the query as it came."""
    await fetch(server, "/picture/a%2Fb+c?Expires=1&sig=a%2Bb+c&x='~;#part")

    host = server.url.removeprefix("https://")
    assert server.stub.requests == [
        f"GET /picture/a%2Fb+c?Expires=1&sig=a%2Bb+c&x='~; HTTP/1.1\r\n"
        f"host: {host}\r\naccept-encoding: identity\r\nuser-agent: amux-asgi\r\nconnection: close\r\n\r\n".encode()
    ]


async def test_cookies_and_connections_are_not_kept(server: PictureServer) -> None:
    """One fetch knows nothing of another, and uses no connection of another's."""
    fetcher = Fetcher(server.policy)
    for _ in range(3):
        await fetcher.fetch(f"{server.url}/cookie", cap=CAP, timeout=LONG)
        await anyio.to_thread.run_sync(server.stub.closed.acquire)

    assert len(server.stub.requests) == 3
    assert b"cookie: " not in b"".join(server.stub.requests).lower()


async def test_proxies_of_the_environment_are_not_used(server: PictureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would dial what it likes."""
    with listener() as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{HERE}:{port}")
        monkeypatch.setenv("ALL_PROXY", f"http://{HERE}:{port}")

        assert await fetch(server, "/picture") == PNG


async def test_a_redirect_is_never_followed() -> None:
    """Of whichever kind, and wherever it leads: the place that it names sees nobody."""
    with listener() as port:
        places = (
            f"http://{HERE}:{port}/",
            f"https://{HERE}:{port}/",
            f"//{HERE}:{port}/",
            "http://169.254.169.254/",
            "/",
        )
        moved = {
            f"/{status}-{number}": answering(picture(PNG, f"location: {place}", status=f"{status} Moved"))
            for status in (301, 302, 303, 307, 308)
            for number, place in enumerate(places)
        }
        with picture_server(moved) as moving:
            for path in moved:
                with pytest.raises(UpstreamRedirectError) as caught:
                    await fetch(moving, path)
                assert (caught.value.status, caught.value.end, caught.value.retry) == (502, End.UNKNOWN, False)

            assert len(moving.stub.requests) == len(moved)


REFUSED = {
    "/html": UpstreamBadResponseError,
    "/html-as-png": UpstreamBadResponseError,
    "/json": UpstreamBadResponseError,
    "/png-as-html": UpstreamBadResponseError,
    "/nothing": UpstreamBadResponseError,
    "/forbidden": UpstreamBadResponseError,
    "/part": UpstreamBadResponseError,
    "/busy": UpstreamBadResponseError,
    "/gzip": UpstreamBadResponseError,
    "/gzip-then-identity": UpstreamBadResponseError,
    "/no-http": UpstreamBadResponseError,
    "/cut": UpstreamIncompleteError,
    "/unframed": UpstreamIncompleteError,
}


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)  # as in test_carry.py
@pytest.mark.parametrize("path", REFUSED)
async def test_what_is_no_whole_picture_is_refused(server: PictureServer, path: str) -> None:
    """Asked for once; the error says in our own words what was wrong, and not where."""
    with pytest.raises(REFUSED[path]) as caught:
        await fetch(server, path)

    error = caught.value
    assert (error.status, error.end, error.retry) == (502, End.UNKNOWN, False)
    assert not re.search(r"example|127|\d{4}|/", error.message)
    assert len(server.stub.requests) == 1


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("path", ["/one-too-many", "/endless-body"])
async def test_a_picture_beyond_the_cap_is_not_read_to_its_end(server: PictureServer, path: str) -> None:
    """Whether it says how large it is or not."""
    with pytest.raises(UpstreamTooLargeError) as caught:
        await fetch(server, path)

    assert (caught.value.status, caught.value.end, caught.value.retry) == (502, End.UNKNOWN, False)


async def test_a_picture_of_just_the_cap_is_fine(server: PictureServer) -> None:
    """Not a byte less is allowed than was said."""
    assert await fetch(server, "/picture", cap=len(PNG)) == PNG
    with pytest.raises(UpstreamTooLargeError):
        await fetch(server, "/picture", cap=len(PNG) - 1)


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("path", ["/hang", "/stall-head", "/stall-body", "/drip", "/hints"])
async def test_time_is_up_however_the_upstream_dawdles(server: PictureServer, path: str) -> None:
    """It says nothing, stops in the middle, or sends a byte now and then: none of it buys time."""
    with pytest.raises(UpstreamTimeoutError) as caught:
        await fetch(server, path, cap=2**40, timeout=0.3)

    assert (caught.value.status, caught.value.end, caught.value.retry) == (504, End.UNKNOWN, False)
    assert len(server.stub.requests) == 1


async def test_looking_up_a_name_and_shaking_hands_count_as_time(server: PictureServer) -> None:
    """A resolver or a handshake that never ends is cut off like the rest, and the connection closed."""

    async def never(_host: str, _port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        return ()

    with socket.create_server((HERE, 0)) as deaf:
        port = deaf.getsockname()[1]
        lost = replace(server.policy, ports={port}, resolve=never)
        for policy in (lost, replace(lost, resolve=leading_to(HERE))):
            with pytest.raises(UpstreamTimeoutError):
                await Fetcher(policy).fetch(f"https://{NAME}:{port}/", cap=CAP, timeout=0.3)
        connection, _ = deaf.accept()
        with connection:
            while connection.recv(4096):
                pass


async def test_a_connection_that_closes_without_an_answer_is_tried_once_more(server: PictureServer) -> None:
    """Asking for a picture costs nothing, so once more is safe; a third time is too often."""
    assert await fetch(server, "/once") == PNG
    assert len(server.stub.requests) == 2
    server.stub.requests.clear()

    with pytest.raises(UpstreamIncompleteError) as caught:
        await fetch(server, "/silent")

    assert (caught.value.end, caught.value.retry) == (End.UNKNOWN, False)
    assert len(server.stub.requests) == 2


async def test_the_next_address_is_dialled_when_one_is_away(server: PictureServer) -> None:
    """In the order in which the resolver named them, and not for ever."""
    policy = replace(server.policy, allowed=bool)
    found = await Fetcher(replace(policy, resolve=leading_to("127.0.0.9", "::1", HERE))).fetch(
        f"{server.url}/picture", cap=CAP, timeout=LONG
    )
    far = Fetcher(replace(policy, resolve=leading_to(*["127.0.0.9"] * 4, HERE)))
    with pytest.raises(UpstreamUnreachableError) as caught:
        await far.fetch(f"{server.url}/picture", cap=CAP, timeout=LONG)

    assert found == PNG
    assert (caught.value.status, caught.value.end, caught.value.retry) == (502, End.UNKNOWN, False)


async def test_the_checked_address_is_the_one_that_is_dialled(server: PictureServer) -> None:
    """A name that leads elsewhere when it is asked a second time is not asked a second time."""
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> Sequence[str]:
        await checkpoint()
        asked.append(host)
        return [HERE] if len(asked) == 1 else ["127.0.0.9"]

    fetcher = Fetcher(replace(server.policy, resolve=rebinding))

    assert await fetcher.fetch(f"{server.url}/picture", cap=CAP, timeout=LONG) == PNG
    assert asked == [NAME]


@pytest.mark.parametrize("addresses", [("10.0.0.1",), (HERE, "10.0.0.1"), ("::1", HERE), ("fe80::1%1",)])
async def test_a_name_with_one_bad_address_is_not_dialled_at_all(
    server: PictureServer, addresses: tuple[str, ...]
) -> None:
    """The other addresses are not trusted either."""
    fetcher = Fetcher(replace(server.policy, resolve=leading_to(*addresses)))
    with pytest.raises(UpstreamBadResponseError, match="does not fetch from") as caught:
        await fetcher.fetch(f"{server.url}/picture", cap=CAP, timeout=LONG)

    assert (caught.value.end, caught.value.retry) == (End.UNKNOWN, False)
    assert server.stub.requests == []


@pytest.mark.parametrize("addresses", [(), None])
async def test_a_name_that_leads_nowhere_is_unreachable(
    server: PictureServer, addresses: tuple[str, ...] | None
) -> None:
    """Whether the resolver says so or gives nothing."""

    async def failing(_host: str, _port: int) -> Sequence[str]:
        await checkpoint()
        if addresses is None:
            raise socket.gaierror
        return addresses

    with pytest.raises(UpstreamUnreachableError) as caught:
        await Fetcher(replace(server.policy, resolve=failing)).fetch(f"{server.url}/picture", cap=CAP, timeout=LONG)

    assert (caught.value.end, caught.value.retry) == (End.UNKNOWN, False)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://localhost.localdomain/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://example.com:8443/",
        "https://user@example.com/",
        "",
    ],
)
async def test_the_usual_policy_lets_nobody_into_the_house(url: str) -> None:
    """Our own machine, our own network, another scheme or port: no connection is even tried."""
    with pytest.raises(UpstreamError) as caught:
        await Fetcher(replace(PUBLIC, resolve=leading_to(HERE))).fetch(url, cap=CAP, timeout=LONG)

    assert caught.value.code == "upstream_bad_response"
    assert caught.value.retry is False


async def test_names_are_looked_up_by_the_system() -> None:
    """And those of this machine lead to this machine, where nothing is fetched from."""
    assert HERE in await resolve("localhost", 443)
    with pytest.raises(UpstreamUnreachableError):
        await Fetcher().fetch("https://nowhere.invalid/", cap=CAP, timeout=LONG)


@pytest.mark.parametrize("fault", ["wrong name", "unknown authority"])
async def test_a_bad_certificate_gets_nothing(fault: str) -> None:
    """No byte of the request leaves; it is the name that counts, not the address."""
    named = "elsewhere.example.com" if fault == "wrong name" else NAME
    with picture_server(SCRIPTS, named=named) as server:
        policy = server.policy
        if fault == "unknown authority":
            policy = replace(policy, context=ssl.create_default_context())
        with pytest.raises(UpstreamUnreachableError) as caught:
            await Fetcher(policy).fetch(f"{server.url}/picture", cap=CAP, timeout=LONG)

        assert (caught.value.end, caught.value.retry) == (End.UNKNOWN, False)
        assert server.stub.requests == []


async def test_plain_http_is_never_tried() -> None:
    """Where no TLS is spoken, nothing is asked."""
    heard: list[bytes] = []

    class Plain(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            heard.append(self.request.recv(4096))
            self.request.sendall(picture(PNG))

    with socketserver.ThreadingTCPServer((HERE, 0), Plain) as plain:
        port = plain.server_address[1]
        serving = threading.Thread(target=plain.serve_forever, args=(0.01,))
        serving.start()
        try:
            with pytest.raises(UpstreamUnreachableError):
                await Fetcher(FetchPolicy(allowed=bool, ports={port}, resolve=leading_to(HERE))).fetch(
                    f"https://{NAME}:{port}/picture", cap=CAP, timeout=LONG
                )
        finally:
            plain.shutdown()
            serving.join()

    assert heard
    assert not [data for data in heard if b"GET" in data]


async def test_a_policy_may_open_ones_own_network() -> None:
    """An operator whose upstream lives next door says so; an address needs no name."""
    with socket.create_server((HERE, 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(UpstreamUnreachableError):
        await Fetcher(FetchPolicy(allowed=lambda address: address == HERE, schemes={"http"}, ports=range(65536))).fetch(
            f"http://{HERE}:{port}/", cap=CAP, timeout=LONG
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_data_url_is_read_without_any_network(kind: str) -> None:
    """The picture is all there."""
    url = f"data:image/{kind};base64,{base64.b64encode(KINDS[kind]).decode()}"

    assert await Fetcher().fetch(url, cap=CAP, timeout=LONG) == KINDS[kind]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("data:image/png;base64,", UpstreamBadResponseError),
        ("data:image/png;base64,aGVsbG8=", UpstreamBadResponseError),
        ("DATA:text/html;base64,aGVsbG8=", UpstreamBadResponseError),
        ("data:image/png;base64,iVBORw0KGgo", UpstreamBadResponseError),
        ("data:image/png;base64," + "A" * 2**21, UpstreamTooLargeError),
    ],
)
async def test_a_data_url_without_a_picture_is_refused(url: str, error: type[UpstreamError]) -> None:
    """As from a server."""
    with pytest.raises(error) as caught:
        await Fetcher().fetch(url, cap=CAP, timeout=LONG)

    assert (caught.value.end, caught.value.retry) == (End.UNKNOWN, False)


async def test_many_are_fetched_side_by_side(server: PictureServer) -> None:
    """Each on a connection of its own, all closed in the end."""
    fetched: list[bytes] = []

    async def one() -> None:
        fetched.append(await fetch(server, "/picture"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)

    assert fetched == [PNG] * 20


async def test_whoever_leaves_closes_the_connection(server: PictureServer) -> None:
    """A fetch that is cancelled leaves nothing open."""
    while not server.stub.left.empty():
        server.stub.left.get()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, server, "/wait")
        await anyio.to_thread.run_sync(server.stub.waiting.acquire)
        tasks.cancel_scope.cancel()
    server.stub.let_go()

    assert len(server.stub.requests) == 1
