"""A vendor to pass requests through to, on a real socket: it notes what it was asked, and answers by the path."""

import json
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any

import anyio
from starlette.types import Receive, Scope, Send

import amux_asgi
from amux_asgi import ChannelConfig
from amux_asgi.middleware.passthrough import Passthrough
from amux_asgi.routing import Channel

PATIENCE = 10  # seconds until a test that waits for another thread has failed
SPEECH = b"\x00spoken\xff"


class Ask:
    """What the vendor was asked, as far as it has arrived."""

    def __init__(self, scope: Scope) -> None:
        self.line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}"
        self.headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        self.body = b""
        self.complete = False

    def header(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name]


class Vendor:
    """The vendor. Events tell the test's thread how far it is, and hold the vendor back until the test says so."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.arrived = Event()  # a piece of a request
        self.left = Event()  # its client has closed the connection
        self.go_on = Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = Ask(scope)
        self.asks.append(ask)
        if not await self._read(ask, receive):
            self.left.set()
            return
        name = scope["path"].rpartition("/")[2]
        if name.isdecimal():
            await _refuse(send, int(name))
        else:
            await _ANSWERS[name](self, receive, send)

    async def _read(self, ask: Ask, receive: Receive) -> bool:
        while not ask.complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            ask.body += message["body"]
            ask.complete = not message["more_body"]
            self.arrived.set()
        return True


async def until(event: Event) -> None:
    """Wait for the other thread."""
    assert await anyio.to_thread.run_sync(event.wait, PATIENCE, abandon_on_cancel=True)


def channel(url: str, **options: Any) -> Channel:
    """Make a channel to the vendor."""
    told: dict[str, Any] = {"credentials": ("vendor-credential-1",), "headers": {"X-Project": "ours"}, **options}
    config = ChannelConfig(name="vendor", adapter="openai-compatible", base_url=f"{url}/v1", models=(), **told)
    return amux_asgi.channel(config)


def passing(to: Channel, upstream_path: str = "/audio/speech", **options: Any) -> Passthrough:
    """Make a passthrough from `/v1/speech` to a path of the vendor's."""
    told: dict[str, Any] = {"name": "speech", "path": "/v1/speech", "unmetered": True, **options}
    return Passthrough(channel=to, upstream_path=upstream_path, **told)


async def _refuse(send: Send, status: int) -> None:
    fault = {"message": "no, acct sk-secret-123456 at api.vendor.com", "type": "t", "param": "voice", "code": "c_1"}
    headers = [(b"content-type", b"application/json"), (b"location", b"/v1/elsewhere"), (b"retry-after", b"7")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": fault}).encode()})


async def _speak(_vendor: Vendor, _receive: Receive, send: Send) -> None:
    headers = {
        "content-type": "audio/mpeg",
        "content-length": str(len(SPEECH)),
        "content-disposition": 'attachment; filename="\xe9.mp3"',
        "set-cookie": "tenant=a",
        "openai-organization": "ours",
        "x-ratelimit-remaining-requests": "5",
        "x-request-id": "theirs",
        "location": "/elsewhere",
    }
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 201, "headers": pairs})
    await send({"type": "http.response.body", "body": SPEECH})


async def _pieces(vendor: Vendor, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_note_leaving, vendor, receive)
        await until(vendor.go_on)
        tasks.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b"two"})


async def _note_leaving(vendor: Vendor, receive: Receive) -> None:
    await receive()
    vendor.left.set()
    vendor.go_on.set()


async def _hang(vendor: Vendor, receive: Receive, _send: Send) -> None:
    await receive()
    vendor.left.set()


async def _cut(_vendor: Vendor, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})


async def _zip(_vendor: Vendor, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-encoding", b"gzip")]})
    await send({"type": "http.response.body", "body": b"\x1f\x8b"})


async def _babble(_vendor: Vendor, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": b"<h1>Traceback</h1>" * 1000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


_ANSWERS: dict[str, Callable[[Vendor, Receive, Send], Awaitable[None]]] = {
    "speech": _speak,
    "pieces": _pieces,
    "hang": _hang,
    "cut": _cut,
    "zip": _zip,
    "babble": _babble,
}
