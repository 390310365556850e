"""The least that this design can be: uvicorn takes a request, aiohttp asks the upstream, and the answer goes back.

Nothing is looked at: no key, no model, no fault, no money. Whatever a gateway does comes on top of what this takes.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp  # noqa: TID251, measured as it is
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

UPSTREAM: Final = "THROUGH_UPSTREAM"
HEADERS: Final = {"content-type": "application/json", "authorization": "Bearer sk-of-the-benchmark"}


class Through:
    """One ASGI app."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await Starlette(lifespan=self._lifespan)(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer = await self._ask(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("it was not started")
        async with self._session.post(self._url, data=body, headers=HEADERS) as response:
            return response.status, await response.read()

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncGenerator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            yield


app: Final = Through(os.environ.get(UPSTREAM, ""))
