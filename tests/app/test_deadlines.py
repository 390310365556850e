"""Whatever an upstream does, a request ends in its time; whatever is left of it, is all that attempts get."""

import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest

from amux_asgi import (
    ChannelConfig,
    Config,
    Gateway,
    GatewayConfig,
    GenerationRequest,
    MemoryLedger,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.errors import End, GatewayError, UpstreamTimeoutError, UpstreamTooLargeError
from amux_asgi.planning import Terms
from tests.stub import Reader, Stub, Writer, upstream
from tests.test_gateway import BUSY, GOOD, Upstreams, gateway, order

pytestmark = pytest.mark.anyio
ME = Principal(account="me", key="me")
LATE = 0.25  # seconds
LEFT = {"hang": "stalled", "stall-head": "stalled", "stall-body": "stalled", "drip": "/drip"}


async def drip(stub: Stub, reader: Reader, writer: Writer) -> None:
    """Send a byte now and then, as long as the client stays."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    try:
        while True:
            writer.write(b" ")
            await writer.drain()
            if reader.at_eof():
                raise ConnectionError
            await anyio.sleep(0.1)
    finally:
        stub.left.put("/drip")


@pytest.fixture(scope="module")
def stub() -> Generator[Stub]:
    with upstream(scripts={"/drip": drip}) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(stub: Stub) -> None:
    stub.requests.clear()


@pytest.fixture
def deaf() -> Generator[str]:
    """Give the address of a host that takes no connection: those that it queues are already there."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/v1"
        for one in waiting:
            one.close()


@asynccontextmanager
async def asking(
    urls: dict[str, str], transport: Literal["direct", "aiohttp", "httpx2"], **options: Any
) -> AsyncGenerator[Gateway]:
    """Open a gateway whose models are these upstreams."""
    channels = [
        ChannelConfig(name=name, adapter="openai-compatible", base_url=url, models=(name,))
        for name, url in urls.items()
    ]
    config = Config(gateway=GatewayConfig(transport=transport, **options), channels=tuple(channels))
    images = images_app(config, authenticate=anyone, ledger=MemoryLedger())
    async with images.lifespan():
        yield images.gateway


on_each = pytest.mark.parametrize(
    ("anyio_backend", "transport"),
    [("asyncio", "direct"), ("asyncio", "aiohttp"), ("asyncio", "httpx2"), ("trio", "httpx2")],
)


@on_each
async def test_in_whatever_phase_an_upstream_stops_the_request_ends_in_time(
    stub: Stub, deaf: str, transport: Literal["direct", "aiohttp", "httpx2"]
) -> None:
    """Connecting, before or in the head, in the body, or byte by byte: 504, the socket is closed, nothing is resent."""
    ends: dict[str, tuple[float, GatewayError]] = {}
    begun = told = 0.0
    urls = {name: f"{stub.url}/{name}/v1" for name in LEFT} | {"deaf": deaf}

    async def one(asked: Gateway, name: str) -> None:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await asked.generate(GenerationRequest(model=name, prompt="x"), ME, Terms(timeout=2))
        ends[name] = (time.monotonic(), caught.value)

    async with asking(urls, transport) as asked, anyio.create_task_group() as tasks:
        begun = time.monotonic()
        for name in urls:
            tasks.start_soon(one, asked, name)
        await anyio.sleep(2)
        told = time.monotonic()  # a busy machine is late by itself

    for name, (ended, error) in ends.items():
        assert begun + 2 <= ended <= told + LATE, name
        assert error.end is (End.NEVER_SENT if name == "deaf" else End.UNKNOWN), name
        assert (error.status, error.attempts) == (504, 1), name
    assert sorted(stub.left.get() for _ in LEFT) == sorted(LEFT.values())
    assert stub.posts == len(LEFT)


@pytest.mark.parametrize(
    ("anyio_backend", "transport"), [("asyncio", "direct"), ("asyncio", "aiohttp"), ("asyncio", "httpx2")]
)
async def test_an_endless_answer_is_cut_off(stub: Stub, transport: Literal["direct", "aiohttp", "httpx2"]) -> None:
    """502, and no more of it is read than may be held."""
    stub.most = 0
    async with asking({"big": f"{stub.url}/big/v1"}, transport, max_answer=2**20) as asked:
        with pytest.raises(UpstreamTooLargeError) as caught:
            await asked.generate(GenerationRequest(model="big", prompt="x"), ME)

    assert (caught.value.status, caught.value.attempts) == (502, 1)
    assert await anyio.to_thread.run_sync(stub.left.get) == "/big"
    assert stub.most < 32


async def test_a_second_attempt_gets_what_the_first_one_left() -> None:
    """Five seconds in all, of which the first took three and a half."""
    now = [0.0]
    upstreams = Upstreams(before=lambda: now.__setitem__(0, now[0] + 3.5))

    async def hangs(*_: object) -> None:
        await anyio.sleep_forever()

    upstreams.answering = lambda name, answer: hangs if name == "two" else Upstreams.answering(upstreams, name, answer)
    async with gateway(upstreams, {"one": BUSY, "two": None, "three": GOOD}, clock=lambda: now[0]) as asked:
        begun = anyio.current_time()
        with pytest.raises(UpstreamTimeoutError) as caught:
            await asked.generate(order(), ME, Terms(timeout=5))
        took = anyio.current_time() - begun

    assert 1.5 <= took < 3.5
    assert (caught.value.attempts, upstreams.asked) == (2, ["one"])


@pytest.mark.parametrize(("left", "asked"), [(1.5, ["one", "two"]), (0.9, ["one"])])
async def test_no_attempt_begins_with_less_than_a_second(left: float, asked: list[str]) -> None:
    """It could only be paid for and cut off."""
    now = [0.0]
    upstreams = Upstreams(before=lambda: now.__setitem__(0, 5 - left))

    async with gateway(upstreams, {"one": BUSY, "two": GOOD}, clock=lambda: now[0]) as asking:
        try:
            made = await asking.generate(order(), ME, Terms(timeout=5))
            attempts = made.attempts
        except GatewayError as error:
            attempts = error.attempts

    assert (upstreams.asked, attempts) == (asked, len(asked))


async def test_what_was_received_slowly_has_less_time_left() -> None:
    """A request that has used its time up is refused before anything is held for it."""
    upstreams = Upstreams()

    async with gateway(upstreams, {"one": GOOD}, clock=lambda: 100.0) as asking:
        with pytest.raises(UpstreamTimeoutError):
            await asking.generate(order(), ME, Terms(timeout=5, begun=95.5))
        await asking.generate(order(), ME, Terms(timeout=5, begun=96))

    assert upstreams.asked == ["one"]
