"""Receive a request's JSON body: what it says it is, under a cap, in time."""

from collections.abc import Callable

from starlette.types import Receive, Scope

from amux_asgi.errors import (
    GatewayError,
    OverloadedError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)
from amux_asgi.patience import within

Count = Callable[[int], object]


def _any_number(_size: int) -> None: ...


async def receive_json(
    scope: Scope, receive: Receive, *, longest: int, timeout: float, count: Count = _any_number
) -> bytes:
    """Give the body of a request that says it is plain JSON, at most `longest` bytes received within `timeout` seconds.

    `count` is told of all bytes as they come.

    Raises:
        OverloadedError: `count` has no room for it.
        UnsupportedMediaTypeError: another type, another charset, or an encoding.
        RequestTooLargeError: said so (then nothing is received), or found so.
        RequestTimeoutError: it took too long, or the client left in the middle of it.
    """
    headers = dict(scope["headers"])
    _check_type(headers)
    said = headers.get(b"content-length", b"")
    if said.isdigit() and (len(said) > _LONGEST_NUMBER or int(said) > longest):
        raise _too_large(longest)
    try:
        body = await within(timeout, _collect(receive, longest, count))
    except TimeoutError as exc:  # the server's own
        raise _too_late(timeout) from exc
    if body is None:
        raise _too_late(timeout)
    return body


async def _collect(receive: Receive, longest: int, count: Count) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > longest:
            raise _too_large(longest)
        count(len(body))
        return body
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise RequestTimeoutError("the client left before its request was complete")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > longest:
            raise _too_large(longest)
        try:
            count(len(pieces[-1]))
        except OverloadedError as error:
            error.unread = True
            raise
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await receive()


def _check_type(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-type") != b"application/json":
        _check_spelling(headers)
    if headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower() != "identity":
        raise UnsupportedMediaTypeError("send the request uncompressed, without 'Content-Encoding'")


def _check_spelling(headers: dict[bytes, bytes]) -> None:
    kind, *parameters = headers.get(b"content-type", b"").decode("latin-1").lower().split(";")
    charsets = [
        value.strip(' "')
        for name, _, value in (text.partition("=") for text in parameters)
        if name.strip() == "charset"
    ]
    if kind.strip() != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise UnsupportedMediaTypeError("send the request as JSON in UTF-8, with 'Content-Type: application/json'")


def _too_late(timeout: float) -> GatewayError:
    return RequestTimeoutError(f"the request did not arrive within {timeout:g} seconds")


def _too_large(longest: int) -> GatewayError:
    return RequestTooLargeError(f"the request is larger than {longest} bytes")


_LONGEST_NUMBER = 18  # digits; Python refuses to read numbers of thousands of them
