"""The one writer of error bodies."""

import logging
import math
import re
from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.types import Scope, Send

from amux_asgi.errors import End, GatewayError, MethodNotAllowedError
from amux_asgi.scope import facts_of, request_id_of

LONGEST_WAIT: Final = 60  # seconds that every SDK honours
SERVER_ERROR: Final = 500
POLICY_VIOLATION: Final = 1008  # of a websocket's close

logger: logging.Logger = logging.getLogger("amux_asgi")

Headers = list[tuple[bytes, bytes]]


async def respond(scope: Scope, send: Send, error: GatewayError) -> None:
    """Answer with an error: four keys in one JSON document, the request id in a header.

    A websocket that is not accepted yet is refused with the same answer where the server can, otherwise closed with
    1008.
    """
    facts_of(scope).update(request_id=request_id_of(scope), status=error.status, code=error.code)
    if scope["type"] == "http":
        await _answer(scope, send, error, "http.response")
    elif "websocket.http.response" in scope.get("extensions", {}):
        await _answer(scope, send, error, "websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": error.code})


def log(scope: Scope, error: GatewayError) -> None:
    """Note an error for the host's access log, and tell the operator of what is no client's fault."""
    facts_of(scope)["code"] = error.code
    if error.status >= SERVER_ERROR:
        logger.error("%s: %d %s", request_id_of(scope), error.status, error.code)


def body_of(error: GatewayError) -> bytes:
    """Write the body of an error's answer."""
    return msgspec.json.encode({"error": error.envelope()})


def headers_of(error: GatewayError) -> Headers:
    """Write what an error says beside its body."""
    headers = [*error.headers]
    wait = 0 if error.retry_after is None else math.ceil(error.retry_after)
    if error.retry_after is not None:
        headers.append(("retry-after", str(wait)))
    if wait > LONGEST_WAIT or (error.retry is None and error.end is End.UNKNOWN):
        headers.append(("x-should-retry", "false"))
    elif error.retry is not None:
        headers.append(("x-should-retry", str(error.retry).lower()))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("allow", error.allow))
    if error.upstream_code is not None:
        headers.append(("x-amux-upstream-code", error.upstream_code))
    return encoded(headers)


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    """Write headers as ASGI has them; what is not printable ASCII becomes a question mark."""
    return [
        (name.encode(), (value if value.isascii() and value.isprintable() else _UNFIT.sub("?", value)).encode())
        for name, value in headers
    ]


async def _answer(scope: Scope, send: Send, error: GatewayError, kind: str) -> None:
    body = body_of(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id_of(scope).encode()),
        *headers_of(error),
    ]
    if (error.unread or error.status in _UNREAD) and scope.get("http_version", "").startswith("1"):
        headers.append((b"connection", b"close"))  # the rest of the request is not read
    await send({"type": f"{kind}.start", "status": error.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


_UNREAD: Final = (408, 413, 415)
_UNFIT: Final = re.compile(r"[^ -~]")
