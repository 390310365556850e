"""Streams of pictures as a vendor sends them, and an upstream that plays any of them: held back, cut, or in bits."""

import asyncio  # noqa: TID251, the stub is a server of its own
import json
import socket
import struct
import threading
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final

from tests.stub import Reader, Script, Stub, Writer

PICTURE: Final = "aGVsbG8="
SKETCH: Final = "c2tldGNo"
LOOKS: Final[dict[str, Any]] = {"size": "1024x1024", "quality": "high", "background": "opaque", "output_format": "png"}
USAGE: Final[dict[str, Any]] = {
    "total_tokens": 9,
    "input_tokens": 4,
    "output_tokens": 5,
    "input_tokens_details": {"text_tokens": 4, "image_tokens": 0},
}
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


def event(name: str, **fields: Any) -> bytes:
    """Write an event as vendors do: its name, its `type`, one line of data."""
    return f"event: {name}\ndata: {compact(type=name, **fields)}\n\n".encode()


def compact(**fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def sketch(index: int = 0, b64_json: str = SKETCH) -> bytes:
    """Write a preview, as OpenAI does."""
    return event("image_generation.partial_image", b64_json=b64_json, partial_image_index=index, created_at=7, **LOOKS)


def picture(b64_json: str = PICTURE, **more: Any) -> bytes:
    """Write a finished picture, as OpenAI does; `more` is what stands behind its usage."""
    return event("image_generation.completed", b64_json=b64_json, created_at=7, usage=USAGE, **more, **LOOKS)


def failed(message: str, type: str = "server_error", code: str = "upstream_error", param: str | None = None) -> bytes:  # noqa: A002, the protocol's name
    """Write the event that tells a client of an error."""
    return event("error", error={"message": message, "type": type, "param": param, "code": code})


class Cut(Enum):
    """How an upstream ends before its answer does."""

    FIN = auto()
    RST = auto()
    STALL = auto()  # not at all: it waits until the other side has gone


class Gate:
    """Holds an upstream back until it is opened."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._reached = threading.Event()
        self._opened = asyncio.Event()

    async def hold(self) -> None:
        """Wait, in the upstream's thread."""
        self._reached.set()
        await self._opened.wait()

    def wait(self) -> None:
        """Wait until the upstream has come so far."""
        self._reached.wait()

    def open(self) -> None:
        """Let it go on."""
        self._stub.soon(self._opened.set)


Step = bytes | Gate | Cut


class Tape:
    """What an upstream plays to whoever asks: bytes, each as one chunk of HTTP, gates, or a cut; then the end."""

    def __init__(self, *steps: Step, head: bytes = HEAD) -> None:
        self.steps: Sequence[Step] = steps
        self.head = head
        self.sent = 0  # bytes of the body

    async def play(self, stub: Stub, reader: Reader, writer: Writer) -> None:
        """Play it once."""
        writer.write(self.head)
        for step in self.steps:
            match step:
                case Gate():
                    await writer.drain()
                    await step.hold()
                case Cut.FIN:
                    writer.close()
                case Cut.RST:
                    await writer.drain()
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                case Cut.STALL:
                    await writer.drain()
                    await stub.until_left(reader, "stalled")
                case bytes():
                    writer.write(b"%x\r\n%b\r\n" % (len(step), step) if b"chunked" in self.head else step)
                    await writer.drain()
                    self.sent += len(step)
        if not writer.is_closing():
            writer.write(b"0\r\n\r\n" if b"chunked" in self.head else b"")
            await writer.drain()
            writer.close()


def flood(piece: bytes) -> Script:
    """Send a piece again and again for as long as somebody takes it, at most 2 GB in all."""

    async def script(stub: Stub, _reader: Reader, writer: Writer) -> None:
        writer.write(HEAD)
        stub.most = 0
        try:
            while stub.most < 2**31:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                stub.most += len(piece)
        finally:
            stub.left.put("flood")
        writer.close()

    return script
