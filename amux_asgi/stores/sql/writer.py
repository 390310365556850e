"""One thread that writes: it takes what waits and commits it together, so that a disk's flush serves many.

An operation is given to the thread, tried until it is committed or its deadline has passed, and tells its waiter. A
batch that fails for its contents is tried again in halves, so that only what is at fault fails. However the thread
fares, nobody waits longer than an operation's deadline, and whatever nobody heard of is taken back.
"""

import logging
import math
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

import sqlalchemy as sa

from amux_asgi.errors import GatewayError, InternalError
from amux_asgi.stores.sql.committer import Committer
from amux_asgi.stores.sql.desks import Desks
from amux_asgi.stores.sql.engine import cursor_of, is_away, is_conflict, text_of
from amux_asgi.stores.sql.operation import (
    AGAIN,
    Chore,
    Clock,
    Desk,
    Operation,
    Pace,
    T,
    Task,
    Transaction,
    away,
)
from amux_asgi.stores.sql.schema import OWNERS

__all__ = ["AGAIN", "PATIENCE", "Chore", "Operation", "Pace", "Task", "Transaction", "Writer", "away"]

PATIENCE: Final = Pace().patience
BATCH: Final = 256  # operations in one transaction
PAUSE: Final = 0.1  # seconds between tries while the store is away, doubled up to
LONGEST_PAUSE: Final = 1.0
TICK: Final = 0.25  # seconds after which an idle thread looks at its chores

logger: logging.Logger = logging.getLogger("amux_asgi")


