"""A long body comes from the socket to where it stays: on its usual way each byte is copied once for each piece."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

LONG: Final = 262_144  # bytes of a body that are worth it
_NOWHERE: Final = memoryview(b"")


class Filling(asyncio.BufferedProtocol):
    """Stands in for a connection's own protocol, which hears of all but the bytes, until a place in memory is filled.

    Nothing is read beyond it, unless it is the `last` one: then one byte more is `spoilt`, which nobody asked for.
    """

    def __init__(
        self,
        owner: asyncio.BufferedProtocol,
        transport: asyncio.Transport,
        room: memoryview,
        *,
        last: bool,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when `room` is filled."""
        self.room: memoryview = room  # what is to be filled
        self.spoilt: bool = False
        self._owner = owner
        self._transport = transport
        self._last = last
        self._wake = wake
        self._trap = memoryview(bytearray(1))

    def __enter__(self) -> Self:
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.room = _NOWHERE  # event loops keep a protocol for longer, and it would keep the body
        if not self._transport.is_closing():
            self._transport.set_protocol(self._owner)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, there is just this room
        """Give the place of the next bytes."""
        return self.room or self._trap

    def buffer_updated(self, nbytes: int) -> None:
        """Note what came."""
        if not self.room:
            self.spoilt = True
            self._transport.pause_reading()
            return
        self.room = self.room[nbytes:]
        if not self.room:
            if not self._last:
                self._transport.pause_reading()
            self._wake()

    def eof_received(self) -> None:
        """Let it be closed."""
        self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection: the request may still be leaving."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._owner.resume_writing()
