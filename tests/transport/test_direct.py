"""Connections of our own are kept for the next ask, for a while, and carry bodies that come by and by."""

import asyncio  # noqa: TID251, a server that tells how it was asked
from collections.abc import AsyncGenerator

import anyio
import pytest

from amux_asgi.errors import UpstreamUnreachableError
from amux_asgi.transport.base import Progress, Transport
from amux_asgi.transport.connection import Connection
from amux_asgi.transport.direct import DirectTransport, Place, open_direct
from amux_asgi.wire import Headers, HttpRequest
from tests.stub import GOOD, Reader, Stub, Writer, upstream, whole
from tests.transport.test_connection import Wire

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def body_of(transport: Transport, url: str, *, method: str = "POST", headers: Headers = ()) -> bytes:
    request = HttpRequest(method=method, url=url, headers=headers, body=b"" if method == "GET" else b"{}")
    async with transport.send(request, Progress()) as incoming:
        return b"".join([piece async for piece in incoming.chunks])


async def test_a_connection_carries_one_ask_after_the_other() -> None:
    """No handshake is paid twice, and two at once have two."""
    together = 0
    with upstream() as stub:
        async with open_direct() as transport:
            for _ in range(3):
                assert await body_of(transport, f"{stub.url}/ok") == GOOD
            alone = stub.open
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(body_of, transport, f"{stub.url}/wait")
                for _ in range(2):
                    await anyio.to_thread.run_sync(stub.waiting.acquire)
                together = stub.open
                stub.let_go()

    assert (alone, together) == (1, 2)


