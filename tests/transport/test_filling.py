"""A long body comes from the socket to where it stays: whole, or it is an error; and nothing else comes with it."""

import asyncio  # noqa: TID251, a server that answers before it has read
import ssl
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import pytest
import trustme
import uvloop

from amux_asgi.errors import UpstreamIncompleteError
from amux_asgi.transport.base import Progress, Transport
from amux_asgi.transport.carry import Grow, exchange
from amux_asgi.transport.connection import Connection
from amux_asgi.transport.direct import open_direct
from amux_asgi.wire import HttpRequest
from tests.stream_stub import Cut, Gate, Tape
from tests.stub import GOOD, Reader, Script, Stub, Writer, upstream, whole

pytestmark = pytest.mark.anyio
BODY: Final = bytes(range(251)) * 20_000  # 5 MB, which is some turns
HALF: Final = len(BODY) // 2
HEAD: Final = whole(BODY).removesuffix(BODY)
POST: Final = b"{}"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Callable[[], object]]]:
    return "asyncio", {"loop_factory": request.param}


@pytest.fixture
async def transport() -> AsyncGenerator[Transport]:
    async with open_direct() as opened:
        yield opened


class Ports:
    """Which of the client's ports asked, and what it was answered."""

    def __init__(self, answer: bytes = HEAD + BODY) -> None:
        self.seen: list[int] = []
        self._answer = answer

    async def long(self, _stub: Stub, _reader: Reader, writer: Writer) -> None:
        self.seen.append(writer.get_extra_info("peername")[1])
        writer.write(self._answer)
        await writer.drain()

    async def short(self, _stub: Stub, _reader: Reader, writer: Writer) -> None:
        self.seen.append(writer.get_extra_info("peername")[1])
        writer.write(whole())
        await writer.drain()

    @property
    def scripts(self) -> dict[str, Script]:
        return {"/long": self.long, "/short": self.short}


async def ask(transport: Transport, url: str, grow: Grow | None = None) -> bytes:
    request = HttpRequest(method="POST", url=url, body=POST)
    return (await exchange(transport, request, Progress(), cap=2**24, grow=grow)).body


async def test_a_long_body_is_in_memory_once(transport: Transport) -> None:
    """From its first byte until it is given: there is room for it, and for a little more."""
    with upstream(scripts=Ports().scripts) as stub:
        await ask(transport, f"{stub.url}/short")
        tracemalloc.start()
        body = await ask(transport, f"{stub.url}/long")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert body == BODY
    assert most < 1.5 * len(BODY)


async def test_a_long_body_arrives_whole_and_its_connection_is_used_again(transport: Transport) -> None:
    """Every byte counts once, and no more is taken in at once than others can wait for."""
    ports, counted = Ports(), list[int]()

    async def grow(size: int) -> None:
        counted.append(size)
        await anyio.lowlevel.checkpoint()

    with upstream(scripts=ports.scripts) as stub:
        for _ in range(3):
            assert await ask(transport, f"{stub.url}/long", grow) == BODY
            assert await ask(transport, f"{stub.url}/short") == GOOD

    assert len(set(ports.seen)) == 1
    assert sum(counted) == 3 * len(BODY)
    assert max(counted) < HALF


async def test_a_long_body_comes_encrypted_too() -> None:
    """As all vendors send it."""
    authority: Any = trustme.CA()
    ports = Ports()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)

    with upstream(server, ports.scripts) as stub:
        loop, port = asyncio.get_running_loop(), urlsplit(stub.url).port or 0
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port, ssl=client)
        for _ in range(3):
            connection.begin(b"POST /long HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            await connection.head()
            room = memoryview(bytearray(len(BODY)))
            await connection.fill(room[:HALF])
            await connection.fill(room[HALF:])

            assert room == BODY
            assert connection.is_reusable
        connection.close()
        await anyio.to_thread.run_sync(stub.closed.acquire)

    assert len(ports.seen) == 3


async def test_what_comes_behind_a_long_body_answers_nothing(transport: Transport) -> None:
    """One tenant's picture never answers another's request."""
    ports = Ports(HEAD + BODY + whole(b"stolen"))
    with upstream(scripts=ports.scripts) as stub:
        for _ in range(5):
            assert await ask(transport, f"{stub.url}/long") == BODY
            assert await ask(transport, f"{stub.url}/short") == GOOD

    assert len(set(ports.seen)) > 1


@pytest.mark.parametrize("cut", [Cut.FIN, Cut.RST])
@pytest.mark.parametrize("size", [0, 1, 100, HALF, len(BODY) - 1])
async def test_a_long_body_that_is_cut_is_incomplete(transport: Transport, cut: Cut, size: int) -> None:
    """Wherever that happens."""
    tape = Tape(BODY[:size], cut, head=HEAD)
    with upstream(scripts={"/tape": tape.play}) as stub, pytest.raises(UpstreamIncompleteError):
        await ask(transport, f"{stub.url}/tape")


async def test_a_long_body_that_is_cut_while_there_is_no_room_is_incomplete(transport: Transport) -> None:
    """Nothing is read then, so it is noticed later."""
    tape = Tape(head=HEAD)
    with upstream(scripts={"/tape": tape.play}) as stub:
        gate = Gate(stub)
        tape.steps = (BODY[:HALF], gate, Cut.FIN)

        async def grow(_size: int) -> None:
            gate.open()
            await anyio.to_thread.run_sync(stub.closed.acquire)
            stub.closed.release()

        with pytest.raises(UpstreamIncompleteError):
            await ask(transport, f"{stub.url}/tape", grow)


async def test_a_long_body_that_stalls_is_left_at_the_deadline(transport: Transport) -> None:
    """The connection is closed, and the next one is another."""
    tape = Tape(BODY[:HALF], Cut.STALL, head=HEAD)
    with upstream(scripts={"/tape": tape.play}) as stub:
        with anyio.move_on_after(0.3) as scope:
            await ask(transport, f"{stub.url}/tape")

        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(stub.left.get) == "stalled"
        assert await ask(transport, f"{stub.url}/ok") == GOOD


async def test_a_long_body_without_a_length_arrives_whole(transport: Transport) -> None:
    """In chunks, or until the end of the connection."""
    tape = Tape(*(BODY[at : at + 100_000] for at in range(0, len(BODY), 100_000)))
    with upstream(scripts={"/tape": tape.play}) as stub:
        assert await ask(transport, f"{stub.url}/tape") == BODY
        tape.head = b"HTTP/1.1 200 OK\r\n\r\n"
        assert await ask(transport, f"{stub.url}/tape") == BODY


async def test_a_long_body_may_come_while_the_request_still_leaves(transport: Transport) -> None:
    """A server that answers early reads the rest meanwhile, in bits."""

    async def early(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + BODY[:HALF])
        assert await reader.readexactly(2 * len(BODY)) == BODY + BODY
        writer.write(BODY[HALF:])
        await writer.drain()
        writer.close()

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(BODY), 100_000):
            yield BODY[start : start + 100_000]
        yield BODY

    async with serving(early) as url:
        request = HttpRequest(method="POST", url=url, headers=(("content-length", str(2 * len(BODY))),))
        async with transport.send(request, Progress(), body=pieces()) as incoming:
            assert incoming.fill is not None
            room = memoryview(bytearray(len(BODY)))
            await incoming.fill(room[:1])  # which is there already
            await incoming.fill(room[1:])

    assert room == BODY


@asynccontextmanager
async def serving(answer: Callable[[Reader, Writer], Awaitable[None]]) -> AsyncGenerator[str]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
