"""Carry asks out with aiohttp (extra `fast`): a C parser, for asyncio only."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, cast

import aiohttp
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from amux_asgi.errors import (
    GatewayError,
    UpstreamBadResponseError,
    UpstreamIncompleteError,
    UpstreamUnreachableError,
)
from amux_asgi.transport.base import Incoming, Progress, Transport
from amux_asgi.wire import HttpRequest

CONNECT: Final = 10.0  # seconds
IDLE: Final = 4.0  # seconds a connection is kept; servers often close after five
UNASKED: Final = ("accept", "accept-encoding", "content-type", "user-agent")


class AiohttpTransport:
    """Sends with one session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Send once; errors become ours, by where they happened."""
        return _Exchange(self._session, request, progress, request.body if body is None else body)


class _Exchange:
    """One request and its answer. As a generator it would cost more to enter and to leave."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        request: HttpRequest,
        progress: Progress,
        body: bytes | AsyncIterable[bytes],
    ) -> None:
        self._session = session
        self._request = request
        self._progress = progress
        self._body = body

    async def __aenter__(self) -> Incoming:
        _under_way.set(self._progress)
        try:
            response = await self._session.request(
                self._request.method,
                URL(self._request.url, encoded=True),
                headers=CIMultiDict(self._request.headers),
                data=self._body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # `ValueError`: a URL or header it refuses to send
            raise _ours(exc, self._progress) from exc
        self._response = response
        self._chunks = _chunks(response, self._progress)
        headers = tuple((name.lower(), value) for name, value in response.headers.items())
        return Incoming(status=response.status, headers=headers, chunks=self._chunks)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._chunks.aclose()
        finally:
            await self._response.__aexit__(kind, error, trace)


@asynccontextmanager
async def open_aiohttp() -> AsyncGenerator[Transport]:
    """Open the session of one event loop."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=UNASKED,
        request_class=_Request,
    ) as session:
        yield AiohttpTransport(session)


class _Request(aiohttp.ClientRequest):
    """Notes when it begins to leave. The library has traces for that, which cost 3 % of all that a request takes."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send on a connection that is there."""
        _under_way.get().began = True
        return await super().send(conn)


_under_way: Final[ContextVar[Progress]] = ContextVar("amux_asgi under way")  # the library sends in the caller's task


async def _chunks(response: aiohttp.ClientResponse, progress: Progress) -> AsyncGenerator[bytes]:
    try:
        while piece := await response.content.readany():
            yield piece
    except (aiohttp.ClientError, OSError) as exc:
        yield _unread(response.content)
        raise _ours(exc, progress) from exc


def _unread(content: aiohttp.StreamReader) -> bytes:
    """Give what came before the connection was cut, which the library keeps back: a stream's picture can be in it."""
    content.set_exception(cast("Any", None))
    return content.read_nowait()


def _ours(exc: Exception, progress: Progress) -> GatewayError:
    if not progress.began:
        return UpstreamUnreachableError("the upstream cannot be reached")
    if isinstance(exc, aiohttp.ClientResponseError):
        return UpstreamBadResponseError("the upstream's answer is not HTTP")
    return UpstreamIncompleteError("the connection to the upstream was cut")
