"""An upstream in this process that says what a test lets it say, when the test lets it."""

import base64
from typing import Any, Final

import anyio
import msgspec
from starlette.types import Message, Receive, Scope, Send

from amux_asgi.sse import frame

PICTURES: Final = tuple(base64.b64encode(b"picture %d" % i).decode() for i in range(10))
USAGE: Final = {
    "total_tokens": 201,
    "input_tokens": 5,
    "output_tokens": 196,
    "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
}


def completed(index: int = 0, **fields: Any) -> bytes:
    """Write the event of a finished picture."""
    told = {"type": "image_generation.completed", "b64_json": PICTURES[index], "created_at": 5, **fields}
    return bytes(frame("image_generation.completed", told))


def preview(index: int = 0) -> bytes:
    """Write the event of a preview."""
    told = {"type": "image_generation.partial_image", "b64_json": PICTURES[9], "partial_image_index": index}
    return bytes(frame("image_generation.partial_image", told))


def failed(code: str = "server_error") -> bytes:
    """Write the event that ends a stream with an error."""
    return bytes(frame("error", {"type": "error", "error": {"message": "no", "code": code}}))


def whole(*pictures: int, **fields: Any) -> bytes:
    """Write an answer that is no stream."""
    return msgspec.json.encode({"created": 5, "data": [{"b64_json": PICTURES[i]} for i in pictures], **fields})


class Asked:
    """One ask, and what is said to it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields: dict[str, Any] = fields
        self.left: anyio.Event = anyio.Event()
        self._begun = False
        self._said: list[Message | None] = []
        self._bell = anyio.Event()

    def say(self, *events: bytes) -> None:
        """Say some events of a stream."""
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", b"text/event-stream")]
            self._put({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            self._put({"type": "http.response.body", "body": event, "more_body": True})

    def end(self) -> None:
        """End the stream."""
        self._put({"type": "http.response.body"})

    def cut(self) -> None:
        """Cut the answer off."""
        self._put(None)

    def answer(self, body: bytes, status: int = 200) -> None:
        """Answer in one."""
        self._put({"type": "http.response.start", "status": status, "headers": []})
        self._put({"type": "http.response.body", "body": body})

    def _put(self, message: Message | None) -> None:
        self._said.append(message)
        self._bell.set()

    async def next(self) -> Message:
        """Wait for what is said next."""
        while not self._said:
            self._bell = anyio.Event()
            await self._bell.wait()
        message = self._said.pop(0)
        if message is None:
            raise ConnectionError
        return message


class Paced:
    """The upstream: an app."""

    def __init__(self) -> None:
        self.asks: list[Asked] = []
        self._bell = anyio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Say what is said, until all is."""
        asked = Asked(msgspec.json.decode((await receive())["body"]))
        self.asks.append(asked)
        self._bell.set()
        try:
            while True:
                message = await asked.next()
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    return
        finally:
            asked.left.set()

    async def asked(self, number: int = 1) -> Asked:
        """Wait until it was asked so often; give the newest ask of these."""
        while len(self.asks) < number:
            self._bell = anyio.Event()
            await self._bell.wait()
        return self.asks[number - 1]
