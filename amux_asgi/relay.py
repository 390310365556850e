"""Relay one request to an upstream and its answer back, each piece as it comes, as long as the client stays."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from amux_asgi.errors import (
    End,
    GatewayError,
    RequestTimeoutError,
    RequestTooLargeError,
    UpstreamBadResponseError,
    UpstreamTimeoutError,
)
from amux_asgi.faults import Fault, failure, fault_of
from amux_asgi.scope import header_values, request_id_of
from amux_asgi.transport.base import Incoming, Progress, Transport
from amux_asgi.wire import HttpRequest

FAULT_MAX: Final = 65_536  # bytes of a vendor's error that are read
REDIRECTS: Final = 300


class Upload(AsyncIterator[bytes]):
    """A request's body on its way up. `fault` is what was wrong with it, `waiting` whether the client owes a piece.

    An iterator and no generator: a transport may stop taking pieces without closing it.
    """

    def __init__(self, scope: Scope, receive: Receive, *, longest: int) -> None:
        """Take at most `longest` bytes.

        Raises:
            RequestTooLargeError: the request says that it is longer; nothing was received.
        """
        said = header_values(scope, b"content-length")
        self.length: int | None = (
            int(said[0]) if said and said[0].isdigit() and len(said[0]) < _LONGEST_NUMBER else None
        )
        self.fault: GatewayError | None = None
        self.waiting: bool = False
        self._receive = receive
        self._room = longest
        self._piece = b""
        self._more = True
        self._complete = anyio.Event()
        if self.length is not None and self.length > longest:
            raise self._too_large()

    async def begins(self) -> bool:
        """Wait for the first piece, and tell whether there is any."""
        while self._more and not self._piece:
            self._piece = await self._next()
        return bool(self._piece)

    async def __anext__(self) -> bytes:
        if not await self.begins():
            raise StopAsyncIteration
        piece, self._piece = self._piece, b""
        return piece

    async def until_gone(self) -> None:
        """Wait until the client leaves; while the body is under way, its pieces tell."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        self.waiting = True
        message = await self._receive()
        self.waiting = False
        if message["type"] == "http.disconnect":
            self.fault = RequestTimeoutError("the client left before its request was complete")
            raise self.fault
        piece: bytes = message.get("body", b"")
        self._room -= len(piece)
        if self._room < 0:
            self.fault = self._too_large()
            raise self.fault
        self._more = message.get("more_body", False)
        if not self._more:
            self._complete.set()
        return piece

    def _too_large(self) -> GatewayError:
        return RequestTooLargeError("the request is larger than may be passed through here")


class Download:
    """The answer on its way back; `begun` tells whether any of it has left."""

    def __init__(self, scope: Scope, send: Send, *, returned: Callable[[str], bool]) -> None:
        """Let the headers through whose names `returned` accepts."""
        self.begun: bool = False
        self._scope = scope
        self._send = send
        self._returned = returned

    async def take(self, incoming: Incoming) -> None:
        """Send it all, no faster than the client reads."""
        headers = [
            (name.encode("ascii"), value.encode("latin-1", "replace"))
            for name, value in incoming.headers
            if self._returned(name)
        ]
        headers.append((b"x-request-id", request_id_of(self._scope).encode()))
        self.begun = True
        await self._send({"type": "http.response.start", "status": incoming.status, "headers": headers})
        async for piece in incoming.chunks:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})


async def relay(
    opened: AbstractAsyncContextManager[Transport],
    request: HttpRequest,
    upload: Upload,
    download: Download,
    *,
    timeout: float,
) -> None:
    """Send the request with the upload as its body, and the answer down, all within `timeout` seconds.

    A client that leaves ends it, and with it the connection to the upstream.

    Raises:
        GatewayError: with `end` set; a vendor's refusal too, in the words of its protocol, nothing secret in them.
    """
    fault: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, upload, tasks.cancel_scope)
        try:
            await _in_time(opened, request, upload, download, timeout=timeout)
        except Exception as exc:  # noqa: BLE001, raised again below, where no task group wraps it
            fault = exc
        tasks.cancel_scope.cancel()
    if fault is not None:
        raise fault
    if not download.begun:  # a host's `BaseHTTPMiddleware` fails without an answer, although nobody is there to read it
        raise RequestTimeoutError("the client left before it was answered")


async def _cancel_when_gone(upload: Upload, scope: anyio.CancelScope) -> None:
    await upload.until_gone()
    scope.cancel()


async def _in_time(
    opened: AbstractAsyncContextManager[Transport],
    request: HttpRequest,
    upload: Upload,
    download: Download,
    *,
    timeout: float,
) -> None:
    progress = Progress()
    try:
        with anyio.fail_after(timeout):
            body = upload if await upload.begins() else None
            if body is not None and upload.length is not None:
                request = replace(request, headers=(*request.headers, ("content-length", str(upload.length))))
            async with opened as transport, transport.send(request, progress, body=body) as incoming:
                await _check(incoming)
                await download.take(incoming)
    except TimeoutError as exc:
        if upload.waiting:
            raise RequestTimeoutError(f"the request did not arrive within {timeout:g} seconds") from exc
        end = End.UNKNOWN if progress.began else End.NEVER_SENT
        raise UpstreamTimeoutError(f"the upstream did not finish within {timeout:g} seconds", end=end) from exc
    except GatewayError as exc:
        if upload.fault is not None and exc is not upload.fault:
            raise upload.fault from exc
        raise


async def _check(incoming: Incoming) -> None:
    """Let no refusal through as it came: it could name our account there."""
    headers = dict(incoming.headers)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamBadResponseError("the upstream compressed its answer although it was asked not to")
    if incoming.status >= REDIRECTS:
        body = b""
        async for piece in incoming.chunks:
            body += piece
            if len(body) > FAULT_MAX:
                break
        raise failure(incoming.status, fault_of(body) or Fault(), headers)


_LONGEST_NUMBER: Final = 18  # digits
