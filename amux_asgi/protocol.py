"""uvicorn's protocol with the bounds that it lacks: for heads, for chunks, and for readers that stall."""

import asyncio  # noqa: TID251, the server is asyncio's
import socket
import struct
from collections import deque
from itertools import chain
from typing import Any, Final, cast

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from amux_asgi.one_write import OneWrite
from amux_asgi.scope import fresh_request_id
from amux_asgi.small import Flow, Pipeline, event

HEAD_BYTES: Final = 65_536  # of a request's head, and of what chunked encoding may add to a body
HEAD_FIELDS: Final = 100
PER_CHUNK: Final = 16  # bytes that chunked encoding may add to each byte of a body
PIECE: Final = 262_144  # bytes that a reader takes within its time, or all that is left


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's protocol with more bounds: a deadline and a size for a request's head, and what chunks may add.

    Readers have a deadline too: in every `write_timeout`, `PIECE` bytes of what was written must leave, or all that is
    left, or the connection is cut.
    """

    # Beside uvicorn's own fields they would be more than Python keeps in 300 bytes an object: 1.5 KB a connection.
    __slots__ = (
        "_chunked",
        "_deadline",
        "_head_timeout",
        "_in_head",
        "_overhead",
        "_stall",
        "_status",
        "_unsent",
        "_write_timeout",
    )

    def __init__(self, *args: Any, head_timeout: float, write_timeout: float, **options: Any) -> None:  # noqa: ANN401, uvicorn's
        super().__init__(*args, **options)
        self.pipeline: deque[Any] = cast("deque[Any]", Pipeline())
        self._head_timeout = head_timeout
        self._write_timeout = write_timeout
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._in_head = True
        self._overhead = 0
        self._chunked = False
        self._status = 400

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn does
        """Expect a head from the first moment on."""
        super().connection_made(transport)
        self.flow: FlowControl = Flow(transport)
        transport.set_write_buffer_limits(high=0)  # so that it is told of every byte that waits
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._unstall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the reader its time to take what waits, also when the connection is already closing."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """All of it has left."""
        self._unstall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse what grows too large."""
        self._overhead += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._overhead:  # something of a head is there, but most are whole at once
            self._go_on_with_head()
        elif self._chunked and self._overhead > HEAD_BYTES:
            self.send_400_response("the request's chunks say too much")

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._chunked = False

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large, before the app sees it."""
        size = len(self.url) + 4 * len(self.headers) + sum(map(len, chain.from_iterable(self.headers)))
        if len(self.headers) > HEAD_FIELDS or size > HEAD_BYTES:
            self._status = 431
            raise ValueError("the head of the request is too large")
        self._stop_waiting()
        self._in_head = False
        self._overhead = 0
        self._chunked = b"transfer-encoding" in dict(self.headers)
        super().on_headers_complete()
        self.cycle.message_event = event()  # nobody waits yet
        self.cycle.transport = cast("asyncio.Transport", OneWrite(self.transport, self.loop))

    def on_body(self, body: bytes) -> None:
        """Count what the body itself explains."""
        self._overhead -= len(body) * (PER_CHUNK + 1)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head, under uvicorn's keep-alive time."""
        self._in_head = True
        self._chunked = False
        self._overhead = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002, uvicorn's words are not shown
        """Answer what is no HTTP in the form of all our errors, and close."""
        message = "the head of the request is too large" if self._status == 431 else "this is not a valid HTTP request"  # noqa: PLR2004
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = msgspec.json.encode({"error": error})
        head = "\r\n".join(
            [
                f"HTTP/1.1 {self._status} ",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
                f"x-request-id: {fresh_request_id()}",
                "\r\n",
            ]
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: no path here is a websocket's, so who asks for one gets an ordinary answer."""

    def _go_on_with_head(self) -> None:
        if self._overhead > HEAD_BYTES:
            self._status = 431
            self.send_400_response("the head of the request is too large")
        elif self._deadline is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self._head_timeout, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        cycle = cast("RequestResponseCycle | None", self.cycle)  # there is none before the first request
        if cycle is None or cycle.response_complete:  # some clients send a blank line behind a request
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self._write_timeout, self._look)

    def _look(self) -> None:
        """See whether the reader has taken its share."""
        if self._unsent - self.transport.get_write_buffer_size() >= PIECE:
            self._watch()
        else:
            self._cut()

    def _cut(self) -> None:
        """Reset the connection: closing it would leave the kernel holding what the reader does not take."""
        self._stall = None
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _unstall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: what is not sent is thrown away
