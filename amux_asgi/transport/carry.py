"""Carry a flow out: sign, guard the credential, cap, keep the deadline, and tell what was surely never sent."""

import random as chance
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit

import anyio
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters._base import Sign
from amux_asgi.errors import End, GatewayError, UpstreamError, UpstreamTimeoutError, UpstreamTooLargeError
from amux_asgi.loops import move_on_after
from amux_asgi.schema import ImagesResponse
from amux_asgi.transport.base import Fill, Incoming, Progress, Transport
from amux_asgi.turns import turns_here
from amux_asgi.wire import DeadlineError, Flow, Headers, HttpRequest, HttpResponse

JITTER: Final = 0.25  # of a wait, so that many who wait do not ask at once
FAREWELL: Final = 5.0  # seconds to call work off
LARGE: Final = 1_048_576  # bytes, whose work takes so long that it waits for its turn
_SAID_AGAIN: Final = 4096  # URLs, and headers, that are known to be fit, of as many channels: most asks say the same
USUAL: Final = (("accept-encoding", "identity"), ("user-agent", "amux-asgi"))


Sleep = Callable[[float], Awaitable[None]]
Grow = Callable[[int], Awaitable[None]]
"""Counts bytes as they come, and waits where there is no room for more."""

Listen = Callable[[Incoming], Awaitable[ImagesResponse | GatewayError | None]]
"""Takes an answer as it comes if it is a stream, to its end: its pictures, or what it says went wrong."""


class Way(Struct, frozen=True, kw_only=True):
    """How the asks of one channel go out.

    The credential goes to the base URL's own host and below `hosts`, nowhere else. `cap` is in bytes, of each answer.
    `sleep` waits between two asks, `random` gives 0 ≤ x < 1, `grow` counts what comes, and `listen` takes it where it
    is a stream.
    """

    transport: Transport
    sign: Sign
    credential: str
    base_url: str
    hosts: tuple[str, ...]
    headers: Mapping[str, str]
    cap: int
    sleep: Sleep = anyio.sleep
    random: Callable[[], float] = chance.random
    grow: Grow | None = None
    listen: Listen | None = None


async def carry(flow: Flow, way: Way, *, timeout: float) -> ImagesResponse:
    """Have the conversation to its end, within `timeout` seconds; then it may call its work off.

    Raises:
        GatewayError: with `end` set; `NEVER_SENT` only if no byte of any ask left.
    """
    progress = Progress()
    try:
        with move_on_after(timeout):
            return await _talk(partial(next, flow), flow, way, progress)
        late = DeadlineError(f"the upstream did not finish within {timeout:g} seconds", end=end_of(progress))
        with anyio.move_on_after(FAREWELL), suppress(GatewayError):
            await _talk(partial(flow.throw, late), flow, way, progress)
        raise late
    finally:
        flow.close()


async def _talk(begin: Callable[[], HttpRequest], flow: Flow, way: Way, progress: Progress) -> ImagesResponse:
    """Give the flow what it asks for; what goes wrong is raised inside it."""
    step, size = begin, 0
    while True:
        try:
            if size >= LARGE:
                await turns_here().take(size)
            ask = step()
        except StopIteration as stop:
            return stop.value
        try:
            answer = await _ask(ask, way, progress)
        except GatewayError as error:
            answer = error
        if isinstance(answer, ImagesResponse):
            return answer
        if isinstance(answer, GatewayError):
            step, size = partial(flow.throw, answer), 0
        else:
            step, size = partial(flow.send, answer), len(answer.body)


async def _ask(ask: HttpRequest, way: Way, progress: Progress) -> HttpResponse | ImagesResponse | GatewayError:
    guard(ask.url, way.base_url, way.hosts)
    if ask.delay:
        await way.sleep(ask.delay * (1 + JITTER * way.random()))
    signed = way.sign(ask, way.credential) if way.credential else ()
    asked = replace(ask, headers=(*USUAL, *ask.headers, *way.headers.items(), *signed))
    if way.listen is not None:
        return await _listened(asked, way, progress, way.listen)
    if ask.timeout is None:
        return await exchange(way.transport, asked, progress, cap=way.cap, grow=way.grow)
    with anyio.move_on_after(ask.timeout):
        return await exchange(way.transport, asked, progress, cap=way.cap, grow=way.grow)
    raise UpstreamTimeoutError(f"the upstream did not answer within {ask.timeout:g} seconds", end=end_of(progress))


async def exchange(
    transport: Transport, request: HttpRequest, progress: Progress, *, cap: int, grow: Grow | None = None
) -> HttpResponse:
    """Ask once and take the whole answer into memory, before anything slow is done with it.

    Raises:
        GatewayError: with `end` set; `UpstreamTooLargeError` beyond `cap` bytes.
    """
    try:
        check_headers(request)
        async with transport.send(request, progress) as incoming:
            return await _whole(incoming, cap, grow)
    except GatewayError as error:
        error.end = end_of(progress)
        raise


