"""An upstream that takes its time: `python -m benchmarks.peers.painter PORT`.

`/DELAY/BODY/...` answers after so many seconds, a stream's events spread over them; `/fails/STATUS/...` fails at once;
`/count` tells how many requests there were, itself among them. It parses in C and sends what was made before, so that
it limits nobody.
"""

import asyncio  # noqa: TID251, the upstream's own loop
import sys
from itertools import count
from typing import Final, cast

import httptools
import uvloop

from benchmarks.peers.answers import answer, events
from benchmarks.peers.cells import BODIES

BACKLOG: Final = 4096
REQUESTS: Final = count(1)
FAILURE: Final = b'{"error":{"message":"failed","type":"server_error","param":null,"code":null}}'


def _head(kind: str, framing: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n".encode()


def _whole(body: bytes, status: str = "200 OK") -> bytes:
    return _head("application/json", f"content-length: {len(body)}", status) + body


def _pieces(told: list[bytes]) -> list[bytes]:
    """Give a stream's head with its first event, then each other one."""
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in told]
    chunks[0] = _head("text/event-stream", "transfer-encoding: chunked") + chunks[0]
    chunks[-1] += b"0\r\n\r\n"
    return chunks


ANSWERS: Final = {body.path: _pieces(events(body)) if body.stream else [_whole(answer(body))] for body in BODIES}


class Painter(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path: list[str] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Answer nobody any more."""
        del exc
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Keep the path."""
        self._path = url.decode().strip("/").split("/")

    def on_message_complete(self) -> None:
        """Answer, sooner or later."""
        what, number = self._path[0], next(REQUESTS)
        if what == "count":
            self._write(_whole(b"%d" % number))
            return
        if what == "fails":
            self._write(_whole(FAILURE, f"{self._path[1]} Failed"))
            return
        pieces = ANSWERS[self._path[1]]
        loop = asyncio.get_running_loop()
        for i, piece in enumerate(pieces, 1):
            loop.call_later(float(what) * i / len(pieces), self._write, piece)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Painter, "127.0.0.1", int(sys.argv[1]), backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