async def test_who_failed_is_asked_on_another_connection() -> None:
    """Many servers close right behind such an answer, whatever its head says."""

    async def failing(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(whole(GOOD, "500 Internal Server Error"))
        await writer.drain()

    with upstream(scripts={"/failing": failing}) as stub:
        async with open_direct() as transport:
            assert await body_of(transport, f"{stub.url}/failing") == GOOD
            await anyio.to_thread.run_sync(stub.closed.acquire)

            assert await body_of(transport, f"{stub.url}/ok") == GOOD


async def test_a_connection_is_not_kept_for_long() -> None:
    """Servers close what is idle, and an ask may just be on its way then."""
    with upstream() as stub:
        async with open_direct(idle=0) as transport:
            await body_of(transport, f"{stub.url}/ok")
            await anyio.to_thread.run_sync(stub.closed.acquire)

            assert await body_of(transport, f"{stub.url}/ok") == GOOD


def connected() -> Connection:
    connection = Connection()
    connection.connection_made(Wire())
    return connection


async def test_what_was_just_used_is_kept_longer() -> None:
    """A sweep closes what nobody has needed for long, and only that."""
    transport, here, there = (
        DirectTransport(idle=60),
        Place("a.example", 443, tls=True),
        Place("b.example", 80, tls=False),
    )
    old, new, other = connected(), connected(), connected()
    for place, connection in ((here, old), (here, new), (there, other)):
        transport.give_back(place, connection)
    for connection in (old, other):
        connection.idle_since -= 60

    transport.sweep()

    assert [connection.is_open for connection in (old, new, other)] == [False, True, False]
    assert await transport.take(here) is new
    transport.close()


@pytest.mark.parametrize("is_closed", [False, True])
async def test_what_is_past_its_time_is_not_taken(*, is_closed: bool) -> None:
    """Nor what a server closed; the sweep comes by only now and then."""
    transport, nowhere = DirectTransport(idle=60), Place("127.0.0.1", 1, tls=False)
    connection = connected()
    transport.give_back(nowhere, connection)
    if is_closed:
        connection.connection_lost(None)
    else:
        connection.idle_since -= 60

    with pytest.raises(UpstreamUnreachableError):
        await transport.take(nowhere)
    transport.close()

    assert not connection.is_open


async def test_what_is_given_back_too_late_is_closed() -> None:
    """Nobody would close it afterwards."""
    transport, connection = DirectTransport(), connected()
    transport.close()

    transport.give_back(Place("a.example", 443, tls=True), connection)

    assert not connection.is_open


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    """The next ask has a new one."""

    async def once(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(whole())
        await writer.drain()
        writer.close()

    with upstream(scripts={"/once": once}) as stub:
        async with open_direct() as transport:
            for _ in range(2):
                assert await body_of(transport, f"{stub.url}/once") == GOOD
                await anyio.to_thread.run_sync(stub.closed.acquire)
                await anyio.wait_all_tasks_blocked()
                for _ in range(100):  # until its end has arrived
                    await anyio.lowlevel.checkpoint()


async def test_what_came_unasked_is_nobodys_answer() -> None:
    """Also if the event loop was busy meanwhile and has not read it when the next tenant asks."""

    async def unasked(stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(whole())
        await writer.drain()
        await stub.release.wait()
        writer.write(whole(b"another tenant's"))
        await writer.drain()
        stub.waiting.release()

    with upstream(scripts={"/unasked": unasked}) as stub:
        async with open_direct() as transport:
            await body_of(transport, f"{stub.url}/unasked")
            stub.let_go()
            stub.waiting.acquire()  # the event loop stands still

            assert await body_of(transport, f"{stub.url}/ok") == GOOD


async def test_an_ask_without_a_body_has_no_length() -> None:
    """Some servers take a GET with a length for an attack; a length that is said already is not said twice."""
    with upstream() as stub:
        async with open_direct() as transport:
            await body_of(transport, f"{stub.url}/ok?a=b", method="GET", headers=(("x-a", "b"),))
            await body_of(transport, f"{stub.url}/ok", headers=(("content-length", "2"),))
        host = stub.url.removeprefix("http://")

        assert stub.requests[0] == f"GET /ok?a=b HTTP/1.1\r\nhost: {host}\r\nx-a: b\r\n\r\n".encode()
        assert stub.requests[1] == f"POST /ok HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n{{}}".encode()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example:443/", b"a.example"),
        ("https://u:p@a.example/", b"a.example"),
        ("http://[::1]:80/", b"[::1]"),
        ("http://[::1]:443/", b"[::1]:443"),
    ],
)
async def test_a_host_is_named_as_clients_do(url: str, host: bytes) -> None:
    """Without the port that goes without saying, which some servers would take for another host, and without a user."""
    transport, connection, wire = DirectTransport(), Connection(), Wire()
    connection.connection_made(wire)
    tls = url.startswith("https")
    transport.give_back(Place("a.example" if tls else "::1", 80 if url.endswith(":80/") else 443, tls), connection)

    with anyio.move_on_after(0):
        await body_of(transport, url, method="GET")
    transport.close()

    assert wire.written == b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host
    assert wire.aborted


async def parts() -> AsyncGenerator[bytes]:
    for piece in (b"one", b"two"):
        await anyio.lowlevel.checkpoint()
        yield piece


@pytest.mark.parametrize(("headers", "sent"), [((("content-length", "6"),), b"onetwo"), ((), b"3\r\none\r\n")])
async def test_a_body_may_come_by_and_by(headers: Headers, sent: bytes) -> None:
    """With its length, if that is known, otherwise in chunks."""
    seen: list[bytes] = []

    async def take(_stub: Stub, reader: Reader, writer: Writer) -> None:
        if not headers:
            seen.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(whole())
        await writer.drain()

    with upstream(scripts={"/take": take}) as stub:
        request = HttpRequest(method="POST", url=f"{stub.url}/take", headers=headers)
        async with open_direct() as transport, transport.send(request, Progress(), body=parts()) as incoming:
            assert b"".join([piece async for piece in incoming.chunks]) == GOOD
        seen.append(stub.requests[0])

    assert sent in b"".join(seen)


async def test_an_answer_may_come_before_the_request_is_whole() -> None:
    """It is read, the rest is not sent, and the connection is closed."""
    gone = anyio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        yield b"one"
        try:
            await anyio.sleep_forever()
        finally:
            gone.set()

    with upstream() as stub:
        request = HttpRequest(method="POST", url=f"{stub.url}/ok")
        async with open_direct() as transport:
            async with transport.send(request, Progress(), body=endless()) as incoming:
                assert b"".join([piece async for piece in incoming.chunks]) == GOOD
            await gone.wait()
            await anyio.to_thread.run_sync(stub.closed.acquire)


async def test_a_host_is_reached_by_any_of_its_addresses() -> None:
    """A name that has several is asked at the first that answers."""
    server = await asyncio.start_server(_answered, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server, open_direct() as transport:
        assert await body_of(transport, f"http://localhost:{port}/") == GOOD


async def _answered(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n{}")
    writer.write(whole())
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("wrong", ["/a b", "/é", "/a\r\nb"])
async def test_an_address_that_could_be_read_in_two_ways_is_not_asked(wrong: str) -> None:
    """Nothing leaves."""
    with upstream() as stub:
        async with open_direct() as transport:
            with pytest.raises(UpstreamUnreachableError):
                await body_of(transport, stub.url + wrong)

        assert stub.open == 0
