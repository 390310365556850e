"""What the writer is given to do, and where its end is waited for."""

import asyncio  # noqa: TID251, its futures and timers are faster than what works everywhere; see `AsyncioWaiter`
from collections.abc import Callable, Sequence
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

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.tried = False
        self.done = False
        self.abandoned = False
        self.result: T | None = None
        self.error: Exception | None = None
        self.waiter: Waiter | None = None

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


class Waiter(Protocol):
    """Where somebody waits; `soon` reaches its event loop from the writer's thread."""

    soon: Callable[..., object]

    async def wait(self, seconds: float) -> bool:
        """Wait for `ring`, at most so long; tell whether it came."""
        ...

    def ring(self) -> None:
        """End the wait; called on its event loop."""
        ...


class AnyWaiter:
    """Waits on any event loop that anyio knows."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        native = cast("Any", current_token().native_token)
        self.soon: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon

    async def wait(self, seconds: float) -> bool:
        """Wait for `ring`, at most so long; tell whether it came."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()

    def ring(self) -> None:
        """End the wait; called on its event loop."""
        self._event.set()


class AsyncioWaiter:
    """Waits on asyncio, with a future of its own: a hold and its capture cost a seventh less than with `AnyWaiter`."""

    __slots__ = ("_future", "_loop", "soon")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[bool] = loop.create_future()
        self.soon: Callable[..., object] = loop.call_soon_threadsafe

    async def wait(self, seconds: float) -> bool:
        """Wait for `ring`, at most so long; tell whether it came."""
        timer = self._loop.call_later(seconds, self._end, False)  # noqa: FBT003, what the future then tells
        try:
            return await self._future
        finally:
            timer.cancel()

    def ring(self) -> None:
        """End the wait; called on its event loop."""
        self._end(True)  # noqa: FBT003

    def _end(self, rung: bool) -> None:  # noqa: FBT001
        if not self._future.done():
            self._future.set_result(rung)


def waiter_here() -> Waiter:
    """Make one for the event loop that runs here."""
    try:
        return AsyncioWaiter(asyncio.get_running_loop())
    except RuntimeError:
        return AnyWaiter()


class Chore(Struct, frozen=True):
    """What is to be done again and again: `make` gives the next operation, or none, every so many seconds."""

    every: float
    make: Callable[[], Operation[Any] | None]


def away(message: str) -> StorageUnavailableError:
    """Say that the store cannot be asked, and when to try again."""
    return StorageUnavailableError(message, retry_after=AGAIN)
