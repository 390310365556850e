"""How many bytes are worked on in one turn of the event loop, so that everybody else soon has a turn."""

from collections import deque
from typing import Final

from anyio.lowlevel import RunVar

from amux_asgi.loops import Bell, bell_here, soon_here

MOST: Final = 8 * 2**20  # bytes in one turn: to copy them takes some milliseconds


class Turns:
    """Shares out the turns of one event loop to those who read, look through or write many bytes."""

    def __init__(self) -> None:
        self._soon = soon_here()
        self._left = MOST
        self._waiting: deque[tuple[Bell, int]] = deque()

    async def take(self, size: int) -> None:
        """Wait until so many bytes may be worked on at once, in the order of asking.

        More than a turn has are worked on in one in which nothing else was begun.
        """
        if self._waiting or not self._fits(size):
            bell = bell_here()
            self._waiting.append((bell, size))
            await bell.wait()
        else:
            self._spend(size)

    def _fits(self, size: int) -> bool:
        return size <= self._left or self._left == MOST

    def _spend(self, size: int) -> None:
        if self._left == MOST:
            self._soon(self._refill)
        self._left -= size

    def _refill(self) -> None:
        self._left = MOST
        while self._waiting and self._fits(self._waiting[0][1]):
            bell, size = self._waiting.popleft()
            self._spend(size)
            bell.ring()  # who left meanwhile has had a share in vain


def turns_here() -> Turns:
    """Give those of this event loop."""
    turns = _turns.get(None)
    if turns is None:
        turns = Turns()
        _turns.set(turns)
    return turns


_turns: Final[RunVar[Turns]] = RunVar("amux_asgi turns")
