"""Carry a flow out: sign, guard the credential, cap, keep the deadline, and tell what was surely never sent."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import anyio
from msgspec.structs import replace

from amux_asgi.adapters._base import Sign
from amux_asgi.errors import End, GatewayError, UpstreamError, UpstreamTimeoutError, UpstreamTooLargeError
from amux_asgi.schema import ImagesResponse
from amux_asgi.transport.base import Incoming, Progress, Transport
from amux_asgi.wire import Flow, HttpRequest, HttpResponse

USUAL: Final = (("accept-encoding", "identity"), ("user-agent", "amux-asgi"))


async def carry(  # noqa: PLR0913, all that one attempt needs
    flow: Flow,
    transport: Transport,
    *,
    sign: Sign,
    credential: str,
    base_url: str,
    hosts: tuple[str, ...],
    headers: Mapping[str, str],
    timeout: float,
    cap: int,
) -> ImagesResponse:
    """Have the conversation to its end, within `timeout` seconds, each answer at most `cap` bytes.

    The credential goes to the base URL's own host and below `hosts`, nowhere else.

    Raises:
        GatewayError: with `end` set; `NEVER_SENT` only if no byte of any ask left.
    """
    progress = Progress()
    with anyio.move_on_after(timeout):
        try:
            ask = next(flow)
            while True:
                guard(ask.url, base_url, hosts)
                signed = sign(ask, credential) if credential else ()
                asked = replace(ask, headers=(*USUAL, *ask.headers, *headers.items(), *signed))
                ask = flow.send(await exchange(transport, asked, progress, cap=cap))
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()
    raise UpstreamTimeoutError(f"the upstream did not finish within {timeout:g} seconds", end=end_of(progress))


async def exchange(transport: Transport, request: HttpRequest, progress: Progress, *, cap: int) -> HttpResponse:
    """Ask once and take the whole answer into memory, before anything slow is done with it.

    Raises:
        GatewayError: with `end` set; `UpstreamTooLargeError` beyond `cap` bytes.
    """
    try:
        check_headers(request)
        async with transport.send(request, progress) as incoming:
            headers = dict(incoming.headers)
            body = await _collect(incoming, headers.get("content-length", ""), cap)
    except GatewayError as error:
        error.end = end_of(progress)
        raise
    return HttpResponse(status=incoming.status, headers=headers, body=body)


def end_of(progress: Progress) -> End:
    """Say how an attempt ended that nobody answered."""
    return End.UNKNOWN if progress.began else End.NEVER_SENT


def guard(url: str, base_url: str, hosts: tuple[str, ...]) -> None:
    """Let an ask go only where the channel's credential may go.

    Raises:
        UpstreamError: another host, a weaker scheme, or a URL that two parsers could read in two ways.
    """
    if url.startswith(f"{base_url}/") and _PLAIN.fullmatch(url):
        return
    asked, base = urlsplit(url), urlsplit(base_url)
    host = asked.hostname or ""
    allowed = host == base.hostname or any(host == name or host.endswith(f".{name}") for name in hosts)
    if not (allowed and _PLAIN.fullmatch(url) and asked.scheme == base.scheme and asked.username is None):
        raise UpstreamError("the upstream sent the gateway to a place that its channel does not cover", retry=False)


def check_headers(request: HttpRequest) -> None:
    """Refuse header values that could be read as more than one header.

    Raises:
        UpstreamError: nothing was sent.
    """
    for name, value in request.headers:
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise UpstreamError(
                f"the header {name[:40]!r} of an ask holds a character that HTTP does not allow", retry=False
            )


async def _collect(incoming: Incoming, said: str, cap: int) -> bytes:
    if said.isdecimal() and (len(said) > _LONGEST_NUMBER or int(said) > cap):
        raise _too_large(cap)
    pieces: list[bytes] = []
    size = 0
    async for piece in incoming.chunks:
        size += len(piece)
        if size > cap:
            raise _too_large(cap)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(cap: int) -> UpstreamTooLargeError:
    return UpstreamTooLargeError(f"the upstream's answer is larger than {cap} bytes")


_PLAIN: Final = re.compile(
    r"[a-z]+://[A-Za-z0-9._:\[\]-]+(?:/[!#-\[\]-~]*)?"
)  # no blank, quote, backslash, user or non-ASCII
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?|")
_LONGEST_NUMBER: Final = 18  # digits
