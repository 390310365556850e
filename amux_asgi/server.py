"""The standalone server: uvicorn with httptools, and the limits that it lacks.

`python -m benchmarks.servers` measures it beside plain uvicorn and granian.
"""

import asyncio  # noqa: TID251, the server is asyncio's
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain
from types import FrameType
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors.multiprocess import Multiprocess

from amux_asgi.errors import UpstreamTimeoutError
from amux_asgi.one_write import OneWrite
from amux_asgi.plugins import load
from amux_asgi.respond import respond
from amux_asgi.scope import fresh_request_id
from amux_asgi.signals import Signals, Stoppable
from amux_asgi.small import Flow, Pipeline, event
from amux_asgi.turns import turns_here

HEAD_BYTES: Final = 65_536  # of a request's head, and of what chunked encoding may add to a body
HEAD_FIELDS: Final = 100
AT_ONCE: Final = 9 * 2**18  # bytes of one write: the system takes as many, in a third of a millisecond
PIECE: Final = 262_144  # bytes that a reader takes within its time, or all that is left
SWITCH: Final = 0.0002  # seconds that one thread may keep the interpreter while another waits for it
KEPT: Final = 2**30  # bytes that nobody uses, and that are not given back to the system
COLLECT: Final = 10_000  # objects that come to be, less those that go, until cycles among them are looked for
PER_CHUNK: Final = 16  # bytes that chunked encoding may add to each byte of a body


class ServerSettings(Struct, frozen=True, kw_only=True):
    """How to serve: times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    head_timeout: float = 10
    write_timeout: float = 60
    drain: float = 0  # of the grace time, in which requests are still taken
    grace: float = 540
    trusted_proxies: tuple[str, ...] = ()


def serve(factory: str, settings: ServerSettings) -> None:
    """Run the app that `package.module:function` makes, until SIGTERM or SIGINT; each worker makes its own.

    Requests under way are finished within the grace time, which `drain` is a part of.
    """
    config = uvicorn_config(factory, settings)
    # uvicorn raises the signal once more when all is done; we end by ourselves then, with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    if settings.workers > 1:
        Workers(config, [config.bind_socket()]).run()
    else:
        Server(config).run()


def uvicorn_config(factory: str, settings: ServerSettings) -> Config:
    """Say all of it in uvicorn's terms."""
    protocol = partial(StrictProtocol, head_timeout=settings.head_timeout, write_timeout=settings.write_timeout)
    return Config(
        partial(_served, factory, settings.drain),
        factory=True,
        interface="asgi3",  # which uvicorn sees by itself only where `__call__` is a coroutine function
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, int(settings.grace - settings.drain)),
    )


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


class Answers:
    """Stays until a large answer has left, and answers who still waits when the grace time is over.

    So long its bytes are in memory, and must count as held. uvicorn itself would say in plain text that it stops.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        begun = False

        async def paced(message: Message) -> None:
            nonlocal begun
            begun = True
            if len(message.get("body", b"")) <= PIECE:
                await send(message)
            else:
                await _in_pieces(send, message)

        try:
            await self._app(scope, receive, paced)
        except asyncio.CancelledError:  # the server's last word: nobody else cancels a request
            if begun or scope["type"] != "http":
                raise
            await respond(scope, send, UpstreamTimeoutError("the gateway stopped before the answer was ready"))


async def _in_pieces(send: Send, message: Message) -> None:
    body, turns = memoryview(message["body"]), turns_here()
    for start in range(0, len(body), AT_ONCE):
        piece = body[start : start + AT_ONCE]
        await turns.take(len(piece))
        await send({**message, "body": piece, "more_body": True})
    await send({**message, "body": b""})  # before which all of it must have left


class Workers(Multiprocess):
    """uvicorn's supervisor; at SIGHUP its workers read the configuration anew, rather than be replaced."""

    def handle_hup(self) -> None:
        """Tell all workers."""
        for pid in filter(None, (process.pid for process in self.processes)):
            os.kill(pid, signal.SIGHUP)


def _served(factory: str, drain: float) -> ASGIApp:
    make: Callable[[], ASGIApp] = load(factory)
    made = make()
    _spare_collections()
    _keep_memory()
    sys.setswitchinterval(SWITCH)  # with Python's 5 ms, who writes to the database holds its lock for that much longer
    app = Answers(made)
    return Signals(app, made, drain=drain) if isinstance(made, Stoppable) else app


def _spare_collections() -> None:
    """Look for garbage in cycles seldom, and never in what is there before the first request: it stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT)


def _keep_memory() -> None:
    """Have the C library keep what large answers had, if it is glibc, for the next ones.

    From the system, memory comes page by page and cleared: for 16 MB a fourth of all work.
    """
    with suppress(AttributeError, OSError, TypeError):
        adjust = ctypes.CDLL(None).mallopt
        adjust(_OF_ITS_OWN, _LARGEST)
        adjust(_TRIM, KEPT)


_OF_ITS_OWN: Final = -3  # glibc's M_MMAP_THRESHOLD: larger ones go back to the system at once
_TRIM: Final = -1  # glibc's M_TRIM_THRESHOLD
_LARGEST: Final = 32 * 2**20  # bytes; glibc takes no more
_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: what is not sent is thrown away


def _ignore(_signal: int, _frame: FrameType | None) -> None: ...
