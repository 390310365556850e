"""Send a stream of pictures: its head with the first event, comments while none comes, an error as the last one."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from msgspec import Struct
from starlette.types import Message, Receive, Scope, Send

from amux_asgi.errors import INTERNAL, GatewayError, InternalError, RequestTimeoutError
from amux_asgi.events import PREVIEW, Event, error_frame
from amux_asgi.patience import within
from amux_asgi.respond import encoded, log
from amux_asgi.scope import facts_of
from amux_asgi.sse import DONE, HEARTBEAT
from amux_asgi.streams import Stream

PIECE: Final = 65_536  # bytes that are sent at once: a slow reader is one that does not take so much in time
Headers = tuple[tuple[str, str], ...]


class Pace(Struct, frozen=True, kw_only=True):
    """Seconds: after how many without an event a comment is sent, and in how many a reader must take a piece.

    Where it must not begin before a picture is finished (`waits`), nothing else is sent before. `says_done` is for
    clients that wait for a last word.
    """

    heartbeat: float = 15
    write_timeout: float = 60
    waits: bool = False
    says_done: bool = False


class StreamAnswer:
    """One stream as an answer. Whoever leaves, or reads too slowly, misses what comes; the generation goes on."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, pace: Pace) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._pace = pace
        self._begun = False
        self._ended = False

    async def send(self, stream: Stream, headers: Callable[[], Headers]) -> None:
        """Send it all; `headers` are asked for when the head is sent.

        Raises:
            GatewayError: it failed before it began; afterwards that is told in the stream.
        """
        fault: Exception | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                try:
                    await self._send_all(stream, headers)
                except Exception as exc:  # noqa: BLE001, raised again below, where no task group wraps it
                    fault = exc
                tasks.cancel_scope.cancel()
        finally:
            if not stream.over or (self._begun and not self._ended):  # the last event may be on its way only
                stream.leave()
            else:
                stream.took_all()
        if fault is not None:
            raise fault
        if gone and not self._begun:  # a host's `BaseHTTPMiddleware` fails without an answer, though nobody reads it
            raise RequestTimeoutError("the client left before it was answered")

    async def _send_all(self, stream: Stream, headers: Callable[[], Headers]) -> None:
        with suppress(_GoneError):  # the server cuts what is incomplete
            try:
                await self._send_events(stream, headers)
            except GatewayError as error:
                if not self._begun:
                    raise
                facts_of(self._scope).update(
                    generation=error.generation, channel=error.channel, attempts=error.attempts
                )
                log(self._scope, error)
                await self._write(error_frame(error), headers)
            if self._pace.says_done:
                await self._write(DONE, headers)
            await self._end()

    async def _send_events(self, stream: Stream, headers: Callable[[], Headers]) -> None:
        try:
            while not stream.over:
                event = await stream.next(self._pace.heartbeat)
                if self._is_sent(event) and not (event is None and stream.over):
                    await self._write(HEARTBEAT if event is None else event.frame, headers)
        except (GatewayError, _GoneError):
            raise
        except Exception:
            if self._begun:
                with suppress(_GoneError):
                    await self._write(error_frame(InternalError(INTERNAL)), headers)
                    await self._end()
            raise

    def _is_sent(self, event: Event | None) -> bool:
        return self._begun or not self._pace.waits or (event is not None and event.type != PREVIEW)

    async def _write(self, data: bytes | bytearray, headers: Callable[[], Headers]) -> None:
        if not self._begun:
            self._begun = True
            start = {"type": "http.response.start", "status": 200, "headers": [*_HEAD, *encoded(headers())]}
            await self._in_time(start)
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            piece = bytes(view[start : start + PIECE])
            await self._in_time({"type": "http.response.body", "body": piece, "more_body": True})

    async def _in_time(self, message: Message) -> None:
        if not await within(self._pace.write_timeout, self._is_taken(message)):
            raise _GoneError

    async def _is_taken(self, message: Message) -> bool:
        with suppress(OSError):  # what a server raises for who has left
            await self._send(message)
            return True
        return False

    async def _end(self) -> None:
        await self._in_time({"type": "http.response.body", "body": b"", "more_body": False})
        self._ended = True


class _GoneError(Exception):
    """The reader takes nothing any more."""


_HEAD: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events back
)
