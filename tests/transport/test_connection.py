"""A connection of our own reads an answer byte by byte as well as at once, and never takes one for another."""

import asyncio  # noqa: TID251, what is tested is a protocol of asyncio's
import socket
import ssl
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
import trustme

from amux_asgi.errors import GatewayError, UpstreamBadResponseError, UpstreamIncompleteError
from amux_asgi.transport.connection import FIRST, SILENCE, UNREAD, Connection
from tests.stub import Reader, Stub, Writer, upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Wire(asyncio.Transport):
    """What the event loop gives a connection to write to: it keeps what is done with it."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)
        self.written = b""
        self.waiting = 0
        self.aborted = False
        self.turns: list[str] = []

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.turns.append("pause")

    def resume_reading(self) -> None:
        self.turns.append("resume")


def asked(method: bytes = b"GET", *, is_whole: bool = True, **extra: Any) -> tuple[Connection, Wire]:
    """Begin an exchange."""
    connection, wire = Connection(), Wire(**extra)
    connection.connection_made(wire)
    connection.begin(method + b" / HTTP/1.1\r\n\r\n", is_whole=is_whole)
    return connection, wire


async def answer(connection: Connection) -> tuple[int, list[tuple[str, str]], bytes]:
    """Read an answer to its end."""
    await connection.head()
    return connection.status, connection.headers, b"".join([piece async for piece in connection.pieces()])


LENGTH = b"HTTP/1.1 200 OK\r\nX-A: b\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nX-A: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n"
)
HINTED = b"HTTP/1.1 100 Continue\r\nx-hint: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + LENGTH
NOTHING = b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"


@pytest.mark.parametrize("told", [LENGTH, CHUNKED, HINTED, NOTHING])
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_an_answer_is_the_same_however_it_is_cut_up(told: bytes, step: int) -> None:
    """Head and body, with hints before it and trailers behind it; then the next request may follow."""
    connection, _ = asked()
    got: list[Any] = []

    async def read() -> None:
        got.append(await answer(connection))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for at in range(0, len(told), step):
            await anyio.wait_all_tasks_blocked()
            connection.data_received(told[at : at + step])

    [(status, headers, body)] = got
    assert (status, headers[0], body) == (
        (204, ("x-a", "b"), b"") if told is NOTHING else (200, ("x-a", "b"), b"hello")
    )
    assert len(headers) == (1 if told is NOTHING else 2)
    assert connection.is_reusable


@pytest.mark.parametrize(
    ("told", "more"),
    [
        (LENGTH, b"x"),
        (LENGTH, LENGTH),
        (CHUNKED, CHUNKED),
        (LENGTH.replace(b"X-A: b", b"connection: close"), b""),
        (LENGTH.replace(b"1.1", b"1.0"), b""),
        (NOTHING, LENGTH),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_no_other_request_follows_what_is_not_sure(told: bytes, more: bytes, *, late: bool) -> None:
    """Bytes after the answer, or a word that this was the last: the answer is good, and the connection is not used."""
    connection, wire = asked()
    cut = len(told) - 3 if late and told is not NOTHING else 0

    for piece in (told[:cut], told[cut:] + more):
        connection.data_received(piece)
    _, _, body = await answer(connection)

    assert body == (b"" if told is NOTHING else b"hello")
    assert not connection.is_reusable
    assert not wire.aborted


async def test_bytes_that_nobody_asked_for_close_it() -> None:
    """What comes between two requests belongs to none."""
    connection, wire = asked()
    connection.data_received(LENGTH)
    await answer(connection)
    connection.eof_received()
    before = wire.aborted

    connection.data_received(b"HTTP/1.1 200 OK\r\n")

    assert not before
    assert wire.aborted
    assert not connection.is_open
    assert not connection.is_reusable


async def test_an_answer_that_was_not_read_is_nobodys_next_one() -> None:
    """Who leaves early leaves a connection that is not used again."""
    connection, _ = asked()
    connection.data_received(LENGTH)
    await connection.head()

    assert not connection.is_reusable


@pytest.mark.parametrize(
    "told",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-y: z\r\n" * (SILENCE // 8),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (SILENCE // 20),
        b"220 smtp.example.com ESMTP\r\n",
        b"HTTP/1.1 099 Odd\r\ncontent-length: 5\r\n\r\nstole" + LENGTH,
    ],
)
async def test_what_is_no_answer_is_said_to_be_none(told: bytes) -> None:
    """Another protocol, two lengths, a head without an end, or a hint that has a body."""
    connection, _ = asked()

    connection.data_received(told)

    with pytest.raises(UpstreamBadResponseError):
        await connection.head()


async def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    """It has no length; and one that has is cut off."""
    open_end, _ = asked()
    open_end.data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
    open_end.data_received(b"lo")
    open_end.eof_received()
    open_end.connection_lost(None)
    cut, _ = asked()
    cut.data_received(LENGTH[:-2])
    cut.connection_lost(None)
    half_cut, _ = asked()
    half_cut.data_received(LENGTH[:-2])
    half_cut.eof_received()
    reset, _ = asked()
    reset.data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
    reset.connection_lost(ConnectionResetError())

    assert (await answer(open_end))[2] == b"hello"
    for connection in (cut, half_cut, reset):
        await cut_off(connection)


@pytest.mark.parametrize("encodings", [(b"chunked", b"identity"), (b"chunked, gzip",), (b"xchunked",)])
async def test_chunks_do_not_end_with_the_connection(encodings: tuple[bytes, ...]) -> None:
    """Who speaks of chunks, however oddly, must send the last one."""
    connection, _ = asked()
    said = b"".join(b"transfer-encoding: %b\r\n" % encoding for encoding in encodings)
    connection.data_received(b"HTTP/1.1 200 OK\r\n%b\r\nhel" % said)
    connection.eof_received()
    connection.connection_lost(None)

    await cut_off(connection)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_under_tls_an_end_is_the_upstreams_word(*, is_cut: bool) -> None:
    """Anybody on the way could end the connection, and a body of no said length with it, but not say goodbye."""

    async def open_end(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await writer.drain()
        if is_cut:
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        writer.close()

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(context)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with upstream(context, {"/": open_end}) as stub:
        host, port = stub.url.removeprefix("https://").split(":")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port), ssl=trusting)
        connection.begin(b"GET / HTTP/1.1\r\n\r\n")
        if is_cut:
            await cut_off(connection)
        else:
            assert (await answer(connection))[2] == b"hel"
        connection.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_an_answer_to_head_has_no_body(method: bytes) -> None:
    """Its head says how long one would be; no other request follows."""
    connection, _ = asked(method)
    connection.data_received(LENGTH if method == b"GET" else LENGTH.removesuffix(b"hello"))

    _, headers, body = await answer(connection)

    assert (dict(headers)["content-length"], body) == ("5", b"hello" if method == b"GET" else b"")
    assert connection.is_reusable is (method == b"GET")


async def test_a_request_that_has_not_left_is_followed_by_none() -> None:
    """An upstream may answer before it has read all, and then read no more."""
    connection, wire = asked()
    connection.data_received(LENGTH)
    await answer(connection)
    wire.waiting = 1

    assert not connection.is_reusable


async def test_a_connection_that_was_lost_before_is_not_waited_for() -> None:
    """The event loop tells only once."""
    connection = Connection()
    connection.connection_made(Wire())
    connection.connection_lost(None)

    connection.begin(b"GET / HTTP/1.1\r\n\r\n")

    with pytest.raises(UpstreamIncompleteError):
        await connection.head()


async def test_what_the_event_loop_did_not_tell_yet_is_known() -> None:
    """Bytes that nobody asked for, or the end: a request that follows would be lost or answered wrongly."""
    here, there = socket.socketpair()
    with here, there:
        connection = Connection()
        connection.connection_made(Wire(socket=here))
        before = connection.is_quiet
        there.close()

        assert before
        assert not connection.is_quiet


async def cut_off(connection: Connection) -> None:
    """Read what came of an answer, which is not all."""
    got: list[bytes] = []
    await connection.head()
    with pytest.raises(UpstreamIncompleteError):
        await _into(got, connection)
    assert got == [b"hel"]


async def _into(got: list[bytes], connection: Connection) -> None:
    async for piece in connection.pieces():
        got.append(piece)  # noqa: PERF401, what came before a fault is kept


async def test_an_upstream_waits_while_its_answer_is_not_read() -> None:
    """So much is kept for the reader and no more; it goes on when that was read."""
    connection, wire = asked()
    pieces = [b"x" * UNREAD, b"y", b"z"]
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (UNREAD + 2))
    for piece in pieces[:2]:
        connection.data_received(piece)
    before = list(wire.turns)

    got: list[bytes] = []
    async for piece in connection.pieces():
        got.append(piece)
        if len(got) == 2:
            connection.data_received(pieces[2])

    assert before == ["pause"]
    assert wire.turns == ["pause", "resume"]
    assert got == pieces


async def test_of_a_long_answer_no_more_is_read_until_its_place_is_known() -> None:
    """What came with the head is little, so that little is copied once more; who wants pieces has it read on."""
    connection, wire = asked()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (4 * UNREAD)

    room = connection.get_buffer(-1)
    room[: len(head) + 2] = head + b"ab"
    connection.buffer_updated(len(head) + 2)
    before = list(wire.turns)
    pieces = connection.pieces()
    first = await anext(pieces)

    assert len(room) == FIRST
    assert before == ["pause"]
    assert (first, wire.turns) == (b"ab", ["pause", "resume"])


async def test_a_long_answer_is_read_on_where_nothing_came_with_its_head() -> None:
    """Otherwise who wants pieces would wait for ever."""
    connection, wire = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % UNREAD)
    got: list[bytes] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_into, got, connection)
        await anyio.wait_all_tasks_blocked()
        assert wire.turns == ["pause", "resume"]
        connection.data_received(b"x" * UNREAD)

    assert got == [b"x" * UNREAD]


async def _body(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        await anyio.lowlevel.checkpoint()
        yield piece


@pytest.mark.parametrize(("length", "written"), [(6, b"onetwo"), (None, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")])
async def test_a_body_is_written_as_it_comes(written: bytes, length: int | None) -> None:
    """In chunks, where nobody said how long it is; an empty piece is none."""
    connection, wire = asked(is_whole=False)

    await connection.upload(_body(b"one", b"", b"two"), length)

    assert wire.written == b"GET / HTTP/1.1\r\n\r\n" + written


@pytest.mark.parametrize(("length", "written"), [(5, b"one"), (7, b"onetwo"), (6, b"onetwo")])
async def test_a_body_is_as_long_as_was_said(written: bytes, length: int) -> None:
    """Otherwise the next request would be taken for its rest, or its rest for a request, so that none follows."""
    connection, wire = asked(is_whole=False)
    connection.data_received(LENGTH)
    await answer(connection)

    await connection.upload(_body(b"one", b"two"), length)

    assert wire.written == b"GET / HTTP/1.1\r\n\r\n" + written
    assert connection.is_reusable is (length == 6)


async def test_a_body_waits_for_an_upstream_that_takes_no_more() -> None:
    """Nothing is written meanwhile, and nothing more when the connection is lost."""
    connection, wire = asked()
    first = b""

    async with anyio.create_task_group() as tasks:
        connection.pause_writing()
        tasks.start_soon(lambda: connection.upload(_body(b"one", b"two", b"three"), 11))
        await anyio.wait_all_tasks_blocked()
        first = wire.written
        connection.resume_writing()
        connection.pause_writing()
        await anyio.wait_all_tasks_blocked()
        connection.connection_lost(None)

    assert first.endswith(b"\r\n\r\none")
    assert wire.written.endswith(b"onetwo")


async def test_a_body_that_fails_ends_the_exchange() -> None:
    """The request stays incomplete, so no answer is waited for and no request follows; the first fault counts."""

    async def failing() -> AsyncGenerator[bytes]:
        yield b"one"
        raise OSError("the client has gone")

    connection, _ = asked(is_whole=False)
    await connection.upload(failing(), None)
    connection.connection_lost(None)
    answered, _ = asked(is_whole=False)
    answered.data_received(LENGTH)
    await answer(answered)
    await answered.upload(failing(), None)

    with pytest.raises(GatewayError) as caught:
        await connection.head()
    assert type(caught.value) is UpstreamIncompleteError
    assert not answered.is_reusable


async def test_a_reader_that_leaves_is_not_woken() -> None:
    """What comes after it has gone disturbs nobody."""
    connection, wire = asked()
    with anyio.move_on_after(0):
        await connection.head()
    async with anyio.create_task_group() as tasks:
        connection.pause_writing()
        tasks.start_soon(lambda: connection.upload(_body(b"one"), 3))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    connection.resume_writing()
    connection.data_received(LENGTH)
    connection.close()

    assert wire.aborted
