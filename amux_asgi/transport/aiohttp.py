"""Carry asks out with aiohttp (extra `fast`): a C parser, for asyncio only."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
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

    @asynccontextmanager
    async def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AsyncGenerator[Incoming]:
        """Send once; errors become ours, by where they happened."""
        try:
            response = await self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=list(request.headers),
                data=request.body if body is None else body,
                allow_redirects=False,
                skip_auto_headers=UNASKED,
                trace_request_ctx=progress,
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # `ValueError`: a URL or header it refuses to send
            raise _ours(exc, progress) from exc
        async with response, aclosing(_chunks(response, progress)) as chunks:
            headers = tuple((name.lower(), value) for name, value in response.headers.items())
            yield Incoming(status=response.status, headers=headers, chunks=chunks)


@asynccontextmanager
async def open_aiohttp() -> AsyncGenerator[Transport]:
    """Open the session of one event loop."""
    tracing = aiohttp.TraceConfig()
    # Nothing leaves before a connection is there, and nothing is awaited between these signals and the first byte.
    tracing.on_connection_create_end.append(_began)
    tracing.on_connection_reuseconn.append(_began)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[tracing],
    ) as session:
        yield AiohttpTransport(session)


async def _began(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: Any) -> None:  # noqa: ANN401
    context.trace_request_ctx.began = True


async def _chunks(response: aiohttp.ClientResponse, progress: Progress) -> AsyncGenerator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError) as exc:
        raise _ours(exc, progress) from exc


def _ours(exc: Exception, progress: Progress) -> GatewayError:
    if not progress.began:
        return UpstreamUnreachableError("the upstream cannot be reached")
    if isinstance(exc, aiohttp.ClientResponseError):
        return UpstreamBadResponseError("the upstream's answer is not HTTP")
    return UpstreamIncompleteError("the connection to the upstream was cut")
