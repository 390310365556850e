"""Every transport keeps the same promises: sent once or never, capped, cut in time, with errors that are sure."""

import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import anyio
import httpx  # noqa: TID251, a client of the caller's own
import httpx2  # noqa: TID251, the same
import pytest
import trustme
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import bearer
from amux_asgi.errors import (
    ConfigError,
    End,
    GatewayError,
    UpstreamBadResponseError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse
from amux_asgi.transport.aiohttp import open_aiohttp
from amux_asgi.transport.base import Open, Progress, Transport
from amux_asgi.transport.carry import Way, carry, exchange, guard
from amux_asgi.transport.direct import open_direct
from amux_asgi.transport.httpx import open_httpx2, own_client
from amux_asgi.wire import Flow, HttpRequest, HttpResponse, Target, get, poll, post
from tests.stream_stub import Cut, Gate, Tape
from tests.stub import GOOD, Stub, upstream

pytestmark = pytest.mark.anyio


def no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def own(library: Any) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Transport]:
        async with (
            library.AsyncClient(cookies=no_cookies(), timeout=None, trust_env=False) as client,
            own_client(client)() as transport,
        ):
            yield transport

    return opened


KINDS: dict[str, Open] = {
    "httpx2": open_httpx2,
    "aiohttp": open_aiohttp,
    "direct": open_direct,
    "own httpx": own(httpx),
    "own httpx2": own(httpx2),
}


