"""Where those wait who have something written, by the kind of their event loop."""

import asyncio  # noqa: TID251, its futures and timers are faster than what works everywhere; see `AsyncioDesk`
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import anyio
from anyio.lowlevel import current_token

from amux_asgi.stores.sql.operation import Clock, Desk, Operation

Put = Callable[[Operation[Any]], None]
TURNS: Final = 8  # of the event loop, until what was gathered meanwhile is given to the writer
LONGEST: Final = 0.01  # seconds after which the next end of a turn is the last


class AnyDesk:
    """Waits on any event loop that anyio knows."""

    def __init__(self, put: Put, clock: Clock) -> None:
        native = cast("Any", current_token().native_token)
        self.soon: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        self._put = put
        self._clock = clock

    def enter(self, operation: Operation[Any]) -> None:
        """Make its bell, then give it to the writer."""
        operation.bell = anyio.Event()
        self._put(operation)

    async def wait(self, operation: Operation[Any]) -> bool:
        """Wait for its bell, until its deadline; tell whether it rang."""
        with anyio.move_on_after(max(0.0, operation.deadline - self._clock())):
            await operation.bell.wait()
        return operation.bell.is_set()

    def leave(self, operation: Operation[Any]) -> None:
        """Forget who waits no more."""

    def tell(self, operations: Sequence[Operation[Any]]) -> None:
        """End the waits of some."""
        self.soon(_set_all, operations)


def _set_all(operations: Iterable[Operation[Any]]) -> None:
    for operation in operations:
        operation.bell.set()


class AsyncioDesk:
    """Waits on one asyncio loop: each with a future, and all with one timer, which is set for the next deadline.

    Nearly all are rung long before it. With `AnyDesk`, a hold and its capture take twice as many instructions here.

    A commit costs much the same for one operation as for ten, and a busy loop asks for them one by one. So what is
    asked for behind a commit is late: gathered until the loop has gone round a few times, which one that has nothing
    else to do has done in a tenth of a millisecond. Who is alone waits for nobody. Four connections or more, which
    wait for one another, so get a third more done by one worker.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, put: Put, clock: Clock) -> None:
        self.loop = loop
        self.soon: Callable[..., object] = loop.call_soon_threadsafe
        self.late: deque[Operation[Any]] = deque()
        self._put = put
        self._clock = clock
        self._gathers = False
        self._turns = 0  # of the loop, until what was gathered is given to the writer, or
        self._until = 0.0  # this time of it
        self._waiting: set[Operation[Any]] = set()
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, operation: Operation[Any]) -> None:
        """Make its bell, then give it to the writer, soon."""
        operation.bell = self.loop.create_future()
        self._waiting.add(operation)
        if operation.deadline < self._due:
            self._look_at(operation.deadline)
        if self._gathers:
            self.late.append(operation)
        else:
            self._put(operation)

    def wait(self, operation: Operation[Any]) -> Awaitable[bool]:
        """Wait for its bell, until its deadline; tell whether it rang."""
        return operation.bell

    def tell(self, operations: Sequence[Operation[Any]]) -> None:
        """End the waits of some, as soon as the loop comes to it; from now on, what it asks for is late."""
        self._gathers = True
        self.soon(self._ring, operations)

    def leave(self, operation: Operation[Any]) -> None:
        """Forget who waits no more."""
        self._waiting.discard(operation)

    def give(self) -> None:
        """Give the writer what is late; also from another thread."""
        with suppress(IndexError):
            while True:
                self._put(self.late.popleft())

    def _ring(self, operations: Sequence[Operation[Any]]) -> None:
        for operation in operations:
            self._waiting.discard(operation)
            if not operation.bell.done():  # by its deadline, or cancelled
                operation.bell.set_result(True)
        if len(operations) > 1 or self._waiting:
            self._gathers = True  # also if what was gathered before was given since `tell`
            if not self._turns:
                self.loop.call_soon(self._go_round)
            self._turns = TURNS
            self._until = self.loop.time() + LONGEST
        elif not self._turns:
            self._end()

    def _go_round(self) -> None:
        self._turns -= 1
        if self._turns and self.loop.time() < self._until:
            self.loop.call_soon(self._go_round)
        else:
            self._end()

    def _end(self) -> None:
        """Gather no more."""
        self._gathers, self._turns = False, 0
        self.give()

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_later(max(0.0, due - self._clock()), self._look)

    def _look(self) -> None:
        """End the waits that are over, and look again when the next is."""
        now = self._clock()
        for operation in self._waiting:
            if operation.deadline <= now and not operation.bell.done():
                operation.bell.set_result(False)
        self._waiting = {operation for operation in self._waiting if not operation.bell.done()}
        self._due, self._timer = math.inf, None
        if self._waiting:
            self._look_at(min(operation.deadline for operation in self._waiting))


class Desks:
    """Where one writer's operations are waited for: a desk for each event loop."""

    def __init__(self, put: Put, clock: Clock) -> None:
        """`put` gives an operation to the writer, on any thread."""
        self._put = put
        self._clock = clock
        self._last: AsyncioDesk | None = None
        self._desks: dict[asyncio.AbstractEventLoop, AsyncioDesk] = {}

    @property
    def late(self) -> int:
        """Count what the writer has not been given yet."""
        return sum([len(desk.late) for desk in [*self._desks.values()]])

    def here(self) -> Desk:
        """Give the desk of the event loop that runs here."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return AnyDesk(self._put, self._clock)
        desk = self._last
        if desk is None or desk.loop is not loop:
            self._last = desk = self._of(loop)
        return desk

    def give(self) -> None:
        """Give the writer all that is late."""
        for desk in [*self._desks.values()]:
            desk.give()

    def _of(self, loop: asyncio.AbstractEventLoop) -> AsyncioDesk:
        for other in [*self._desks]:
            if other.is_closed():
                self._desks.pop(other, None)
        return self._desks.setdefault(loop, AsyncioDesk(loop, self._put, self._clock))
