"""Carry asks out with httpx2, or with a client of the caller's own (httpx or httpx2). Runs on asyncio and on trio."""

import itertools
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol

import anyio
import httpx2

from amux_asgi.errors import (
    ConfigError,
    GatewayError,
    UpstreamBadResponseError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from amux_asgi.transport.base import Incoming, Open, Progress, Transport
from amux_asgi.wire import HttpRequest

Request = Any  # httpx's or httpx2's; the former need not be installed
Response = Any


class Client(Protocol):
    """An `httpx.AsyncClient` or an `httpx2.AsyncClient`, by what is used of it."""

    cookies: Any

    @property
    def build_request(self) -> Callable[..., Request]: ...  # noqa: D102, theirs

    @property
    def send(self) -> Callable[..., Awaitable[Response]]: ...  # noqa: D102

    @property
    def aclose(self) -> Callable[[], Awaitable[None]]: ...  # noqa: D102


POOLS: Final = 20  # a pool looks at all its connections at each event, so many small ones are faster than one
CONNECT: Final = 10.0  # seconds

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log every URL


class _Trace:
    """Notes whether the request began to leave. A transport that tells nothing is believed to have sent it."""

    def __init__(self, progress: Progress, *, told: bool) -> None:
        self._progress = progress
        self._stream: Any = None
        self.told = told

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.told = True
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        if event.endswith(".send_request_headers.started"):
            self._progress.began = True

    async def close(self) -> None:
        """Close the connection: on asyncio the library forgets it when it is cancelled in a TLS handshake."""
        if self._stream is not None:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()


class HttpxTransport:
    """Spreads asks over several clients. `traced` says that their transport is known to tell when it sends."""

    def __init__(self, clients: Sequence[Client], *, traced: bool) -> None:
        self._clients = itertools.cycle(clients)
        self._traced = traced

    @asynccontextmanager
    async def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AsyncGenerator[Incoming]:
        """Send once; errors become ours, by where they happened."""
        trace = _Trace(progress, told=self._traced)
        client = next(self._clients)
        try:
            response = await client.send(
                _built(client, request, trace, body), stream=True, auth=None, follow_redirects=False
            )
        except Exception as exc:  # h11's errors and `ExceptionGroup` escape the library's own base class
            progress.began |= not trace.told and not _names(exc) & _NEVER
            raise _ours(exc) from exc
        except BaseException:
            progress.began |= not trace.told
            await trace.close()
            raise
        progress.began = True
        try:
            headers = tuple((name.lower(), value) for name, value in response.headers.multi_items())
            async with aclosing(_chunks(response)) as chunks:
                yield Incoming(status=response.status_code, headers=headers, chunks=chunks)
        finally:
            await response.aclose()


@asynccontextmanager
async def open_httpx2(pools: int = POOLS) -> AsyncGenerator[Transport]:
    """Open the clients of one event loop.

    No connection is used twice: bytes that a server sends too many would be taken for the next answer.
    """
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client()) for _ in range(pools)]
        yield HttpxTransport(list(clients), traced=True)


def own_client(client: Client) -> Open:
    """Use a client of the caller's: an `httpx.AsyncClient` or an `httpx2.AsyncClient`. It is never closed here.

    Raises:
        ConfigError: a client that is not asynchronous, or that would carry cookies from one tenant's answer to another.
    """
    if not (hasattr(client, "aclose") and hasattr(client, "build_request")):
        raise ConfigError("`transport=` takes an AsyncClient of httpx or httpx2, not a synchronous client")
    jar: CookieJar = client.cookies.jar
    policy = getattr(jar, "_policy", None)  # the standard library gives no other way to see it
    if len(jar) or not (isinstance(policy, DefaultCookiePolicy) and policy.allowed_domains() == ()):
        raise ConfigError(
            "this client keeps cookies, which would go from one tenant's answer into another's request; make it with "
            "cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[]))"
        )

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Transport]:
        yield HttpxTransport([client], traced=False)

    return opened


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        verify=_tls(),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(None, connect=CONNECT),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _built(client: Client, request: HttpRequest, trace: _Trace, body: AsyncIterable[bytes] | None) -> Request:
    return client.build_request(
        request.method,
        request.url,
        headers=list(request.headers),
        content=request.body if body is None else body,
        extensions={"trace": trace},
    )


async def _chunks(response: Response) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                yield piece
    except Exception as exc:
        raise _ours(exc) from exc


def _names(exc: Exception) -> set[str]:
    """Name an exception's classes: the caller's library may be one that is not installed here."""
    return {kind.__name__ for kind in type(exc).__mro__}


def _ours(exc: Exception) -> GatewayError:
    names = _names(exc)
    if names & _NEVER:
        return UpstreamUnreachableError("the upstream cannot be reached")
    if "TimeoutException" in names:
        return UpstreamTimeoutError("the upstream did not answer in time")
    if "NetworkError" in names or str(exc).startswith(_CUT):
        return UpstreamIncompleteError("the connection to the upstream was cut")
    if "RemoteProtocolError" in names:
        return UpstreamBadResponseError("the upstream's answer is not HTTP")
    return UpstreamError("the upstream could not be asked", retry=False)


_NEVER: Final = frozenset({"ConnectError", "ConnectTimeout", "InvalidURL", "PoolTimeout", "UnsupportedProtocol"})
_CUT: Final = ("Server disconnected", "peer closed connection")
