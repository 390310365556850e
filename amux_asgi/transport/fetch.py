"""Fetch pictures from URLs in a stranger's answer: only from the public internet, and with nothing of ours.

The address that was checked is the one that is dialled, on a connection of its own. Runs on asyncio and on trio.
"""

import ssl
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import cache
from socket import SOCK_STREAM
from typing import Any, Final

import anyio
import httpx2
from msgspec import Struct

from amux_asgi.encoding import T, Turns, data_of
from amux_asgi.errors import (
    End,
    GatewayError,
    UpstreamBadResponseError,
    UpstreamIncompleteError,
    UpstreamRedirectError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from amux_asgi.networks import is_global
from amux_asgi.pictures import check_picture
from amux_asgi.transport.base import Incoming, Progress
from amux_asgi.transport.carry import USUAL, Grow, collect
from amux_asgi.transport.httpx import HttpxTransport
from amux_asgi.urls import Place, bracketed, place_of
from amux_asgi.wire import HttpRequest

CONNECT: Final = 5.0  # seconds for one address
ADDRESSES: Final = 4  # of one name that are tried
CLOSE: Final = ("connection", "close")
RESENT: Final = 1  # times that a picture is asked for again when there was no answer; asking is free
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to its addresses; raises `OSError`."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a name."""
    found = await anyio.getaddrinfo(host, port, type=SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class FetchPolicy(Struct, frozen=True, kw_only=True):
    """From where pictures are fetched. Anything but the defaults is for tests, and for upstreams inside one's own net.

    `allowed` tells whether an address may be dialled. `context` verifies certificates; the default is the system's.
    """

    allowed: Callable[[str], bool] = is_global
    schemes: Container[str] = frozenset({"https"})
    ports: Container[int] = frozenset({443})
    context: ssl.SSLContext | None = None
    resolve: Resolve = resolve


PUBLIC: Final = FetchPolicy()


class Fetcher:
    """Fetches pictures, each on a fresh connection."""

    def __init__(self, policy: FetchPolicy = PUBLIC) -> None:
        self._policy = policy
        self._context = policy.context or _tls()

    async def fetch(self, url: str, *, cap: int, timeout: float, grow: Grow | None = None) -> bytes:
        """Give the picture at an `https:` or in a `data:` URL, at most `cap` bytes, within `timeout` seconds in all.

        `grow` counts what is fetched as it comes.

        Raises:
            UpstreamError: there is none to be had; no text says where it was sought.
        """
        try:
            with anyio.move_on_after(timeout):
                return await self._picture(url, cap, grow)
            raise UpstreamTimeoutError("the upstream's picture did not arrive in time")
        except GatewayError as error:  # it was made, and may have been paid
            error.end, error.retry = End.UNKNOWN, False
            raise

    async def _picture(self, url: str, cap: int, grow: Grow | None) -> bytes:
        if url[:5].lower() == "data:":
            picture = await in_turns(data_of(url, cap))
        else:
            place = place_of(url, schemes=self._policy.schemes, ports=self._policy.ports)
            picture = await self._fetched(place, await self._addresses(place), cap, grow)
        check_picture(picture)
        return picture

    async def _addresses(self, place: Place) -> Sequence[str]:
        """Look a name up once; one address that must not be dialled makes the name untrustworthy."""
        try:
            found = (place.host,) if place.is_address else await self._policy.resolve(place.host, place.port)
        except (OSError, UnicodeError) as exc:
            raise _unreachable() from exc
        if not all(map(self._policy.allowed, found)):
            raise UpstreamBadResponseError("the upstream's picture lies where the gateway does not fetch from")
        return found

    async def _fetched(self, place: Place, addresses: Sequence[str], cap: int, grow: Grow | None) -> bytes:
        """Dial one address after the other until one answers, the first of them once more in the end."""
        sent = 0
        left = [*addresses[:ADDRESSES], *addresses[:1]]
        while left:
            progress = _Progress()
            try:
                return await self._ask(place, left.pop(0), cap, progress, grow)
            except (UpstreamUnreachableError, UpstreamIncompleteError):
                sent += progress.began
                if progress.answered or sent > RESENT:
                    raise
        raise _unreachable()

    async def _ask(self, place: Place, address: str, cap: int, progress: "_Progress", grow: Grow | None) -> bytes:
        async with httpx2.AsyncHTTPTransport(verify=self._context, trust_env=False) as connection:
            request = HttpRequest(method="GET", url=address, headers=(("host", place.authority), *USUAL, CLOSE))
            pinned = HttpxTransport([_Pinned(connection, place)], traced=True)
            async with pinned.send(request, progress) as incoming:
                progress.answered = True
                return await collect(incoming, _checked(incoming), cap, grow)


async def in_turns(work: Turns[T]) -> T:
    """Do work that lets others have their turn."""
    try:
        while True:
            next(work)
            await anyio.lowlevel.checkpoint()
    except StopIteration as stop:
        return stop.value


class _Progress(Progress):
    """Notes, too, whether the head of an answer came."""

    __slots__ = ("answered",)

    def __init__(self) -> None:
        super().__init__()
        self.answered = False


class _Pinned:
    """A client that dials the address it is given as URL, and asks there for a place whose name it never looks up.

    The certificate must be the name's.
    """

    cookies = None

    def __init__(self, connection: httpx2.AsyncHTTPTransport, place: Place) -> None:
        self._connection = connection
        self._place = place
        self.aclose = connection.aclose

    def build_request(
        self, method: str, address: str, *, headers: list[tuple[str, str]], content: bytes, extensions: dict[str, Any]
    ) -> httpx2.Request:
        place = self._place
        return httpx2.Request(
            method,
            f"{place.scheme}://{bracketed(address)}:{place.port}",
            headers=headers,
            content=content,
            extensions={
                **extensions,
                "target": place.target.encode(),  # as it is, byte for byte
                "sni_hostname": place.host,
                "timeout": {"connect": CONNECT},
            },
        )

    async def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:  # noqa: ANN401, all of them off
        return await self._connection.handle_async_request(request)


def _checked(incoming: Incoming) -> str:
    """Look at a head before its body is read; give the length it tells, if any.

    Raises:
        UpstreamError: no picture follows.
    """
    if incoming.status in _REDIRECTS:
        raise UpstreamRedirectError("the upstream's picture is behind a redirect, which is never followed")
    if incoming.status != _OK:
        raise UpstreamBadResponseError(f"the upstream's picture could not be fetched: {incoming.status}")
    headers = dict(incoming.headers)
    if any(name == "content-encoding" and value.lower() != "identity" for name, value in incoming.headers):
        raise UpstreamBadResponseError("the upstream's picture is compressed although it was asked not to be")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind not in _ANY_BYTES:
        raise UpstreamBadResponseError("what the upstream gave for a picture says that it is none")
    if not headers.keys() & {"content-length", "transfer-encoding"}:  # half a picture would look like a whole one
        raise UpstreamIncompleteError("the upstream's picture does not say where it ends")
    return headers.get("content-length", "")


def _unreachable() -> UpstreamUnreachableError:
    return UpstreamUnreachableError("the upstream's picture cannot be reached")


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


_OK: Final = 200
_REDIRECTS: Final = range(300, 400)
_ANY_BYTES: Final = ("application/octet-stream", "binary/octet-stream")  # the latter is what S3 says unasked