@pytest.fixture(
    params=[
        (kind, loop)
        for kind in KINDS
        for loop in ("asyncio", "trio")
        if loop == "asyncio" or kind not in {"aiohttp", "direct"}
    ],
    ids="-".join,
)
def kind_and_loop(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def anyio_backend(kind_and_loop: tuple[str, str]) -> str:
    return kind_and_loop[1]


@pytest.fixture
async def transport(kind_and_loop: tuple[str, str]) -> AsyncGenerator[Transport]:
    async with KINDS[kind_and_loop[0]]() as opened:
        yield opened


@pytest.fixture(scope="module")
def _stub() -> Generator[Stub]:
    with upstream() as stub:
        yield stub


@pytest.fixture
def stub(_stub: Stub) -> Stub:
    _stub.requests.clear()
    _stub.release.clear()
    _stub.most = 0
    while not _stub.left.empty():
        _stub.left.get()
    return _stub


def asking(url: str, *headers: tuple[str, str], body: bytes = b'{"prompt":"a"}') -> HttpRequest:
    return HttpRequest(method="POST", url=url, headers=(("accept-encoding", "identity"), *headers), body=body)


async def ask(transport: Transport, url: str, *, cap: int = 2**20, timeout: float = 30) -> HttpResponse:
    """Ask once, under a deadline as `carry` keeps it."""
    progress = Progress()
    with anyio.move_on_after(timeout):
        return await exchange(transport, asking(url), progress, cap=cap)
    raise UpstreamTimeoutError("late", end=End.UNKNOWN if progress.began else End.NEVER_SENT)


async def test_a_good_answer_is_given_whole(transport: Transport, stub: Stub) -> None:
    """Status, headers in lower case, and every byte."""
    answer = await ask(transport, f"{stub.url}/ok")

    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/json", GOOD)
    assert stub.posts == 1


@pytest.mark.parametrize("path", ["/until-close", "/drip-1xx", "/cookie", "/bare-lf", "/padded-chunk"])
async def test_odd_but_good_answers_are_given_whole(transport: Transport, stub: Stub, path: str) -> None:
    """No length, hints before the answer, cookies, sloppy line ends, padded sizes: the body arrives."""
    assert (await ask(transport, stub.url + path)).body == GOOD


@pytest.mark.parametrize(
    ("path", "errors"),
    [
        ("/close", UpstreamIncompleteError),
        ("/before-body", UpstreamIncompleteError),
        ("/half-head", (UpstreamIncompleteError, UpstreamBadResponseError)),
        ("/reset", UpstreamIncompleteError),
        ("/garbage", UpstreamBadResponseError),
        ("/space-in-name", UpstreamBadResponseError),
        ("/short-body", UpstreamIncompleteError),
        ("/cut-chunk", UpstreamIncompleteError),
        ("/bad-chunk", (UpstreamBadResponseError, UpstreamIncompleteError)),
    ],
)
async def test_what_breaks_after_sending_is_unknown_and_not_sent_again(
    transport: Transport, stub: Stub, path: str, errors: type[GatewayError] | tuple[type[GatewayError], ...]
) -> None:
    """It may have been paid: one POST, whatever happened to its answer."""
    with pytest.raises(errors) as caught:
        await ask(transport, stub.url + path)

    assert caught.value.end is End.UNKNOWN
    assert stub.posts == (0 if path == "/before-body" else 1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/"])
async def test_what_cannot_be_reached_was_never_sent(transport: Transport, url: str) -> None:
    """No connection, no byte: another attempt is safe."""
    with pytest.raises(UpstreamUnreachableError) as caught:
        await ask(transport, url)

    assert caught.value.end is End.NEVER_SENT


@pytest.mark.parametrize("path", ["/hang", "/stall-head", "/stall-body"])
async def test_an_upstream_that_stalls_is_cut_at_the_deadline(transport: Transport, stub: Stub, path: str) -> None:
    """The socket is closed at once, and the end is unknown."""
    with pytest.raises(UpstreamTimeoutError) as caught:
        await ask(transport, stub.url + path, timeout=0.3)

    assert caught.value.end is End.UNKNOWN
    assert await anyio.to_thread.run_sync(stub.left.get) == "stalled"
    assert stub.posts == 1


async def test_what_came_before_a_cut_is_given(transport: Transport) -> None:
    """Also to who was busy meanwhile: a stream's picture can be in it."""
    tape, got = Tape(), list[bytes]()

    async def take(stub: Stub, gate: Gate) -> None:
        async with transport.send(asking(f"{stub.url}/tape"), Progress()) as incoming:
            async for piece in incoming.chunks:
                got.append(piece)
                gate.open()
                await anyio.to_thread.run_sync(stub.closed.acquire)
                for _ in range(1000):  # until the end has arrived
                    await anyio.lowlevel.checkpoint()
                stub.closed.release()

    with upstream(scripts={"/tape": tape.play}) as running:
        gate = Gate(running)
        tape.steps = (b"one", gate, b"two", Cut.FIN)
        with pytest.raises(UpstreamIncompleteError):
            await take(running, gate)

    assert b"".join(got) == b"onetwo"


# httpcore leaves its own generators to the collector, which trio reports; the socket is closed all the same.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("path", ["/big", "/says-big"])
async def test_a_huge_answer_is_cut_at_the_cap(transport: Transport, stub: Stub, path: str) -> None:
    """Not a byte more than needed is held, and the connection is closed."""
    with pytest.raises(UpstreamTooLargeError) as caught:
        await ask(transport, stub.url + path)

    assert caught.value.end is End.UNKNOWN
    await anyio.to_thread.run_sync(stub.left.get)
    assert stub.most < 64


async def test_a_redirect_is_an_answer_and_nothing_more(transport: Transport, stub: Stub) -> None:
    """Nobody is asked at the other place."""
    assert (await ask(transport, f"{stub.url}/redirect")).status == 307
    assert len(stub.requests) == 1


async def test_a_compressed_answer_is_not_unpacked(transport: Transport, stub: Stub) -> None:
    """What could be a bomb stays closed."""
    answer = await ask(transport, f"{stub.url}/gzip")

    assert answer.body[:2] == b"\x1f\x8b"
    assert answer.headers["content-encoding"] == "gzip"


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(transport: Transport, stub: Stub) -> None:
    """Tenants share connections, not sessions."""
    await ask(transport, f"{stub.url}/cookie")
    await ask(transport, f"{stub.url}/ok")

    assert b"cookie" not in stub.requests[-1].lower()


async def test_proxies_of_the_environment_are_not_used(
    transport: Transport, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential goes to the upstream, not to whatever a shell had set."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert (await ask(transport, f"{stub.url}/ok")).status == 200


async def test_bytes_sent_too_many_are_not_the_next_answer(
    kind_and_loop: tuple[str, str], transport: Transport, stub: Stub
) -> None:
    """One tenant's picture never answers another's request."""
    if kind_and_loop[0].startswith("own"):
        return  # a caller's client keeps connections as the caller decided
    await ask(transport, f"{stub.url}/glued")

    assert (await ask(transport, f"{stub.url}/ok")).body == GOOD


async def test_a_cancelled_request_is_not_sent_later(transport: Transport, stub: Stub) -> None:
    """Who leaves before anything was sent has asked for nothing; who leaves later closes the socket."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, transport, f"{stub.url}/hang")
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, transport, f"{stub.url}/wait")
        await anyio.to_thread.run_sync(stub.waiting.acquire)
        tasks.cancel_scope.cancel()
    stub.let_go()
    await ask(transport, f"{stub.url}/ok")

    assert stub.posts == 2


async def test_two_thousand_requests_wait_side_by_side(
    kind_and_loop: tuple[str, str], transport: Transport, stub: Stub
) -> None:
    """Slow pictures do not queue behind each other."""
    number = 2000 if kind_and_loop in {("httpx2", "asyncio"), ("aiohttp", "asyncio"), ("direct", "asyncio")} else 50
    answers: list[int] = []

    async def one() -> None:
        answers.append((await ask(transport, f"{stub.url}/wait", timeout=120)).status)

    async with anyio.create_task_group() as tasks:
        for i in range(number):
            tasks.start_soon(one)
            if (i + 1) % 50 == 0:  # so few connect at a time that none waits for long
                for _ in range(50):
                    await anyio.to_thread.run_sync(stub.waiting.acquire)
        stub.let_go()

    assert answers == [200] * number
    assert stub.posts == number


@pytest.mark.parametrize("name", ["wrong host", "unknown authority"])
async def test_a_bad_certificate_gets_nothing(transport: Transport, name: str) -> None:
    """No byte of the request leaves, and plain HTTP is never tried."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = trustme.CA().issue_cert("elsewhere.example" if name == "wrong host" else "127.0.0.1")
    certificate.configure_cert(context)
    with upstream(context) as secure:
        with pytest.raises(UpstreamUnreachableError) as caught:
            await ask(transport, f"{secure.url}/ok")

        assert caught.value.end is End.NEVER_SENT
        assert secure.requests == []


@pytest.mark.parametrize(
    "header", [("x", "a\r\nb: c"), ("x\r\n", "a"), ("x", "\x00"), ("x", "é"), ("", "a"), ("x", " a")]
)
async def test_a_header_that_could_be_two_is_not_sent(
    transport: Transport, stub: Stub, header: tuple[str, str]
) -> None:
    """Nothing is smuggled, and nothing leaves."""
    with pytest.raises(UpstreamError) as caught:
        await exchange(transport, asking(f"{stub.url}/ok", header), Progress(), cap=100)

    assert caught.value.end is End.NEVER_SENT
    assert stub.requests == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "ftp://127.0.0.1/", "http://", "http://[::1", "nonsense"])
async def test_a_broken_url_is_an_error_of_ours(transport: Transport, url: str) -> None:
    """Whatever a library raises for it, nothing was sent."""
    with pytest.raises(GatewayError) as caught:
        await ask(transport, url)

    assert caught.value.end is End.NEVER_SENT


async def carried(transport: Transport, url: str, *, timeout: float = 30, cap: int = 2**20) -> ImagesResponse:
    adapter = ADAPTERS["openai-compatible"]
    target = Target(base_url=url, model="m")
    way = way_to(transport, url, cap=cap)
    return await carry(adapter.generate(target, GenerationRequest(prompt="a cat")), way, timeout=timeout)


def way_to(transport: Transport, url: str, *, cap: int = 2**20, **options: Any) -> Way:
    return Way(
        transport=transport,
        sign=bearer,
        credential="sk-secret",
        base_url=url,
        hosts=(),
        headers={"openai-project": "p"},
        cap=cap,
        **options,
    )


async def test_a_flow_is_carried_to_its_end(transport: Transport, stub: Stub) -> None:
    """The ask goes out signed, with the channel's headers, and asks for plain bytes."""
    response = await carried(transport, f"{stub.url}/v1")

    assert response.data[0].read() == b"hello"
    head = stub.requests[0].lower()
    assert head.startswith(b"post /v1/images/generations http/1.1\r\n")
    for line in (
        b"authorization: bearer sk-secret",
        b"accept-encoding: identity",
        b"openai-project: p",
        b"user-agent: amux-asgi",
    ):
        assert head.count(b"\r\n" + line + b"\r\n") == 1


async def test_a_flow_that_is_late_says_what_is_sure(
    kind_and_loop: tuple[str, str], transport: Transport, stub: Stub
) -> None:
    """The deadline ends it; a caller's client that told nothing so far is believed to have sent."""
    with pytest.raises(UpstreamTimeoutError) as caught:
        await carried(transport, f"{stub.url}/v1", timeout=0)

    assert caught.value.end is (End.UNKNOWN if kind_and_loop[0].startswith("own") else End.NEVER_SENT)
    assert stub.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/x",
        "http://api.example.com/x",
        "https://api.example.com.evil.example/x",
        "https://user@api.example.com/x",
        "https://api.example.com\\@evil.example/x",
        "https://notvendor.example/x",
        "https://api.example.com/a b",
        "https://api.example.com/\r\nx",
    ],
)
async def test_the_credential_goes_only_where_the_channel_covers(url: str) -> None:
    """Another host, plain HTTP, or a URL that could be read in two ways: refused."""
    with pytest.raises(UpstreamError):
        guard(url, "https://api.example.com/v1", ("vendor.example",))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1/x?a=b%20c",
        "https://api.example.com/other",
        "https://eu.vendor.example/poll",
        "https://vendor.example/",
    ],
)
async def test_the_credential_may_go_to_the_vendors_own_hosts(url: str) -> None:
    """Polls often live beside the base URL."""
    guard(url, "https://api.example.com/v1", ("vendor.example",))


