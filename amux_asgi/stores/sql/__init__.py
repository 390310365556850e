"""Money, keys and answers in SQLite or PostgreSQL: one implementation for both."""

import random as chance
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread
from msgspec import Struct

from amux_asgi.claims import Claims
from amux_asgi.stores.sql.answers import SqlAnswers
from amux_asgi.stores.sql.book import get_ready
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.stores.sql.keys import SqlKeys
from amux_asgi.stores.sql.ledger import SqlLedger
from amux_asgi.stores.sql.manage import SqlManager
from amux_asgi.stores.sql.openings import open_wallets
from amux_asgi.stores.sql.operation import FOR_EVER, Pace, Task
from amux_asgi.stores.sql.owners import Others, farewell
from amux_asgi.stores.sql.writer import Writer
from amux_asgi.wallets import Opening


class SqlStores(Struct, frozen=True, kw_only=True):
    """What one process has open of a database."""

    ledger: SqlLedger
    keys: SqlKeys
    claims: Claims
    manage: SqlManager
    writer: Writer
    now: Callable[[], int]

    async def open_wallets(self, openings: Iterable[Opening]) -> None:
        """Make the wallets that a configuration wants, or bring them up to date.

        Raises:
            StorageUnavailableError: it could not be written.
        """
        await open_wallets(self.writer, openings, at=self.now())


@asynccontextmanager
async def open_store(  # noqa: PLR0913, whatever a test wants to hold in its hand
    url: str,
    *,
    clock: Callable[[], float],
    now: Callable[[], int],
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    random: Callable[[], float] = chance.random,
    pace: Pace | None = None,
) -> AsyncGenerator[SqlStores]:
    """Open a database, making its tables where there are none; left, everything that was decided is written.

    `clock` is monotonic, in seconds; `now` is Unix time in milliseconds; `random` gives 0 ≤ x < 1.

    Raises:
        ConfigError: it cannot be used.
    """
    pace = pace or Pace()
    engine, looks = open_engine(url, lock=pace.lock), open_engine(url, lock=pace.lock)
    try:
        await anyio.to_thread.run_sync(prepare, engine)
        get_ready(engine.dialect.name)
        writer = Writer(engine, clock=clock, pace=pace)
        answers = SqlAnswers(writer, engine, now=now, sleep=sleep, random=random)
        keys = SqlKeys(looks, clock=clock, now=now)
        writer.start([Others(writer, now).chore(), answers.chore()])
        keys.look_ups.start()
        try:
            yield SqlStores(
                ledger=SqlLedger(writer),
                keys=keys,
                claims=Claims(answers, clock=clock, now=now),
                manage=SqlManager(engine, writer, now),
                writer=writer,
                now=now,
            )
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(keys.look_ups.stop)
                await anyio.to_thread.run_sync(writer.stop, Task(partial(farewell, now=now), FOR_EVER))
    finally:
        engine.dispose()
        looks.dispose()
