"""A scripted upstream on raw sockets, so that it can break HTTP in every way; it keeps all that it received."""

import asyncio  # noqa: TID251, the stub is a server of its own
import gzip
import queue
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

GOOD: Final = b'{"created":1,"data":[{"b64_json":"aGVsbG8="}]}'
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Script = Callable[["Stub", Reader, Writer], Awaitable[None]]


def whole(body: bytes = GOOD, status: str = "200 OK", *headers: str) -> bytes:
    """Write a whole answer."""
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Stub:
    """The upstream: the path of a request says how it is answered (`SCRIPTS`, and those given)."""

    def __init__(self, context: ssl.SSLContext | None, scripts: Mapping[str, Script]) -> None:
        self.requests: list[bytes] = []  # each head and body, as received
        self.left: queue.Queue[str] = queue.Queue()  # paths whose client closed the connection
        self.release = asyncio.Event()
        self.waiting = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        self.most = 0
        self.url = ""
        self.open = 0  # connections
        self.closed = threading.Semaphore(0)
        self._context = context
        self.scripts = SCRIPTS | dict(scripts)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def posts(self) -> int:
        """Count the POSTs that arrived."""
        return sum(request.startswith(b"POST") for request in self.requests)

    def wait_for(self, posts: int) -> None:
        """Wait until so many POSTs have arrived."""
        while self.posts < posts:
            self.arrived.acquire()

    def let_go(self) -> None:
        """Answer everybody who waits at `/wait`."""
        self.soon(self.release.set)

    def soon(self, call: Callable[[], object]) -> None:
        """Have something called in the thread that serves."""
        self._loop.call_soon_threadsafe(call)

    def run(self) -> None:
        """Serve until stopped; the body of a thread."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def stop(self) -> None:
        """End the server."""
        self.soon(self._stop.set)

    def ready(self) -> None:
        """Wait until it listens."""
        self._ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._context, backlog=4096, limit=2**22
        )
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.open += 1
        try:
            while await self._answered(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.open -= 1
            self.closed.release()

    async def _answered(self, reader: Reader, writer: Writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        if path == "/before-body":
            writer.close()
            return False
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), 0)
        self.requests.append(head + await reader.readexactly(length))
        self.arrived.release()
        try:
            await self._script(path)(self, reader, writer)
        except _Over:
            return False
        return not writer.is_closing()

    async def until_left(self, reader: Reader, path: str) -> None:
        """Wait until the client closes its side."""
        try:
            await reader.read()
        finally:
            self.left.put(path)
        raise _Over

    def _script(self, path: str) -> Script:
        """Find what is played at a path, or below it."""
        return self.scripts.get(path) or self.scripts.get("/" + path.split("/")[1], good)


class _Over(Exception):  # noqa: N818, the end of a connection, not an error
    """The connection has ended."""


async def good(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    writer.write(whole())
    await writer.drain()


def sending(data: bytes, *, close: bool = True) -> Script:
    """Send bytes, and close or keep the connection open."""

    async def script(stub: Stub, reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        if not close:
            await stub.until_left(reader, "stalled")
        writer.close()
        raise _Over

    return script


async def reset(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise _Over


async def glued(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    writer.write(whole() + whole(b'{"created":1,"data":[{"b64_json":"c3RvbGVu"}]}'))
    await writer.drain()


async def big(stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Send 64 MiB, or as much as the client takes."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    try:
        for _ in range(64):
            writer.write(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
            await writer.drain()
            stub.most += 1
    finally:
        stub.left.put("/big")
    raise _Over


async def wait(stub: Stub, _reader: Reader, writer: Writer) -> None:
    stub.waiting.release()
    await stub.release.wait()
    writer.write(whole())
    await writer.drain()


CLOSE: Final = "connection: close"
END: Final = b"\r\n0\r\n\r\n"
HALF: Final = whole()[:-10]
BLOCKED: Final = b'{"error":{"message":"no","type":"image_generation_user_error","code":"moderation_blocked"}}'
SCRIPTS: Final[dict[str, Script]] = {
    "/close": sending(b""),
    "/half-head": sending(b"HTTP/1.1 200 OK\r\ncontent-"),
    "/reset": reset,
    "/garbage": sending(b"\x00\x01\x02 this is no HTTP\r\n\r\n"),
    "/space-in-name": sending(b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n"),
    "/hang": sending(b"", close=False),
    "/stall-head": sending(b"HTTP/1.1 200 OK\r\n", close=False),
    "/stall-body": sending(HALF, close=False),
    "/drip-1xx": sending(b"HTTP/1.1 100 Continue\r\n\r\n" * 5 + whole()),
    "/short-body": sending(HALF),
    "/bad-chunk": sending(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    "/cut-chunk": sending(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nabc"),
    "/says-big": sending(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000000\r\n\r\nabc", close=False),
    "/big": big,
    "/redirect": sending(whole(b"", "307 Temporary Redirect", "location: /ok", CLOSE)),
    "/gzip": sending(whole(gzip.compress(GOOD), "200 OK", "content-encoding: gzip", CLOSE)),
    "/cookie": sending(whole(GOOD, "200 OK", "set-cookie: tenant=a; path=/", CLOSE)),
    "/glued": glued,
    "/bare-lf": sending(whole(GOOD, "200 OK", CLOSE).replace(b"\r", b"")),
    "/padded-chunk": sending(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x  \r\n" % len(GOOD) + GOOD + END),
    "/until-close": sending(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD),
    "/blocked": sending(whole(BLOCKED, "400 Bad Request", CLOSE)),
    "/wait": wait,
}


@contextmanager
def upstream(context: ssl.SSLContext | None = None, scripts: Mapping[str, Script] | None = None) -> Generator[Stub]:
    """Run a stub while entered, with more scripts than its own."""
    stub = Stub(context, scripts or {})
    thread = threading.Thread(target=stub.run)
    thread.start()
    stub.ready()
    try:
        yield stub
    finally:
        stub.stop()
        thread.join()
