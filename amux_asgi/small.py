"""Stand-ins for what uvicorn makes for each connection: thousands may wait for their pictures at once.

`asyncio.Event` and `collections.deque` take 760 bytes for a queue in which hardly ever anybody stands. uvicorn makes
three of them for a connection; these take 100 bytes each.
"""

import asyncio  # noqa: TID251, the server is asyncio's
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl


class Bell:
    """An event as `asyncio.Event` is one."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Let all go on who wait, and do not wait from now on."""
        self._rung = True
        for one in self._waiting:
            if not one.done():
                one.set_result(None)

    def clear(self) -> None:
        """Wait from now on."""
        self._rung = False

    async def wait(self) -> None:
        """Wait until it is set."""
        if self._rung:
            return
        one: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(one)
        try:
            await one
        finally:
            self._waiting.remove(one)


class Flow(FlowControl):
    """What stops those who write faster than the connection takes it."""

    def __init__(self, transport: asyncio.Transport) -> None:  # the base class would make an event
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._is_writable_event = event()
        self._is_writable_event.set()


class Pipeline(list[Any]):
    """Requests that came before the one in front of them was answered; few clients do that, so it may be slow."""

    __slots__ = ()

    def appendleft(self, one: object) -> None:
        """Let it come after all others."""
        self.insert(0, one)


def event() -> asyncio.Event:
    """Make a bell, for whoever says that it wants asyncio's."""
    return cast("asyncio.Event", Bell())
