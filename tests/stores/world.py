"""What tests of the real stores share: stores that wait less, what is in a database, and a way to block the writer."""

import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa

from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import SqlStores, open_store
from amux_asgi.stores.sql.engine import open_engine
from amux_asgi.stores.sql.ledger import Change
from amux_asgi.stores.sql.operation import Pace, Task, Transaction
from amux_asgi.stores.sql.schema import USAGE, WALLETS
from amux_asgi.wallets import account_wallet, budget_wallet, opened

QUICK = Pace(patience=2, capture=2, farewell=6, dead_after=0.6, lock=0.2)


@asynccontextmanager
async def opened_store(url: str, pace: Pace | None = None) -> AsyncGenerator[SqlStores]:
    """Open a store by the real clock."""
    async with open_store(url, clock=time.monotonic, now=now, pace=pace) as stores:
        yield stores


def now() -> int:
    return time.time_ns() // 1_000_000


def order(id: str, amount: int = 10, *, account: str = "a", budget: str | None = None) -> Order:  # noqa: A002, a row's id
    return Order(id=id, account=account, key="k", amount=amount, begun=1, budget=budget)


def paid(charged: int = 10) -> Settlement:
    return Settlement(ended=2, charged=charged, images=1)


async def give(stores: SqlStores, amount: int, *, account: str = "a", budget: str | None = None) -> None:
    """Open an account, or a key's budget, with this much."""
    wallet = account_wallet(account) if budget is None else budget_wallet(budget)
    change = Change(
        f"open {wallet}",
        wallet,
        lambda wallet: opened(wallet, amount, 0),
        note="",
        at=1,
        deadline=stores.writer.clock() + 60,
    )
    await stores.writer.run(change)


def sums(url: str, wallet: str = "account:a") -> tuple[int, int, int]:
    """Read what a wallet has available, set aside and taken, and hold it against its rows: I1 to I3."""
    engine = open_engine(url)
    kind, _, name = wallet.partition(":")
    mine = USAGE.c[kind] == name
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":  # both questions about one moment, whoever commits in between
            connection.execution_options(isolation_level="REPEATABLE READ")
        found = connection.execute(sa.select(WALLETS).where(WALLETS.c.id == wallet)).one()
        rows = connection.execute(sa.select(USAGE.c.state, USAGE.c.amount, USAGE.c.charged).where(mine)).all()
    engine.dispose()
    assert found.granted == found.available + found.held + found.captured
    assert found.credit is None or found.available >= -found.credit
    assert found.held == sum(row.amount for row in rows if row.state == "held")
    assert found.captured == sum(row.charged for row in rows)
    return found.available, found.held, found.captured


def rows(url: str, query: sa.Executable) -> list[tuple[Any, ...]]:
    """Ask a database anything."""
    engine = open_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return found


def states(url: str) -> dict[str, str]:
    """Tell how each reservation stands."""
    return dict(rows(url, sa.select(USAGE.c.id, USAGE.c.state)))  # pyright: ignore[reportArgumentType]


@contextmanager
def busy(stores: SqlStores) -> Generator[None]:
    """Keep the writer busy while entered."""
    begun, over = threading.Event(), threading.Event()

    def work(_: Transaction) -> None:
        begun.set()
        over.wait(20)

    stores.writer.put(Task(work, stores.writer.clock() + 60))
    assert begun.wait(20)
    try:
        yield
    finally:
        over.set()