async def _listened(
    asked: HttpRequest, way: Way, progress: Progress, listen: Listen
) -> HttpResponse | ImagesResponse | GatewayError:
    """Ask once and listen to a stream, or take the whole answer if it is none. Raises as `exchange` does."""
    try:
        check_headers(asked)
        async with way.transport.send(asked, progress) as incoming:
            heard = await listen(incoming)
            return await _whole(incoming, way.cap, way.grow) if heard is None else heard
    except GatewayError as error:
        error.end = end_of(progress)
        raise


async def _whole(incoming: Incoming, cap: int, grow: Grow | None) -> HttpResponse:
    headers = dict(incoming.headers)
    body = await collect(incoming, headers.get("content-length", ""), cap, grow)
    return HttpResponse(status=incoming.status, headers=headers, body=body)


def end_of(progress: Progress) -> End:
    """Say how an attempt ended that nobody answered."""
    return End.UNKNOWN if progress.began else End.NEVER_SENT


def guard(url: str, base_url: str, hosts: tuple[str, ...]) -> None:
    """Let an ask go only where the channel's credential may go.

    Raises:
        UpstreamError: another host, a weaker scheme, or a URL that two parsers could read in two ways.
    """
    if url.startswith(f"{base_url}/") and _is_plain(url):
        return
    asked, base = urlsplit(url), urlsplit(base_url)
    host = asked.hostname or ""
    allowed = host == base.hostname or any(host == name or host.endswith(f".{name}") for name in hosts)
    if not (allowed and _is_plain(url) and asked.scheme == base.scheme and asked.username is None):
        raise UpstreamError("the upstream sent the gateway to a place that its channel does not cover", retry=False)


def check_headers(request: HttpRequest) -> None:
    """Refuse header values that could be read as more than one header.

    Raises:
        UpstreamError: nothing was sent.
    """
    if (name := _wrong(request.headers)) is not None:
        raise UpstreamError(
            f"the header {name[:40]!r} of an ask holds a character that HTTP does not allow", retry=False
        )


@lru_cache(maxsize=_SAID_AGAIN)
def _is_plain(url: str) -> bool:
    return _PLAIN.fullmatch(url) is not None


@lru_cache(maxsize=_SAID_AGAIN)
def _wrong(headers: Headers) -> str | None:
    """Name the first header that is none."""
    return next((name for name, value in headers if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value))), None)


async def collect(incoming: Incoming, said: str, cap: int, grow: Grow | None = None) -> bytes:
    """Take a body into memory; `said` is its length in the upstream's words, if it gave any.

    While `grow` waits nothing is read, so that the rest stays with the upstream.

    Raises:
        UpstreamTooLargeError: it has, or claims, more than `cap` bytes.
    """
    if said.isdecimal() and (len(said) > _LONGEST_NUMBER or int(said) > cap):
        raise _too_large(cap)
    if incoming.fill is not None:
        return await _filled(incoming.fill, int(said), grow)
    pieces: list[bytes] = []
    size = 0
    async for piece in incoming.chunks:
        size += len(piece)
        if size > cap:
            raise _too_large(cap)
        pieces.append(piece)
        if grow is not None:
            await grow(len(piece))
        if len(pieces) % _TURN == 0:  # thousands of tiny pieces can be there at once
            await anyio.lowlevel.checkpoint()
    if size >= LARGE and len(pieces) > 1:  # a single one is not copied
        await turns_here().take(size)
    return b"".join(pieces)


async def _filled(fill: Fill, size: int, grow: Grow | None) -> bytes:
    """Take a body of known size into memory, each byte once, in the place where it stays."""
    turns = turns_here()
    await turns.take(size)
    whole = BytesIO(bytes(size))  # it takes these zeros over, and where they are
    with whole.getbuffer() as room:
        for start in range(0, size, _STEP):
            step = min(_STEP, size - start)
            await turns.take(step)
            await fill(room[start : start + step])  # which has no name: one that lived on would make the next line copy
            if grow is not None:
                await grow(step)
    return whole.getvalue()


def _too_large(cap: int) -> UpstreamTooLargeError:
    return UpstreamTooLargeError(f"the upstream's answer is larger than {cap} bytes")


_PLAIN: Final = re.compile(
    r"[a-z]+://[A-Za-z0-9._:\[\]-]+(?:/[!#-\[\]-~]*)?"
)  # no blank, quote, backslash, user or non-ASCII
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?|")
_LONGEST_NUMBER: Final = 18  # digits
_STEP: Final = 9 * 2**18  # bytes that are read in one turn of the event loop, and counted: a picture of 2 MB
_TURN: Final = 64  # pieces, after which others have their turn
