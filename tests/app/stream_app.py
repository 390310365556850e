"""What any server serves in the tests of streams: a gateway whose upstream sends its next event when it is told to.

`python -m tests.app.stream_app PORT` is the standalone server.
"""

import sys
from typing import Any, Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import ChannelConfig, Config, GatewayConfig, ImagesApp, KeyConfig, images_app
from amux_asgi.server import ServerSettings, serve

KEY: Final = "stream-key-of-the-tests-1"
BREAKS: Final = "this one breaks"
LATE: Final = "this one is late"
LINGERS: Final = "this one lingers"
LARGE: Final = "this one is large"
PICTURE: Final = "iVBORw0KGgo="  # the first bytes of a PNG
TOLD: Final = {"b64_json": PICTURE, "created_at": 1, "size": "1024x1024", "quality": "low", "background": "opaque"}
TOKENS: Final = {"input_tokens": 3, "output_tokens": 196, "total_tokens": 199}


class Upstream:
    """Streams a preview and a picture, or an error; each event but the first waits until one is let go.

    One that is late waits for the first one too, one that lingers never ends.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._gate = anyio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prompt: str = (await Request(scope, receive).json())["prompt"]
        self.asked += 1
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if prompt == LATE:
            await self._gate.acquire()
        await tell(send, "image_generation.partial_image", **TOLD, output_format="png", partial_image_index=0)
        await self._gate.acquire()
        if prompt == LARGE:
            large = {**TOLD, "b64_json": "A" * 48_000_000}
            await tell(send, "image_generation.completed", **large, output_format="png", usage=TOKENS)
        elif prompt == BREAKS:
            error = {"type": "server_error", "code": "image_generation_failed", "message": "it broke", "param": None}
            await tell(send, "error", error=error)
        else:
            await tell(send, "image_generation.completed", **TOLD, output_format="png", usage=TOKENS)
        if prompt == LINGERS:
            await anyio.sleep_forever()  # until nobody listens any more
        await send({"type": "http.response.body"})

    def let_go(self) -> None:
        self._gate.release()


async def tell(send: Send, name: str, **fields: Any) -> None:
    data = msgspec.json.encode({"type": name, **fields})
    await send(
        {"type": "http.response.body", "body": b"event: %b\ndata: %b\n\n" % (name.encode(), data), "more_body": True}
    )


def images(upstream: Upstream, *, heartbeat: float = 0.25, **parts: Any) -> ImagesApp:
    """Make the gateway; a comment keeps a stream alive after so many seconds."""
    channel = ChannelConfig(
        name="c", adapter="openai", base_url="asgi://upstream/v1", credentials=("sk-test",), models=("gpt-image-2",)
    )
    config = Config(gateway=GatewayConfig(heartbeat=heartbeat, write_timeout=2), channels=(channel,))
    told: dict[str, Any] = {"keys": [KeyConfig(name="stream", key=KEY)], **parts}
    return images_app(config, apps={"upstream": upstream}, **told)


def host(upstream: Upstream, inner: ASGIApp, app: ImagesApp, **options: Any) -> Starlette:
    """Mount it; `GET /go` lets an event go, `GET /ended` waits for a stream's end.

    `GET /asked` says how often the upstream was asked.
    """
    calls = anyio.Semaphore(0)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inner(scope, receive, send)
        finally:
            calls.release()

    async def ended(_request: Request) -> PlainTextResponse:
        await calls.acquire()
        return PlainTextResponse("")

    async def go(_request: Request) -> PlainTextResponse:
        upstream.let_go()
        return PlainTextResponse("")

    async def asked(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(upstream.asked))

    routes = [Route("/go", go), Route("/asked", asked), Route("/ended", ended), Mount("/v1", watched)]
    return Starlette(routes=routes, lifespan=app.lifespan, **options)


def make() -> Starlette:
    upstream = Upstream()
    made = images(upstream)
    return host(upstream, made, made)


app: Final = make()

if __name__ == "__main__":
    serve("tests.app.stream_app:make", ServerSettings(port=int(sys.argv[1])))
