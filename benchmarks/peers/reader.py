"""A load of our own, for what wrk does not see (when the first event comes), or where there is no wrk.

`python -m benchmarks.peers.reader JSON` asks over so many connections, each again as soon as it is answered, and prints
the figures as JSON.
"""

import asyncio  # noqa: TID251, the load's own loop
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop
from msgspec import Struct

from benchmarks.peers.figures import Load, share


class Errand(Struct, frozen=True, kw_only=True):
    """What to ask, and for how many seconds; the keys of a file take turns."""

    url: str
    body: str
    headers: dict[str, str]
    keys: str | None = None
    connections: int
    seconds: float


class Book:
    """What all connections saw."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self.bytes = 0
        self.took: list[float] = []
        self.first: list[float] = []


class Reader(asyncio.Protocol):
    """One connection, which asks until it is told to stop."""

    def __init__(self, requests: "cycle[bytes]", book: Book) -> None:
        self._requests = requests
        self._book = book
        self._parser = httptools.HttpResponseParser(self)
        self._asked = 0.0
        self._first: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was under way as failed; who closed it himself is not here any more."""
        del exc
        if self._transport is not None:
            self._book.failed += 1

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._book.bytes += len(data)
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """See when the first of it came."""
        del body
        self._first = self._first or time.perf_counter()

    def on_message_complete(self) -> None:
        """Take the times, and ask again."""
        now = time.perf_counter()
        self._book.failed += self._parser.get_status_code() != 200
        self._book.took.append(now - self._asked)
        self._book.first.append((self._first or now) - self._asked)
        self._parser = httptools.HttpResponseParser(self)
        asyncio.get_running_loop().call_soon(self._ask)

    def leave(self) -> None:
        """Close, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _ask(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._first = None
            self._book.sent += 1
            self._asked = time.perf_counter()
            self._transport.write(next(self._requests))


async def load(errand: Errand) -> Load:
    """Ask for as long as told."""
    loop, book, place = asyncio.get_running_loop(), Book(), urlsplit(errand.url)
    requests = cycle(_requests(errand))
    begun = time.perf_counter()
    readers: list[Reader] = []
    for _ in range(errand.connections):
        _, reader = await loop.create_connection(lambda: Reader(requests, book), place.hostname or "", place.port or 80)
        readers.append(reader)
    await asyncio.sleep(errand.seconds)
    for reader in readers:
        reader.leave()
    return Load(
        requests=len(book.took),
        sent=book.sent,
        seconds=time.perf_counter() - begun,
        bytes=book.bytes,
        p50=share(book.took, 0.5),
        p95=share(book.took, 0.95),
        p99=share(book.took, 0.99),
        first=share(book.first, 0.5),
        failed=book.failed,
    )


def _requests(errand: Errand) -> list[bytes]:
    place, body = urlsplit(errand.url), errand.body.encode()
    keys = Path(errand.keys).read_text(encoding="ascii").split() if errand.keys else []
    every = [{**errand.headers, "authorization": f"Bearer {key}"} for key in keys] or [errand.headers]
    framing = {"host": place.netloc, "content-type": "application/json", "content-length": str(len(body))}
    return [_head(place.path, {**framing, **headers}) + body for headers in every]


def _head(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


if __name__ == "__main__":
    told = msgspec.json.decode(sys.argv[1], type=Errand)
    sys.stdout.write(msgspec.json.encode(uvloop.run(load(told))).decode() + "\n")
