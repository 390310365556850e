"""An ASGI app in this process as an upstream: nothing is buffered whole, and no socket is involved."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.types import ASGIApp, Message

from amux_asgi.errors import UpstreamBadResponseError, UpstreamIncompleteError
from amux_asgi.transport.base import Incoming, Open, Progress, Transport
from amux_asgi.wire import HttpRequest


class AsgiTransport:
    """Carries asks to an app; its lifespan is not run. The app is cancelled when the answer is left early."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @asynccontextmanager
    async def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AsyncGenerator[Incoming]:
        """Run the app on one request. An app has no "never sent": it has begun as soon as it is called."""
        progress.began = True
        call = _Call(request, body)
        error: Exception | None = None
        async with call.pieces, anyio.create_task_group() as tasks:
            tasks.start_soon(call.run, self._app)
            try:
                incoming = await call.head()
                async with aclosing(incoming.chunks):
                    yield incoming
            except Exception as exc:  # noqa: BLE001, raised again below, outside the task group that would wrap it
                error = exc
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error


def open_app(app: ASGIApp) -> Open:
    """Open nothing: the app is there."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Transport]:
        yield AsgiTransport(app)

    return opened


class _Call:
    """One request to the app, and what it answers."""

    def __init__(self, request: HttpRequest, body: AsyncIterable[bytes] | None) -> None:
        self._scope = _scope(request, length=len(request.body) if body is None else None)
        self._whole = request.body if body is None else b""
        self._body = None if body is None else aiter(body)
        self._asked = False
        self._start: Message | None = None
        self._failed = False
        self._complete = False
        self._started = anyio.Event()
        streams = anyio.create_memory_object_stream[bytes](0)
        self._send: MemoryObjectSendStream[bytes] = streams[0]
        self.pieces: MemoryObjectReceiveStream[bytes] = streams[1]

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self._next, self._take)
        except Exception:  # noqa: BLE001, whatever an upstream dies of, its answer is cut off
            self._failed = True
        finally:
            self._send.close()
            self._started.set()

    async def head(self) -> Incoming:
        await self._started.wait()
        if self._start is None:
            raise UpstreamBadResponseError("the upstream ended without an answer")
        headers = tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self._start.get("headers", ())
        )
        return Incoming(status=self._start["status"], headers=headers, chunks=self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes]:
        async for piece in self.pieces:
            yield piece
        if not self._complete:
            raise UpstreamIncompleteError("the upstream cut its answer off")

    async def _next(self) -> Message:
        """Play the server's `receive`."""
        if self._asked:
            await anyio.sleep_forever()  # until the answer is left, which cancels the app
        if self._body is not None:
            async for piece in self._body:
                return {"type": "http.request", "body": piece, "more_body": True}
        self._asked = True
        return {"type": "http.request", "body": self._whole, "more_body": False}

    async def _take(self, message: Message) -> None:
        """Play the server's `send`."""
        if message["type"] == "http.response.start":
            self._start = message
            self._started.set()
        elif message["type"] == "http.response.body":
            piece = bytes(message.get("body", b""))
            if piece:
                await self._send.send(piece)
            if not message.get("more_body", False):
                self._complete = True
                self._send.close()


def _scope(request: HttpRequest, *, length: int | None) -> dict[str, Any]:
    url = urlsplit(request.url)
    headers = [(b"host", url.netloc.encode())]
    headers += [(name.encode(), value.encode()) for name, value in request.headers]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(url.path),
        "raw_path": url.path.encode(),
        "query_string": url.query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": (url.hostname, 80),
        "state": {},
        "extensions": {"amux.in_process": {}},
    }