class Writer:
    """The thread, what waits for it, and the process's sign of life."""

    def __init__(self, engine: sa.Engine, *, clock: Clock, pace: Pace | None = None) -> None:
        self.clock = clock
        self.pace: Pace = pace or Pace()
        self._committer = Committer(engine, self._check_open)
        self._queue: queue.SimpleQueue[Operation[Any] | None] = queue.SimpleQueue()
        self._desks = Desks(self.put, clock)
        self._backlog: list[Operation[Any]] = []  # taken from the queue, to be tried
        self._batch: list[Operation[Any]] = []  # being tried
        self._tick: float = min(TICK, self.pace.beat / 4)
        self._pause = 0.0  # while the store is away
        self._chores: list[tuple[float, Chore]] = []
        self._last: float | None = None  # when the thread writes no more
        self._last_words: Operation[Any] | None = None
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="amux-writer", daemon=True)

    @property
    def owner(self) -> str:
        """Name this process as the owner of what it holds."""
        return self._committer.owner

    def start(self, chores: Iterable[Chore] = ()) -> None:
        """Begin to write."""
        now = self.clock()
        self._chores = [(now + chore.every, chore) for chore in (Chore(self.pace.beat, self._beat), *chores)]
        self._thread.start()

    def stop(self, last: Operation[Any]) -> None:
        """Write what waits, then `last`, give up what cannot be written, and end; waits for the thread a while."""
        self._last_words = last
        self._desks.give()
        self._queue.put(None)
        self._wake.set()
        self._thread.join(self.pace.farewell)
        if self._thread.is_alive():
            logger.warning("the database did not answer while the gateway stopped")
        self._ended = True
        self._give_up()

    def join(self) -> None:
        """Wait for the thread, however long it takes."""
        self._thread.join()

    def put(self, operation: Operation[Any]) -> None:
        """Have something written, whoever waits for it; on any thread."""
        self._queue.put(operation)
        if self._ended:  # looked at behind the put, as the thread puts an end to itself before it looks
            self._give_up()

    async def run(self, operation: Operation[T]) -> T:
        """Have something written, and wait until it is durable.

        Raises:
            StorageUnavailableError: it was not written by its deadline; should it be all the same, it is taken back.
            GatewayError: it was decided otherwise.
        """
        if not operation.owed and self._queue.qsize() + len(self._backlog) + self._desks.late >= self.pace.waiting:
            raise away("too much is waiting to be written")
        operation.desk = desk = self._desks.here()
        desk.enter(operation)
        try:
            rung = await desk.wait(operation)
        except BaseException:
            desk.leave(operation)
            self._abandon(operation)
            raise
        if not rung:
            self._abandon(operation)
            raise away("the database cannot be written at present")
        if operation.error is not None:
            raise operation.error
        return cast("T", operation.result)

    def _abandon(self, operation: Operation[Any]) -> None:
        """Wait no more. Either the thread sees that, or we see that it was done before; seen by both is no harm."""
        operation.abandoned = True
        if operation.done:
            self._undo(operation)

    def _loop(self) -> None:
        try:
            while not self._is_over():
                self._batch = self._take()
                self._write(self._batch)
                self._batch = []
                self._do_chores()
            self._say_farewell()
        except BaseException:
            logger.critical("the thread that writes to the database ended by an error", exc_info=True)
        finally:
            self._committer.close()
            self._ended = True
            self._give_up()

    def _is_over(self) -> bool:
        if self._last is None:
            return self._ended  # whoever waited for the thread gave it up
        return self.clock() >= self._last or not (self._backlog or self._queue.qsize())

    def _take(self) -> list[Operation[Any]]:
        """Wait for something to write, and take as much of it as one transaction should hold.

        While the store is away all that waits is taken, to find out what has waited for too long.
        """
        waiting, self._backlog = self._backlog, []
        if waiting and self._pause:
            self._wake.wait(self._pause)
            self._wake.clear()
        if not waiting:
            with suppress(queue.Empty):
                self._sort(self._queue.get(timeout=self._tick), waiting)
        self._drain(waiting, math.inf if self._pause else BATCH - len(waiting))
        # What nobody waits for any more is not begun.
        self._finish([operation for operation in waiting if operation.abandoned and not operation.tried])
        wanted = [operation for operation in waiting if not operation.done]
        self._backlog = wanted[BATCH:]
        return wanted[:BATCH]

    def _drain(self, waiting: list[Operation[Any]], most: float) -> None:
        """Take so many from the queue, of what is there, without a wait."""
        most += len(waiting)
        with suppress(queue.Empty):
            while len(waiting) < most:
                self._sort(self._queue.get_nowait(), waiting)

    def _sort(self, told: Operation[Any] | None, waiting: list[Operation[Any]]) -> None:
        if told is None:
            self._last = self.clock() + self.pace.farewell / 2
        else:
            waiting.append(told)

    def _catch_up(self, batch: list[Operation[Any]]) -> None:
        """Add what came while other processes wrote: for it, another turn among them would be as long again."""
        if batch is self._batch:  # rather than a part of one that failed
            self._drain(batch, BATCH - len(batch))

    def _check_open(self) -> None:
        """Commit nothing once all waiters were told that nothing more is written."""
        if self._ended:
            raise away("the gateway stopped before this was written")

    def _write(self, batch: list[Operation[Any]]) -> None:
        parts = [batch] if batch else []  # the first one last
        while parts:
            part = parts.pop()
            failure = self._committer.attempt(part, self._catch_up)
            if failure is None:
                self._pause = 0.0
                self._finish(part)
            elif len(part) > 1 and (is_conflict(failure) or not is_away(failure)):
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
            elif is_away(failure):
                self._postpone([operation for some in (part, *reversed(parts)) for operation in some], failure)
                return
            else:
                logger.error("an operation could not be written", exc_info=failure)
                self._fail(part, InternalError("the gateway could not write this down"))

    def _beat(self) -> Operation[None]:
        """Show that this process lives."""
        return Task(_count_on, self.clock() + self.pace.patience)

    def _postpone(self, operations: list[Operation[Any]], failure: Exception) -> None:
        """Keep for the next try what still has time; the rest has failed."""
        if not self._pause:
            logger.warning("the database cannot be written: %s", str(failure).partition("\n")[0])
        self._pause = min(max(PAUSE, 2 * self._pause), LONGEST_PAUSE)
        now = self.clock()
        everything = operations + self._backlog
        self._backlog = [operation for operation in everything if operation.deadline > now]
        late = [operation for operation in everything if operation.deadline <= now]
        self._fail(late, away("the database cannot be written at present"))

    def _fail(self, operations: Iterable[Operation[Any]], error: GatewayError) -> None:
        operations = list(operations)
        for operation in operations:
            operation.error = error
            self._undo(operation)
        self._finish(operations)

    def _finish(self, operations: Iterable[Operation[Any]]) -> None:
        """Tell all who wait, each event loop at once."""
        told: dict[Desk, list[Operation[Any]]] = {}
        for operation in operations:
            operation.done = True
            if operation.abandoned:
                self._undo(operation)
            elif operation.desk is not None:
                told.setdefault(operation.desk, []).append(operation)
        for desk, some in told.items():
            try:
                desk.tell(some)
            except RuntimeError:  # the loop is closed, and nobody hears of it
                for operation in some:
                    self._undo(operation)

    def _undo(self, operation: Operation[Any]) -> None:
        opposite = operation.undo()
        if opposite is not None:
            self._queue.put(opposite)

    def _do_chores(self) -> None:
        now = self.clock()
        for i, (due, chore) in enumerate(self._chores):
            if now >= due:
                self._chores[i] = (now + chore.every, chore)
                self._do(chore)

    def _do(self, chore: Chore) -> None:
        try:
            operation = chore.make()
        except Exception:
            logger.exception("a chore of the database could not be begun")
        else:
            if operation is not None:
                self._queue.put(operation)

    def _say_farewell(self) -> None:
        """Write the last words, unless the store is away."""
        if self._last_words is not None and not self._pause:
            failure = self._committer.attempt([self._last_words], self._catch_up)
            if failure is not None:
                logger.warning("what this process held is left to others: %s", str(failure).partition("\n")[0])

    def _give_up(self) -> None:
        """Say of what is still not written that it never will be."""
        left = [operation for operation in (*self._batch, *self._backlog) if not operation.done]
        self._fail(left, away("the gateway stopped before this was written"))
        with suppress(queue.Empty):  # another thread may give up too
            while True:
                operation = self._queue.get_nowait()
                if operation is not None:
                    self._fail([operation], away("the gateway stopped before this was written"))


def _count_on(transaction: Transaction) -> None:
    connection = transaction.connection
    cursor_of(connection).execute(text_of(_BEAT, connection.dialect.name, "owner"), (transaction.owner,))


_BEAT: Final = (
    OWNERS.update().where(OWNERS.c.id == sa.bindparam("owner")).values(beats=OWNERS.c.beats + sa.literal_column("1"))
)