async def test_a_client_that_could_leak_cookies_is_refused() -> None:
    """The message names the mend."""
    async with httpx2.AsyncClient() as client:
        with pytest.raises(ConfigError, match="DefaultCookiePolicy"):
            own_client(client)
    with httpx2.Client() as plain, pytest.raises(ConfigError, match="AsyncClient"):
        own_client(cast("Any", plain))


async def test_a_client_of_ones_own_may_fail_in_its_own_way() -> None:
    """Whatever its transport raises is an error of ours; if that tells nothing, all may have been sent."""

    class Odd(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await anyio.lowlevel.checkpoint()
            raise RuntimeError(request.url)

    async with httpx2.AsyncClient(transport=Odd(), cookies=no_cookies()) as client, own_client(client)() as transport:
        with pytest.raises(UpstreamError, match="could not be asked") as caught:
            await ask(transport, "http://127.0.0.1:9/")

    assert caught.value.end is End.UNKNOWN


async def test_a_client_of_ones_own_keeps_its_own_deadline(stub: Stub) -> None:
    """Its read timeout counts beside the gateway's."""
    async with (
        httpx2.AsyncClient(timeout=httpx2.Timeout(None, read=0.2), cookies=no_cookies(), trust_env=False) as client,
        own_client(client)() as transport,
    ):
        with pytest.raises(UpstreamTimeoutError) as caught:
            await ask(transport, stub.url + "/hang")

    assert caught.value.end is End.UNKNOWN
    assert await anyio.to_thread.run_sync(stub.left.get) == "stalled"


class Naps:
    """Waits that take no time, and what they were."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await anyio.lowlevel.checkpoint()


class State(Struct, frozen=True):
    data: tuple[dict[str, Any], ...] = ()


def waiting(url: str, polls: int, *, cancel: str | None = None) -> Flow:
    """Submit, then poll until there have been so many answers; with a way to cancel, they never come."""
    yield post(f"{url}/submit", {})
    seen: list[State] = []

    def is_last(state: State) -> bool:
        seen.append(state)
        return len(seen) == polls

    ask, off = (get(f"{url}/ok"), None) if cancel is None else (get(f"{url}/hang"), post(url + cancel, {}))
    yield from poll(State, ask, until=is_last, first=1, every=2, longest=5, cancel=off)
    return ImagesResponse(data=(Image(url="https://pictures.example/1"),))


async def test_polls_wait_longer_and_longer_with_jitter(transport: Transport, stub: Stub) -> None:
    """First soon, then slower up to a bound, each a little later than the vendor advises."""
    naps = Naps()

    images = await carry(
        waiting(stub.url, 6), way_to(transport, stub.url, sleep=naps.sleep, random=lambda: 0.4), timeout=30
    )

    assert images.data[0].url == "https://pictures.example/1"
    assert naps.seconds == pytest.approx([1.1, 2.2, 3.3, 4.95, 5.5, 5.5])
    assert stub.posts == 1


@pytest.mark.parametrize(("path", "end"), [("/ok", End.REFUSED), ("/blocked", End.UNKNOWN), ("/close", End.UNKNOWN)])
async def test_work_is_called_off_when_the_time_is_over(transport: Transport, stub: Stub, path: str, end: End) -> None:
    """The vendor is told once; if it agrees nothing was paid, otherwise nobody knows."""
    way = way_to(transport, stub.url, sleep=Naps().sleep)

    with pytest.raises(UpstreamTimeoutError) as caught:
        await carry(waiting(stub.url, 2, cancel=path), way, timeout=0.5)

    assert caught.value.end is end
    assert stub.requests[-1].startswith(f"POST {path} ".encode())


async def test_one_poll_that_hangs_is_asked_again(transport: Transport, stub: Stub) -> None:
    """It has its own time, and five failures in a row are waited out."""

    def flow() -> Flow:
        ask = replace(get(f"{stub.url}/hang"), timeout=0.05)
        with pytest.raises(UpstreamTimeoutError) as caught:
            yield ask
        assert caught.value.end is End.UNKNOWN
        yield get(f"{stub.url}/ok")
        return ImagesResponse(data=(Image(url="u"),))

    assert (await carry(flow(), way_to(transport, stub.url), timeout=30)).data[0].url == "u"


async def test_a_credential_does_not_follow_a_poll_to_another_host(transport: Transport, stub: Stub) -> None:
    """The address that a vendor names is looked at before anything is sent there."""

    def flow() -> Flow:
        yield post(f"{stub.url}/ok", {})
        return (yield from poll(ImagesResponse, get("http://127.0.0.2:1/x"), until=bool, first=0, every=1, longest=1))

    with pytest.raises(UpstreamError) as caught:
        await carry(flow(), way_to(transport, stub.url, sleep=Naps().sleep), timeout=30)

    assert caught.value.end is End.UNKNOWN
    assert len(stub.requests) == 1
