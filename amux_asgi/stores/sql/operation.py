"""What the writer is given to do, and where its end is waited for."""

import asyncio  # noqa: TID251, its futures and timers are faster than what works everywhere; see `AsyncioDesk`
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, cast

import anyio
import sqlalchemy as sa
from anyio.lowlevel import current_token
from msgspec import Struct

from amux_asgi.errors import GatewayError, StorageUnavailableError

T = TypeVar("T")
Clock = Callable[[], float]
AGAIN: Final = 5.0  # seconds a client is asked to wait


class Pace(Struct, frozen=True, kw_only=True):
    """How long is waited for what, in seconds; tests wait less."""

    patience: float = 5.0  # that an operation is tried, if it does not say
    capture: float = 60.0  # that a capture is tried: the picture is there, and waits for it
    farewell: float = 10.0  # to write the last things when stopping
    dead_after: float = 30.0  # without a sign of life after which another process is taken for dead
    lock: float = 2.0  # for what another process has locked
    waiting: int = 4096  # operations that may wait; more are refused at once

    @property
    def beat(self) -> float:
        """Tell how often a process shows that it lives, and looks whether the others do."""
        return self.dead_after / 15


class Transaction(Struct, frozen=True):
    """An open transaction, and the name under which this process owns what it begins."""

    connection: sa.Connection
    owner: str


class Operation(Generic[T]):
    """One thing to write; used once.

    `deadline` is by the writer's clock. `tried` tells that an earlier try may have been committed without our knowing.
    What is `owed` is written however much waits already.
    """

    owed: ClassVar[bool] = False

    tried: bool = False
    done: bool = False
    abandoned: bool = False
    result: T | None = None
    error: Exception | None = None
    desk: "Desk | None" = None
    bell: Any = None  # the desk's own

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    @staticmethod
    def together(transaction: Transaction, operations: Sequence[Any]) -> None:
        """Do all operations of this kind in a transaction, in order; set `result` or `error` of each."""
        raise NotImplementedError

    def undo(self) -> "Operation[Any] | None":
        """Say what takes this back, after it failed or nobody heard of its end; doing so twice must be no harm."""
        return None


class Task(Operation[T]):
    """An operation by itself: a function of a transaction, which may be repeated; raising, it wrote nothing."""

    def __init__(self, work: Callable[[Transaction], T], deadline: float) -> None:
        super().__init__(deadline)
        self.work = work

    @staticmethod
    def together(transaction: Transaction, operations: Sequence[Any]) -> None:
        """Do them one after the other."""
        for operation in operations:
            try:
                with transaction.connection.begin_nested():
                    operation.result = operation.work(transaction)
            except GatewayError as error:
                operation.error = error


class Desk(Protocol):
    """Where those wait who have something written; `soon` reaches its event loop from the writer's thread."""

    soon: Callable[..., object]

    def enter(self, operation: Operation[Any]) -> None:
        """Make the bell of an operation, before anyone rings it."""
        ...

    def wait(self, operation: Operation[Any]) -> Awaitable[bool]:
        """Wait for its bell, until its deadline; tell whether it rang."""
        ...

    def ring(self, operations: Iterable[Operation[Any]]) -> None:
        """End the waits of some; called on its event loop."""
        ...


class AnyDesk:
    """Waits on any event loop that anyio knows."""

    def __init__(self, clock: Clock) -> None:
        native = cast("Any", current_token().native_token)
        self.soon: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        self._clock = clock

    def enter(self, operation: Operation[Any]) -> None:
        """Make its bell."""
        operation.bell = anyio.Event()

    async def wait(self, operation: Operation[Any]) -> bool:
        """Wait for its bell, until its deadline; tell whether it rang."""
        with anyio.move_on_after(max(0.0, operation.deadline - self._clock())):
            await operation.bell.wait()
        return operation.bell.is_set()

    def ring(self, operations: Iterable[Operation[Any]]) -> None:
        """End the waits of some."""
        for operation in operations:
            operation.bell.set()


class AsyncioDesk:
    """Waits on one asyncio loop: each with a future, and all with one timer, which is set for the next deadline.

    Nearly all are rung long before it. With `AnyDesk`, a hold and its capture take twice as many instructions here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.soon: Callable[..., object] = loop.call_soon_threadsafe
        self._clock = clock
        self._waiting: set[Operation[Any]] = set()
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, operation: Operation[Any]) -> None:
        """Make its bell."""
        operation.bell = self.loop.create_future()
        self._waiting.add(operation)
        if operation.deadline < self._due:
            self._look_at(operation.deadline)

    def wait(self, operation: Operation[Any]) -> Awaitable[bool]:
        """Wait for its bell, until its deadline; tell whether it rang."""
        return operation.bell

    def ring(self, operations: Iterable[Operation[Any]]) -> None:
        """End the waits of some."""
        for operation in operations:
            self._waiting.discard(operation)
            if not operation.bell.done():  # by its deadline, or cancelled
                operation.bell.set_result(True)

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_later(max(0.0, due - self._clock()), self._look)

    def _look(self) -> None:
        """End the waits that are over, forget those who left, and look again when the next is over."""
        now = self._clock()
        for operation in self._waiting:
            if operation.deadline <= now and not operation.bell.done():
                operation.bell.set_result(False)
        self._waiting = {operation for operation in self._waiting if not operation.bell.done()}
        self._due, self._timer = math.inf, None
        if self._waiting:
            self._look_at(min(operation.deadline for operation in self._waiting))


def desk_here(last: Desk | None, clock: Clock) -> Desk:
    """Give the last desk, if it is of the event loop that runs here; otherwise make one."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return AnyDesk(clock)
    return last if isinstance(last, AsyncioDesk) and last.loop is loop else AsyncioDesk(loop, clock)


class Chore(Struct, frozen=True):
    """What is to be done again and again: `make` gives the next operation, or none, every so many seconds."""

    every: float
    make: Callable[[], Operation[Any] | None]


def away(message: str) -> StorageUnavailableError:
    """Say that the store cannot be asked, and when to try again."""
    return StorageUnavailableError(message, retry_after=AGAIN)
