"""Carry asks out on connections of our own (extra `fast`), for asyncio only: a third of what a client library takes.

It does what `base.py` promises and nothing more, so there is nothing to be switched off.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, lru_cache
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType]  its sockets' addresses
from msgspec import Struct

from amux_asgi.errors import UpstreamUnreachableError
from amux_asgi.transport.base import Incoming, Progress, Transport
from amux_asgi.transport.connection import Connection
from amux_asgi.transport.names import Names
from amux_asgi.wire import Headers, HttpRequest

CONNECT: Final = 10.0  # seconds
IDLE: Final = 4.0  # seconds a connection is kept; servers often close after five
SECOND_TRY: Final = 0.25  # seconds after which another address of a host is tried beside the first
_SAID_AGAIN: Final = 4096  # heads and places that are known, of as many channels: most asks say the same ones


class Place(Struct, frozen=True):
    """Where a request goes."""

    host: str
    port: int
    tls: bool


class DirectTransport:
    """Keeps connections for the next ask to the same place, the newest first."""

    def __init__(self, *, idle: float = IDLE) -> None:
        """`idle` is for how many seconds a connection is kept."""
        self._longest = idle
        self._idle: dict[Place, list[Connection]] = {}
        self._loop = asyncio.get_running_loop()
        self._names = Names()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False

    def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Send once; errors become ours, by where they happened."""
        return _Exchange(self, request, progress, body)

    async def take(self, place: Place) -> Connection:
        """Give a connection that nobody uses.

        Raises:
            UpstreamUnreachableError: there is none, and none could be made.
        """
        kept = self._kept(place)
        if kept is not None:
            return kept
        try:
            async with asyncio.timeout(CONNECT):
                return await self._connected(place)
        except (OSError, ValueError) as exc:  # `ValueError`: a name that cannot be one
            raise UpstreamUnreachableError(_NOT_REACHED) from exc

    async def _connected(self, place: Place) -> Connection:
        """Connect to the first address of a host that answers."""
        found = await self._names.find(place.host, place.port)
        reached = await start_connection(found, happy_eyeballs_delay=SECOND_TRY, interleave=1)
        _, connection = await self._loop.create_connection(
            Connection,
            sock=reached,
            ssl=_tls() if place.tls else None,
            server_hostname=place.host if place.tls else None,
            ssl_handshake_timeout=CONNECT if place.tls else None,  # uvloop keeps what was called off for as long
        )
        return connection

    def _kept(self, place: Place) -> Connection | None:
        """Give the newest connection if it is fit; the others are older."""
        oldest = self._loop.time() - self._longest
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.idle_since > oldest and connection.is_open and connection.is_quiet:
                return connection
            connection.close()
        return None

    def give_back(self, place: Place, connection: Connection) -> None:
        """Keep a connection for a while."""
        if self._is_closed:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.setdefault(place, []).append(connection)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._longest, self.sweep)

    def sweep(self) -> None:
        """Close what nobody has used for long."""
        self._sweeping = None
        oldest = self._loop.time() - self._longest
        for place, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest:
                    connection.close()
            self._idle[place] = left = [connection for connection in idle if connection.is_open]
            if not left:
                del self._idle[place]
        if self._idle:
            self._sweeping = self._loop.call_later(self._longest / 2, self.sweep)

    def close(self) -> None:
        """Close what is kept, and what will be given back."""
        self._is_closed = True
        self._names.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for idle in self._idle.values():
            for connection in idle:
                connection.close()


class _Exchange:
    """One request and its answer. As a generator it would cost more to enter and to leave."""

    def __init__(
        self, transport: DirectTransport, request: HttpRequest, progress: Progress, body: AsyncIterable[bytes] | None
    ) -> None:
        self._transport = transport
        self._request = request
        self._progress = progress
        self._body = body
        self._upload: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Incoming:
        self._place, head, length = _head(self._request.method, self._request.url, self._request.headers)
        self._connection = connection = await self._transport.take(self._place)
        self._progress.began |= connection.is_open  # if it was lost meanwhile, nothing leaves
        try:
            self._begin(connection, head, length)
            await connection.head()
        except BaseException:
            self._leave()
            raise
        self._chunks = connection.pieces()
        return Incoming(
            status=connection.status,
            headers=tuple(connection.headers),
            chunks=self._chunks,
            fill=connection.fill if connection.is_long else None,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._chunks.aclose()
        finally:
            self._leave()

    def _begin(self, connection: Connection, head: bytes, length: int | None) -> None:
        """Write what there is of the request; a body that comes by and by is written beside the wait for the answer."""
        whole = self._request.body
        if self._body is not None:
            said = b"\r\n" if length is not None else b"transfer-encoding: chunked\r\n\r\n"
            connection.begin(head + said, is_whole=False)
            self._upload = asyncio.create_task(connection.upload(self._body, length))
        elif length is not None or (not whole and self._request.method in _BODILESS):
            connection.begin(b"%b\r\n%b" % (head, whole))
        else:
            connection.begin(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(whole), whole))

    def _leave(self) -> None:
        """Keep the connection if that is fit for another ask, or close it at once."""
        upload, connection = self._upload, self._connection
        if connection.is_reusable:
            self._transport.give_back(self._place, connection)
        else:
            connection.close()
        if upload is not None:
            upload.cancel()


@asynccontextmanager
async def open_direct(*, idle: float = IDLE) -> AsyncGenerator[Transport]:
    """Open nothing yet; close what was opened on this event loop. `idle` is in seconds, see `DirectTransport`."""
    transport = DirectTransport(idle=idle)
    try:
        yield transport
    finally:
        transport.close()
        await asyncio.sleep(0)  # in which the event loop takes leave of the sockets


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(_SAID_AGAIN)
def _head(method: str, url: str, headers: Headers) -> tuple[Place, bytes, int | None]:
    """Write a head but for how long its body is, unless the headers say so; say where it goes, and the length.

    Raises:
        UpstreamUnreachableError: the URL is none that could be asked.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UpstreamUnreachableError(_NOT_REACHED) from exc
    usual = _PORTS.get(parts.scheme)
    if usual is None or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise UpstreamUnreachableError(_NOT_REACHED)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    named = parts.netloc.rpartition("@")[2].removesuffix(f":{usual}")
    lines = [f"{method} {target} HTTP/1.1", f"host: {named}"]
    lines += (f"{name}: {value}" for name, value in headers)
    length = next((int(value) for name, value in headers if name == "content-length"), None)
    place = Place(host, usual if port is None else port, parts.scheme == "https")
    return place, "\r\n".join([*lines, ""]).encode("ascii"), length


_NOT_REACHED: Final = "the upstream cannot be reached"
_PORTS: Final = {"http": 80, "https": 443}
_BODILESS: Final = ("GET", "HEAD")
