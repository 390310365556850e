"""Which processes live, and what becomes of what the dead ones held."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import sqlalchemy as sa

from amux_asgi.quota import Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql.engine import ask
from amux_asgi.stores.sql.operation import FOR_EVER, Chore, Task, Transaction
from amux_asgi.stores.sql.reservations import End, MoneyOperation
from amux_asgi.stores.sql.schema import ANSWERS, OWNERS, USAGE
from amux_asgi.stores.sql.writer import Writer
from amux_asgi.wallets import wallets_of

AT_ONCE: Final = 500  # reservations that one transaction sweeps

logger: logging.Logger = logging.getLogger("amux_asgi")


class Others:
    """The other processes, and which of them show no sign of life any more.

    What counts is for how long one was looked at in vain: neither the wall clock, nor a pause of this process, nor a
    store that was away can make it believe that others are dead.
    """

    def __init__(self, writer: Writer, now: Callable[[], int]) -> None:
        """`now` is Unix time in milliseconds."""
        self._writer = writer
        self._now = now
        self._looked = writer.clock()
        self._unmoved: dict[str, tuple[int, float]] = {}  # beats, and seconds in which they did not change

    def chore(self) -> Chore:
        """Give what is to be done again and again."""
        return Chore(every=self._writer.pace.beat, make=self._next)

    def _next(self) -> Task[None]:
        return self._task(self._look)

    def _task(self, work: Callable[[Transaction], None]) -> Task[None]:
        return Task(work, self._writer.clock() + self._writer.pace.patience)

    def _look(self, transaction: Transaction) -> None:
        """Look at all of them. However long ago the last look was, it counts as no more than its due."""
        passed = min(self._writer.clock() - self._looked, self._writer.pace.beat)
        self._looked += passed
        found = ask(transaction.connection, _OTHERS, owner=transaction.owner)
        self._unmoved = {name: (beats, self._seconds(name, beats, passed)) for name, beats, _ in found}
        for name, beats, dead in found:
            if dead or self._unmoved[name][1] >= self._writer.pace.dead_after:
                self._writer.put(self._task(partial(sweep, name=name, beats=beats, now=self._now)))

    def _seconds(self, name: str, beats: int, passed: float) -> float:
        before, seconds = self._unmoved.get(name, (None, 0.0))
        return seconds + passed if before == beats else 0.0


def farewell(transaction: Transaction, now: Callable[[], int]) -> None:
    """Settle whatever this process still holds, and be gone, so that nobody has to wait for it."""
    while _settle(transaction, transaction.owner, now) == AT_ONCE:
        pass
    transaction.connection.execute(_GONE, {"owner": transaction.owner})


def sweep(transaction: Transaction, name: str, beats: int, now: Callable[[], int]) -> None:
    """Take a process for dead if it still shows no sign of life, and settle what it holds.

    All in one transaction: if it lives on after all, it finds out before it holds or captures anything more. One that
    is in the midst of a transaction lives, so its row is not waited for.
    """
    connection = transaction.connection
    if connection.execute(_UNMOVED, {"owner": name, "seen": beats}).first() is None:
        return
    connection.execute(_BURY, {"owner": name})
    held = _settle(transaction, name, now)
    if held < AT_ONCE:
        connection.execute(_GONE, {"owner": name})
    if held:
        logger.warning("a process is gone; what it held was settled: %d", held)


def _settle(transaction: Transaction, name: str, now: Callable[[], int]) -> int:
    """Give back some of what a process holds, save what streams have earned, and let others have what it claimed.

    Tells how many reservations there were.
    """
    held = transaction.connection.execute(_HELD, {"owner": name}).all()
    unknown = Settlement(ended=now(), cost=None)
    ends = [End(row.id, wallets_of(row.account, row.budget), Verb.SWEEP, unknown, deadline=FOR_EVER) for row in held]
    MoneyOperation.together(transaction, ends)
    transaction.connection.execute(_UNCLAIM, {"owner": name})
    return len(held)


_OTHERS: Final = sa.select(OWNERS.c.id, OWNERS.c.beats, OWNERS.c.dead).where(OWNERS.c.id != sa.bindparam("owner"))
_UNMOVED: Final = (
    sa.select(OWNERS.c.id)
    .where(OWNERS.c.id == sa.bindparam("owner"), OWNERS.c.beats == sa.bindparam("seen"))
    .with_for_update(skip_locked=True)
)
_BURY: Final = OWNERS.update().where(OWNERS.c.id == sa.bindparam("owner")).values(dead=sa.true())
_GONE: Final = OWNERS.delete().where(OWNERS.c.id == sa.bindparam("owner"))
_HELD: Final = (
    sa.select(USAGE.c.id, USAGE.c.account, USAGE.c.budget)
    .where(USAGE.c.owner == sa.bindparam("owner"), USAGE.c.state == sa.literal_column("'held'"))
    .limit(AT_ONCE)
)
_UNCLAIM: Final = ANSWERS.delete().where(ANSWERS.c.owner == sa.bindparam("owner"), ANSWERS.c.body.is_(None))
