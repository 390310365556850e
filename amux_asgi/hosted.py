"""`GET {mount}/pictures/{name}`: pictures that we host, for whoever was told the name; and where that is."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from amux_asgi.errors import MethodNotAllowedError, NotFoundError
from amux_asgi.pictures import expiry_of, headers_of, kind_of
from amux_asgi.respond import encoded
from amux_asgi.scope import header_values

PIECE: Final = 262_144  # bytes handed to the server at once, so that it holds little of a picture twice


class HostedPictures:
    """Shows hosted pictures. It asks for no key: the name is the secret."""

    def __init__(self, get: Callable[[str], Awaitable[bytes | None]], *, now: Callable[[], float] = time.time) -> None:  # noqa: TID251, the default clock
        """`get` is that of the store that runs; `now` is Unix time in seconds."""
        self._get = get
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowedError("a picture is there to be fetched", allow="GET, HEAD")
        name = str(scope["path_params"]["name"])
        expires = expiry_of(name)
        data = None if expires is None else await self._get(name)
        kind = None if data is None else kind_of(data)
        if expires is None or data is None or kind is None:
            raise NotFoundError("there is no picture here, or its time is over")
        left = max(0, int(expires - self._now()))
        size = ("content-length", str(len(data)))
        headers = encoded((*headers_of(kind, left), size))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send_body(send, b"" if scope["method"] == "HEAD" else data)


def picture_routes(hosted: HostedPictures) -> list[BaseRoute]:
    """List the routes: of a router around the authenticated stack, which then needs the lifespan.

    Whatever stands behind the slash, with slashes and dots of its own, is a name; so nothing else looks at it.
    """
    return [Route(prefix + "/pictures/{name:path}", hosted) for prefix in ("/v1", "")]


def mount_of(scope: Scope) -> str:
    """Say where this app is, as this request names it."""
    given = header_values(scope, b"host")
    host = given[0].decode("latin-1") if len(given) == 1 and _HOST.fullmatch(given[0]) else _server(scope)
    return f"{scope.get('scheme', 'http')}://{host}{quote(scope.get('root_path', '').rstrip('/'))}"


def _server(scope: Scope) -> str:
    host, port = scope.get("server") or ("localhost", None)
    if port is None:  # a socket that is a file
        return "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _send_body(send: Send, data: bytes) -> None:
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        piece = bytes(view[start : start + PIECE])
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


_HOST: Final = re.compile(rb"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
