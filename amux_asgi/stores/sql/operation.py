"""What the writer is given to do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.errors import GatewayError, StorageUnavailableError

T = TypeVar("T")
Clock = Callable[[], float]
FOR_EVER: Final = float("inf")  # a deadline that never passes
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
        """Make the bell of an operation, then give it to the writer."""
        ...

    def wait(self, operation: Operation[Any]) -> Awaitable[bool]:
        """Wait for its bell, until its deadline; tell whether it rang."""
        ...

    def leave(self, operation: Operation[Any]) -> None:
        """Forget who waits no more, and was not told."""
        ...

    def tell(self, operations: Sequence[Operation[Any]]) -> None:
        """End the waits of some; called on any thread.

        Raises:
            RuntimeError: the event loop is closed, and nobody hears of it.
        """
        ...


class Chore(Struct, frozen=True):
    """What is to be done again and again: `make` gives the next operation, or none, every so many seconds."""

    every: float
    make: Callable[[], Operation[Any] | None]


def away(message: str) -> StorageUnavailableError:
    """Say that the store cannot be asked, and when to try again."""
    return StorageUnavailableError(message, retry_after=AGAIN)
