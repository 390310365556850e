"""What floor.py counts: one process that makes apps as it is told, warms each up, and says when it begins to ask.

Told on stdin, a line each: a case's name, then "go", then "end". Said on stdout: "ready", then "done".
"""

import asyncio  # noqa: TID251, counts on one loop
import gc
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from msgspec import Struct
from starlette.types import Message, Scope

from amux_asgi import ChannelConfig, ImagesApp, ModelConfig, images_app, rules
from amux_asgi.keys import FixedKey, FixedKeys, Principal, digest_of
from amux_asgi.transport.base import Incoming, Progress
from amux_asgi.windows import Counters, MemoryLimiter
from amux_asgi.wire import HttpRequest
from benchmarks.floor import REQUESTS

OK: Final = 200

AT_ONCE: Final = 16
WARM: Final = 24 * AT_ONCE  # requests before it is counted: by then each statement has been prepared
LIMITS: Final = rules("1000000 requests/minute", "1000000 images/minute", "1000 concurrent")
USAGE: Final = {
    "input_tokens": 7,
    "output_tokens": 4160,
    "total_tokens": 4167,
    "input_tokens_details": {"text_tokens": 7, "image_tokens": 0},
}
FACTS: Final = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
SHOWN: Final = 3  # partial pictures of a stream
STRIDE: Final = 7919  # between one key or model and the next


class Told(Struct, frozen=True):
    """An upstream's answer."""

    kind: str
    pieces: tuple[bytes, ...]


class Case(Struct, frozen=True, kw_only=True):
    """What is asked of which app."""

    limited: bool = False
    kept: bool = False  # in SQLite
    size: int = 700  # bytes of the picture in base64
    stream: bool = False
    keys: int = 1
    models: int = 1  # each with a channel of its own

    def answer(self) -> Told:
        """Say what the upstream answers."""
        picture = "A" * self.size
        if not self.stream:
            whole = {"created": 1761105722, "data": [{"b64_json": picture}], **FACTS, "usage": USAGE}
            return Told("application/json", (json.dumps(whole).encode(),))
        common = {"b64_json": picture, "created_at": 1761105722, **FACTS}
        kinds = [*({"type": "partial_image", "partial_image_index": i} for i in range(SHOWN)), {"type": "completed"}]
        events: list[dict[str, Any]] = [
            {**kind, "type": f"image_generation.{kind['type']}", **common} for kind in kinds
        ]
        events[-1]["usage"] = USAGE
        pieces = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
        return Told("text/event-stream", tuple(pieces))

    def app(self, folder: str) -> ImagesApp:
        """Make the app."""
        return images_app(
            channels=[
                ChannelConfig(
                    name=f"up-{i}",
                    adapter="openai",
                    base_url="https://example.com/v1",
                    credentials=("sk-xxxxxxxxxxxxxxxx",),
                    models=(ModelConfig(name=_model(i), upstream="gpt-image-2"),),
                )
                for i in range(self.models)
            ],
            keys=FixedKeys(map(self._fixed, range(self.keys)), now=lambda: datetime.now(UTC)),
            transport=partial(nullcontext, Upstream(self.answer())),
            limiter=MemoryLimiter(Counters(time.monotonic)),
            database=f"sqlite:///{Path(folder, 'floor.db')}" if self.kept else None,
        )

    def requests(self) -> Iterator[tuple[bytes, bytes]]:
        """Give API keys and bodies without end, of one key and model after the other."""
        extra: dict[str, Any] = {"stream": True, "partial_images": SHOWN} if self.stream else {}
        asked = {"prompt": "a red paper lantern over a canal at dusk", "size": "1024x1024", "quality": "high", **extra}
        for at in count(step=STRIDE):
            yield _key(at % self.keys).encode(), json.dumps({"model": _model(at % self.models), **asked}).encode()

    def _fixed(self, number: int) -> FixedKey:
        name = f"key-{number}"
        limits = LIMITS if self.limited else ()
        return FixedKey(digest=digest_of(_key(number)), principal=Principal(account=name, key=name, limits=limits))


CASES: Final = {
    "bare": Case(),
    "limits": Case(limited=True),
    "full": Case(limited=True, kept=True),
    "stream": Case(stream=True),
    "picture": Case(size=2_000_000),
    "keys": Case(limited=True, keys=100_000),
    "models": Case(models=1_000),
}


class Upstream:
    """A transport that has the answer at hand."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def send(
        self,
        request: HttpRequest,  # noqa: ARG002, a transport's signature
        progress: Progress,
        *,
        body: AsyncIterable[bytes] | None = None,  # noqa: ARG002, likewise
    ) -> AbstractAsyncContextManager[Incoming]:
        """Answer."""
        progress.began = True
        return nullcontext(
            Incoming(status=200, headers=(("content-type", self._told.kind),), chunks=_chunks(self._told.pieces))
        )


async def _chunks(pieces: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


async def ask(app: ImagesApp, key: bytes, body: bytes) -> None:
    """Ask once, as a server hands it over, and read the answer."""
    begun = asyncio.Event()
    messages: list[Message] = []

    async def receive() -> Message:
        if begun.is_set():
            await asyncio.Future()  # the client stays until it has its answer
        begun.set()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(_scope(key, body), receive, send)
    if messages[0]["status"] != OK or messages[-1].get("more_body", False):
        raise SystemExit(f"that is no answer: {messages[0]}")


async def many(app: ImagesApp, requests: Iterator[tuple[bytes, bytes]], number: int) -> None:
    """Ask so often, so many at once."""

    async def some() -> None:
        for _ in range(number // AT_ONCE):
            await ask(app, *next(requests))

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def counted(case: Case) -> None:
    """Ask when told so, and stand still before and after."""
    with TemporaryDirectory() as folder:
        app, requests = case.app(folder), case.requests()
        async with app.lifespan():
            await many(app, requests, WARM)
            gc.collect()
            gc.disable()  # when it comes is chance; what it takes grows with what there is to collect
            _say("ready")
            await many(app, requests, REQUESTS)
            _say("done")
            gc.enable()


def main() -> None:
    """Count what is told, until nothing more is."""
    logging.getLogger("amux_asgi").setLevel(logging.ERROR)
    for line in sys.stdin:
        asyncio.run(counted(CASES[line.strip()]))


def _say(word: str) -> None:
    """Say where one is, and wait for leave to go on."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _key(number: int) -> str:
    return f"key-of-tenant-{number:08}"


def _model(number: int) -> str:
    return f"model-{number}"


def _scope(key: bytes, body: bytes) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/images/generations",
        "raw_path": b"/v1/images/generations",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"example.com"),
            (b"authorization", b"Bearer " + key),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


if __name__ == "__main__":
    main()
