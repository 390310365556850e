"""What it costs to set money aside and to take it: pairs of hold and capture a second, on SQLite and PostgreSQL.

`--rows N` says how many usage rows the curve goes up to, `--seconds N` how long each figure is measured.
One core: `taskset -c 0 python3 -m benchmarks ledger`.
"""

import argparse
import asyncio  # noqa: TID251, measures on one loop
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy import event

from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import open_store
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.wallets import account_wallet
from tests.databases import fresh_database, postgresql

IN_FLIGHT: Final = (1, 32, 256)
ACCOUNTS: Final = (10, 1_000, 100_000)
USUAL: Final = 1_000  # accounts
KINDS: Final = ("SQLite", "PostgreSQL")
PRICE: Final = 40_000_000
Fresh = Callable[[str], str]  # gives the URL of an empty database of a kind
Figures = tuple[float, float, float, float]  # pairs a second, µs of our CPU, commits a pair, ms of the 99th of 100


async def measure(url: str, in_flight: int, seconds: float, accounts: int = USUAL) -> Figures:
    """Hold and capture as fast as it goes."""
    commits = Count()
    took: list[float] = []
    async with open_store(url, clock=time.monotonic, now=lambda: time.time_ns() // 1_000_000) as stores:
        begun, used = time.monotonic(), time.process_time()
        last = begun + seconds
        names, number = account_names(accounts), itertools.count()

        async def work() -> None:
            while (now := time.monotonic()) < last:
                name = next(names)
                order = Order(id=row_id(number), account=name, key=name, amount=PRICE, begun=1, model="gpt-image-2")
                await stores.ledger.hold(order)
                await stores.ledger.capture(order, Settlement(ended=2, charged=PRICE // 2, channel="openai", images=1))
                took.append(time.monotonic() - now)

        with commits.counted():
            await asyncio.gather(*(work() for _ in range(in_flight)))
            passed, used = time.monotonic() - begun, time.process_time() - used
    took.sort()
    return len(took) / passed, 1e6 * used / len(took), commits.number / len(took), 1000 * took[len(took) * 99 // 100]


class Count:
    """How many transactions were committed."""

    number = 0

    @contextmanager
    def counted(self) -> Generator[None]:
        """Count while entered."""
        event.listen(sa.Engine, "commit", self._one)
        try:
            yield
        finally:
            event.remove(sa.Engine, "commit", self._one)

    def _one(self, _connection: sa.Connection) -> None:
        self.number += 1


def account_names(accounts: int) -> Iterator[str]:
    """Name accounts without end, near and far ones in turn."""
    at = 0
    while True:
        at = (at + 7919) % accounts
        yield f"account-{at:06d}"


def row_id(number: "itertools.count[int]") -> str:
    """Make an id as the gateway does: they begin with the time, so each is larger than the one before."""
    return f"gen_{time.time_ns() // 1_000_000:012x}{next(number):016x}"


def fill(url: str, accounts: int, first: int, rows: int) -> None:
    """Make accounts, where these are the first rows, and usage rows from the first to this many: in plain SQL."""
    engine = open_engine(url)
    prepare(engine)
    numbers, pad, who = DIALECTS[engine.dialect.name]
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        if not rows:
            name = f"'{account_wallet('')}' || {who.format('i')}"
            connection.exec_driver_sql(
                "INSERT INTO wallets (id, available, held, captured, granted, credit) "  # noqa: S608, of our own text
                f"SELECT {name}, {RICH}, 0, 0, {RICH}, 0 FROM {numbers.format(0, accounts - 1)}"
            )
        if rows > first:
            name = who.format(f"i * 31 - i * 31 / {accounts} * {accounts}")
            connection.exec_driver_sql(
                "INSERT INTO usage (id, owner, state, account, key, amount, charged, model, channel, images, "  # noqa: S608
                f"input_tokens, output_tokens, begun, ended) SELECT 'gen_' || {pad} || '0123456789abcdef', 'x', "
                f"'captured', {name}, {name}, 1, 0, 'gpt-image-2', 'openai', 1, 10, 1000, i, i "
                f"FROM {numbers.format(first, rows - 1)}"
            )
    engine.dispose()


def history(url: str) -> float:
    """Tell how many milliseconds one account's newest fifty rows take."""
    engine = open_engine(url)
    query = sa.text("SELECT id, charged FROM usage WHERE account = 'account-000500' ORDER BY id DESC LIMIT 50")
    with engine.connect() as connection:
        connection.execute(query).all()
        begun = time.monotonic()
        connection.execute(query).all()
        passed = time.monotonic() - begun
    engine.dispose()
    return 1000 * passed


def syncs(folder: Path) -> str:
    """Count the flushes to the disk, for 32 in flight on SQLite."""
    if shutil.which("strace") is None:
        return "not counted, there is no strace"
    counts = folder / "counts"
    tracing = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", str(counts)]
    child = [sys.executable, "-m", "benchmarks.ledger", "--pairs", f"sqlite:///{folder}/syncs.db"]
    done = subprocess.run([*tracing, *child], capture_output=True, text=True, check=True)
    lines = [line.split() for line in counts.read_text().splitlines()]
    calls = sum(int(line[3]) for line in lines if line and line[-1] in ("fsync", "fdatasync"))
    return f"{calls / int(done.stdout):.3f} a pair"


def by_load(fresh: Fresh, seconds: float) -> Table:
    """Measure with more and more pairs in flight."""
    table = empty("in flight", f"{USUAL:,} accounts")
    for kind in KINDS:
        for in_flight in IN_FLIGHT:
            url = fresh(kind)
            fill(url, USUAL, 0, 0)
            add(table, kind, f"{in_flight}", asyncio.run(measure(url, in_flight, seconds)))
    return table


def by_accounts(fresh: Fresh, seconds: float) -> Table:
    """Measure with more and more accounts."""
    table = empty("accounts", "32 in flight")
    for kind in KINDS:
        for accounts in ACCOUNTS:
            url = fresh(kind)
            fill(url, accounts, 0, 0)
            add(table, kind, f"{accounts:,}", asyncio.run(measure(url, 32, seconds, accounts)))
    return table


def by_rows(fresh: Fresh, seconds: float, most: int) -> Table:
    """Measure with more and more usage rows."""
    table = empty("usage rows", f"32 in flight, {USUAL:,} accounts", "history, ms")
    for kind in KINDS:
        url = fresh(kind)
        first = 0
        for rows in (0, most // 100, most // 10, most):
            fill(url, USUAL, first, rows)
            first = rows
            figures = asyncio.run(measure(url, 32, seconds))
            add(table, kind, f"{rows:,}", figures, f"{history(url):.2f}")
    return table


def empty(what: str, title: str, *more: str) -> Table:
    """Begin a table."""
    table = Table(title=title)
    for name in ("", what, "pairs/s", "CPU a pair, µs", "commits a pair", "99 of 100 within, ms", *more):
        table.add_column(name, justify="right" if name else "left")
    return table


def add(table: Table, kind: str, what: str, figures: Figures, *more: str) -> None:
    """Add what was measured."""
    rate, cpu, commits, slowest = figures
    table.add_row(kind, what, f"{rate:,.0f}", f"{cpu:.0f}", f"{commits:.3f}", f"{slowest:.1f}", *more)


def main() -> None:
    """Measure it all, and show it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="usage rows that the curve goes up to")
    parser.add_argument("--seconds", type=float, default=3, help="how long each figure is measured")
    parser.add_argument("--pairs", metavar="URL", help="only hold and capture for a second, and tell how often")
    told = parser.parse_args()
    if told.pairs:
        rate, _, _, _ = asyncio.run(measure(told.pairs, 32, 1))
        sys.stdout.write(f"{rate:.0f}\n")
        return
    console = Console()
    with TemporaryDirectory(ignore_cleanup_errors=True) as name, postgresql(Path(name) / "postgresql") as server:
        numbers = itertools.count()

        def fresh(kind: str) -> str:
            return f"sqlite:///{name}/{next(numbers)}.db" if kind == "SQLite" else fresh_database(server)

        console.print(by_load(fresh, told.seconds))
        console.print(f"SQLite, 32 in flight: fsyncs {syncs(Path(name))}")
        console.print(by_accounts(fresh, told.seconds))
        console.print(by_rows(fresh, told.seconds, told.rows))


RICH: Final = 10**15  # nano-dollars that each account has
DIALECTS: Final = {  # numbers from one to another, one of them in twelve hexadecimal digits, and an account's name
    "sqlite": (
        "(WITH RECURSIVE n(i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n)",
        "printf('%012x', i)",
        "printf('account-%06d', {})",
    ),
    "postgresql": (
        "generate_series({}, {}) AS n(i)",
        "lpad(to_hex(i), 12, '0')",
        "('account-' || lpad(CAST({} AS TEXT), 6, '0'))",
    ),
}

if __name__ == "__main__":
    main()
