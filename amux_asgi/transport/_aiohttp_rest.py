"""A long body comes from aiohttp's socket to where it stays, without the copies that the library makes."""

import asyncio
from typing import Final, cast

import aiohttp

LONG: Final = 262_144  # bytes
NOWHERE: Final = memoryview(b"")


class Rest(asyncio.BufferedProtocol):
    """Takes the rest of a body of known length from the socket.

    The library's own protocol, in which each byte is copied three times, stands back meanwhile, but hears of all else.
    """

    def __init__(self, content: aiohttp.StreamReader, transport: asyncio.Transport, length: int) -> None:
        """`length` is that of the whole body, in bytes."""
        self._content = content
        self._transport = transport
        self._library = cast("asyncio.Protocol", transport.get_protocol())
        self._left = length
        self._room = NOWHERE
        self._trap = memoryview(bytearray(1))
        self._spoilt = False
        self._ready: asyncio.Future[None] | None = None

    async def fill(self, room: memoryview) -> None:
        """Fill what there is room for, which is no more than is left of the body.

        Raises:
            aiohttp.ClientError: the connection was cut.
        """
        self._left -= len(room)
        while room and (piece := self._content.read_nowait(len(room))):
            room[: len(piece)] = piece
            room = room[len(piece) :]
        if room:
            await self._take(room)
            if not self._left:
                await self._give_back()

    async def _take(self, room: memoryview) -> None:
        self._room = room
        self._ready = asyncio.get_running_loop().create_future()
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        try:
            await self._ready
            if self._room:
                raise aiohttp.ClientPayloadError("the connection was cut")
        finally:
            self._room = NOWHERE  # the socket keeps us as long as it lives, and we kept the body
            self._ready = None

    async def _give_back(self) -> None:
        """Let the library use the connection again, unless more than the body came: that is no answer to anything.

        Otherwise it closes the connection, since the body has no end.
        """
        await asyncio.sleep(0)  # some event loops only now look for more
        if not self._spoilt:
            self._transport.set_protocol(self._library)
            self._content.feed_eof()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, there is just this room
        """Give the place of the next bytes."""
        return self._room or self._trap

    def buffer_updated(self, nbytes: int) -> None:
        """Note what came; when there is no more room, let the rest wait, but see whether more than the body comes."""
        if not self._room:
            self._spoilt = True
        self._room = self._room[nbytes:]
        if not self._room:
            if self._left or self._spoilt:
                self._transport.pause_reading()
            self._wake()

    def eof_received(self) -> None:
        """Let the connection be closed."""
        self._library.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let both know."""
        self._library.connection_lost(exc)
        self._wake()

    def pause_writing(self) -> None:
        """Pass it on: the request may still be leaving."""
        self._library.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._library.resume_writing()

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)


def rest_of(response: aiohttp.ClientResponse) -> Rest | None:
    """Give what fills a place in memory with a body, if it is long, its length is known, and it is still on its way."""
    transport = response.connection and response.connection.transport
    if transport is None:
        return None  # all of it is there, or the connection is cut
    length = response.content_length or 0
    return (
        None if length < LONG or "transfer-encoding" in response.headers else Rest(response.content, transport, length)
    )
