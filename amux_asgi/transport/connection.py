"""One connection to an upstream, for one exchange after the other: HTTP/1.1 as httptools reads it, on asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final, cast

import httptools

from amux_asgi.errors import GatewayError, UpstreamBadResponseError, UpstreamIncompleteError

UNREAD: Final = (
    262_144  # bytes of a body that may wait for who reads it, or one read of the socket more; then the upstream waits
)
OK: Final = 200
SWITCHING: Final = 101
SILENCE: Final = 65_536  # bytes that may come without any of a body: heads, and what chunks and trailers add


class Connection(asyncio.Protocol):
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
        self._reset()

    def _reset(self) -> None:
        self._pieces: deque[bytes] = _NOTHING
        self._is_answered = False  # its head is there
        self._length: int | None = None  # what the head says of the body's
        self._has_end = False  # the answer ends otherwise than with the connection
        self._came = 0  # bytes of the body, by way of the parser
        self._left = 0  # bytes of the body that are still to come and need no parser
        self._keeps = False
        self._silence = 0
        self._unread = 0
        self._is_paused = False
        self._fault: GatewayError | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it can be written to."""
        return not (self._is_closed or self._transport.is_closing())

    @property
    def is_reusable(self) -> bool:
        """Tell whether another request may follow: the answer was whole and read, and nothing came after it."""
        return self._may_go_on and not self._pieces and self.is_open

    # what the exchange does

    def begin(self, request: bytes) -> None:
        """Write a request, or its head; nothing is waited for."""
        self._reset()
        self._may_go_on = False
        self._under_way = True
        self._transport.write(request)

    async def upload(self, body: AsyncIterable[bytes], *, chunked: bool) -> None:
        """Write a body as it comes and no faster than the upstream takes it."""
        try:
            async for piece in body:
                if piece:  # an empty chunk would be the last
                    self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if self._writable is not None:
                    await self._writable
                if not self.is_open:
                    return
            if chunked:
                self._transport.write(b"0\r\n\r\n")
        except Exception:  # noqa: BLE001, whatever it is, the request stays incomplete; its reader knows why
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
                if self._is_paused and self._unread < UNREAD:
                    self._is_paused = False
                    self._transport.resume_reading()
                yield piece
            if self._under_way:
                await self._more()

    def close(self) -> None:
        """Close it at once."""
        self._is_closed = True
        self._parser = None  # which knows this object
        self._transport.abort()

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

    def data_received(self, data: bytes) -> None:
        """Take what came; a body of a known length needs no parser, which would copy it."""
        if not self._under_way:  # nobody asked for it, so the connection can be trusted no more
            self.close()
        elif self._left:
            self._take_rest(data)
        else:
            self._parse(data)

    def eof_received(self) -> None:
        """Let it be closed; `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits; an answer of no said length ends so."""
        self._is_closed = True
        self.resume_writing()
        if not self._under_way:
            return
        if exc is None and self._is_answered and not self._has_end:
            self._end()
        else:
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
            parser = self._parser = httptools.HttpResponseParser(self)
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
        if self._unread > UNREAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

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
        if self.status == SWITCHING:
            raise ValueError("nobody asked for another protocol")
        if self.status < OK:
            return
        self._is_answered = True
        self._pieces = deque()
        self._keeps = parser.should_keep_alive()
        said = dict(self.headers)
        self._length = int(said["content-length"]) if "content-length" in said else None
        self._has_end = self._length is not None or "chunked" in said.get("transfer-encoding", "").lower()

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


_CUT: Final = "the connection to the upstream was cut"
_NOTHING: Final[deque[bytes]] = deque()  # until the head is there: one takes 760 bytes, and thousands may wait for it
