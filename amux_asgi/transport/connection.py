"""One connection to an upstream, for one exchange after the other: HTTP/1.1 as httptools reads it, on asyncio."""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from typing import Any, Final, cast

import httptools

from amux_asgi.errors import GatewayError, UpstreamBadResponseError, UpstreamIncompleteError
from amux_asgi.transport.filling import LONG, Filling

UNREAD: Final = 262_144  # bytes of a body that may wait for its reader, and one read more
FIRST: Final = 16_384  # bytes at once, until a head is there: most of a long body need not come this way
READ: Final = 65_536  # bytes at once of what follows
HINT: Final = 100
OK: Final = 200
SWITCHING: Final = 101
FAILED: Final = 500  # and above: many servers then close right behind the answer, just when the next request comes
SILENCE: Final = 65_536  # bytes that may come without any of a body: heads, and what chunks and trailers add


class Connection(asyncio.BufferedProtocol):
    """Writes a request, and gives the head and the pieces of its answer."""

    def __init__(self) -> None:
        self.status: int = 0
        self.headers: list[tuple[str, str]] = []
        self.idle_since: float = 0.0  # by the event loop's clock
        self._is_closed = False
        self._may_go_on = False  # with another request
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None  # while the upstream takes no more
        self._under_way = False  # from a request on, until its answer is whole
        self._poll: Any = None  # tells at once what the event loop will only tell in its next turn
        self._reset()

    def _reset(self) -> None:
        self._room = _NO_ROOM  # for the next bytes; while thousands wait, it is little, and under TLS alone
        self._pieces: deque[bytes] = _NOTHING
        self._is_answered = False  # its head is there
        self._length: int | None = None  # what the head says of the body's
        self._has_end = False  # the answer ends otherwise than with the connection
        self._came = 0  # bytes of the body, by way of the parser
        self._left = 0  # bytes of the body that are still to come and need no parser
        self._keeps = False
        self._is_sent = False  # the request is whole
        self._has_no_body = False  # whatever the head of the answer says
        self._silence = 0
        self._unread = 0
        self._is_paused = False
        self._fault: GatewayError | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it can be written to."""
        return not (self._is_closed or self._transport.is_closing())

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing came that the event loop did not tell yet: an end, or bytes that nobody asked for."""
        return self._poll is None or not self._poll.poll(0)

    @property
    def is_reusable(self) -> bool:
        """Tell whether another request may follow.

        The last one has left and the answer was read, both whole, and nothing came after it.
        """
        has_left = self._is_sent and not self._transport.get_write_buffer_size()
        return self._may_go_on and has_left and not self._pieces and self.is_open

    @property
    def is_long(self) -> bool:
        """Tell whether much of a body of known length is still to come, so that it can be taken by `fill`."""
        return self._left >= LONG

    # what the exchange does

    def begin(self, request: bytes, *, is_whole: bool = True) -> None:
        """Write a request, or its head; nothing is waited for."""
        self._reset()
        self._may_go_on = False
        self._under_way = True
        self._is_sent = is_whole
        self._has_no_body = request.startswith(b"HEAD ")
        if self._is_closed:  # nobody will tell that a second time
            self._fail(UpstreamIncompleteError(_CUT))
        self._transport.write(request)

    async def upload(self, body: AsyncIterable[bytes], length: int | None) -> None:
        """Write a body as it comes and no faster than the upstream takes it; in chunks, if its length is not known."""
        with suppress(Exception):  # whatever it is, the request stays incomplete; its reader knows why
            await self._write(body, length)
        if not self._is_sent:
            self._fail(UpstreamIncompleteError(_CUT))

    async def head(self) -> None:
        """Wait for the head of the answer.

        Raises:
            GatewayError: none came, or nothing that is one.
        """
        while not self._is_answered:
            await self._more()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Give the body as it comes, also what came before a cut. Raises as `head` does."""
        while self._pieces or self._under_way:
            while self._pieces:
                piece = self._pieces.popleft()
                self._unread -= len(piece)
                self._read_on()
                yield piece
            if self._under_way:
                self._read_on()
                await self._more()

    async def fill(self, room: memoryview) -> None:
        """Fill a place in memory with the next bytes of the body, which has as many. Raises as `head` does."""
        while room and self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > len(room):
                self._pieces.appendleft(piece[len(room) :])
            fits = piece[: len(room)]
            room[: len(fits)] = fits
            room = room[len(fits) :]
            self._unread -= len(fits)
        if room:
            await self._fill_rest(room)

    async def _fill_rest(self, room: memoryview) -> None:
        left = self._left - len(room)
        with Filling(self, self._transport, room, last=not left, wake=self._wake) as filling:
            self._is_paused = False
            while filling.room:
                await self._more()
            self._left, self._is_paused = left, bool(left)
            if not left:
                await asyncio.sleep(0)  # some event loops look only now whether more comes
                self._keeps &= not filling.spoilt
                self._end()

    def close(self) -> None:
        """Close it at once."""
        self._is_closed = True
        self._parser = None  # which knows this object
        self._transport.abort()

    async def _write(self, body: AsyncIterable[bytes], length: int | None) -> None:
        came = 0
        async for piece in body:
            came += len(piece)
            if length is not None and came > length:
                break
            if piece:  # an empty chunk would be the last
                self._transport.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._writable is not None:
                await self._writable
            if not self.is_open:
                return
        if length is None:
            self._transport.write(b"0\r\n\r\n")
        # Otherwise the rest would be taken for the next request, or the next request for the rest.
        self._is_sent = length is None or came == length

    async def _more(self) -> None:
        """Wait until something came."""
        if self._fault is not None:
            raise self._fault
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, fault: GatewayError) -> None:
        self._fault = self._fault or fault
        self._wake()

    def _end(self) -> None:
        """Take note that the answer is whole."""
        self._under_way = False
        self._may_go_on = self._keeps
        self._wake()

    # what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        self._transport = cast("asyncio.Transport", transport)
        socket = transport.get_extra_info("socket")
        if socket is not None and _POLL is not None:
            self._poll = _POLL()
            self._poll.register(socket.fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, event loops know less about it
        """Give the place of the next bytes."""
        self._room = memoryview(bytearray(READ if self._is_answered else FIRST))
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came."""
        room, self._room = self._room, _NO_ROOM
        self.data_received(bytes(room[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what came; a body of a known length needs no parser, which would copy it."""
        if not self._under_way:  # nobody asked for it, so the connection can be trusted no more
            self.close()
        elif self._left:
            self._take_rest(data)
        else:
            self._parse(data)

    def eof_received(self) -> None:
        """End an answer of no said length; `connection_lost` follows, but only when all that is written was read."""
        if not self._under_way:
            return
        if self._is_answered and not self._has_end and _is_meant(self._transport):
            self._end()
        else:
            self._fail(UpstreamIncompleteError(_CUT))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, asyncio says why
        """Tell who waits."""
        self._is_closed = True
        self._parser = None
        self.resume_writing()
        if self._under_way:
            self._fail(UpstreamIncompleteError(_CUT))

    def pause_writing(self) -> None:
        """Have an upload wait."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let it go on."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _take_rest(self, data: bytes) -> None:
        self._keep(data[: self._left])
        self._keeps &= len(data) <= self._left  # or more came than is the answer's
        self._left -= min(len(data), self._left)
        if self._left:
            self._wake()
        else:
            self._end()

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = _parser(self)
        self._silence += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError):
            self._break()
            return
        if self._silence > SILENCE:
            self._break()
        elif self._under_way and self._length:
            self._left, self._parser = self._length - self._came, None
            if self.is_long:
                self._pause()  # until its reader says where it goes
        if self._is_answered:
            self._wake()

    def _break(self) -> None:
        """Believe no more of what comes."""
        self._keeps = self._may_go_on = False
        if self._under_way:
            self._fail(UpstreamBadResponseError("the upstream's answer is not HTTP"))

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > UNREAD:
            self._pause()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._is_paused and self._unread < UNREAD:
            self._is_paused = False
            self._transport.resume_reading()

    # what the parser tells

    def on_message_begin(self) -> None:
        """Begin a head: an answer's, one before it, or one that nobody asked for."""
        if self._under_way:
            self.headers = []
        else:
            self._may_go_on = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or pass over a trailer."""
        if self._under_way and not self._is_answered:
            self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Take a head, unless it is only a hint of what will come."""
        parser = self._parser
        if not self._under_way or parser is None:
            return
        self.status = parser.get_status_code()
        if self.status < HINT or self.status == SWITCHING:
            raise ValueError("nobody asked for another protocol")
        if self.status < OK:
            return
        self._is_answered = True
        self._pieces = deque()
        self._keeps = parser.should_keep_alive() and self.status < FAILED
        for name, value in self.headers:  # the parser has seen to it that there is one length at most, or an encoding
            if name == "content-length":
                self._length = int(value)
        self._has_end = self._length is not None or any(map(_is_chunked, self.headers))
        if self._has_no_body:
            self._keeps = False  # the parser expects one
            self._end()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._silence = 0
        if self._under_way:
            self._came += len(body)
            self._keep(body)

    def on_message_complete(self) -> None:
        """End, unless it was a hint."""
        if self._under_way and self._is_answered:
            self._end()


def _parser(connection: Connection) -> httptools.HttpResponseParser:
    """Make a parser that takes what some servers send and can be read in one way only."""
    parser = httptools.HttpResponseParser(connection)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
    return parser


def _is_chunked(header: tuple[str, str]) -> bool:
    return header[0] == "transfer-encoding" and "chunked" in header[1].lower()


def _is_meant(transport: asyncio.Transport) -> bool:
    """Tell whether an end is the upstream's word: under TLS anybody on the way could cut, but not say goodbye."""
    tls = transport.get_extra_info("ssl_object")
    try:
        return tls is None or not tls.read(1)
    except ssl.SSLError:
        return False


_CUT: Final = "the connection to the upstream was cut"
_NOTHING: Final[deque[bytes]] = deque()  # until the head is there: one takes 760 bytes, and thousands may wait for it
_NO_ROOM: Final = memoryview(b"")
_POLL: Final[Any] = getattr(select, "poll", None)  # Windows has none
