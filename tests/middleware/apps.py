"""Foreign apps and small clients for the middleware's tests."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.scope import principal_of

KEY = "a-key-of-twenty-characters"
BEARER = {"authorization": f"Bearer {KEY}"}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Say hello to whoever the scope names."""
    text = f"hello, {principal_of(scope).account}" if "amux.principal" in scope else "hello"
    await PlainTextResponse(text)(scope, receive, send)


async def shouting(scope: Scope, receive: Receive, send: Send) -> None:
    """Shout back what came, over HTTP or a websocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"].upper()})
        await send({"type": "websocket.close"})
        return
    body = await Request(scope, receive).body()
    await PlainTextResponse(body.upper())(scope, receive, send)


@asynccontextmanager
async def client(app: ASGIApp) -> AsyncGenerator[httpx2.AsyncClient]:
    """Ask an app without a socket; exceptions that it lets through are raised."""
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as asking:
        yield asking


async def call(app: ASGIApp, scope: dict[str, Any], *received: Message) -> list[Message]:
    """Call an app directly and give what it sent."""
    waiting = iter(received)
    sent: list[Message] = []

    async def receive() -> Message:
        for message in waiting:
            return message
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"headers": [], **scope}, receive, send)
    return sent
