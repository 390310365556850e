"""A database that is away, locked, cut off, in conflict or restarted: exact afterwards, and nobody waits for ever."""

import random
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from amux_asgi.errors import GatewayError, StorageUnavailableError
from amux_asgi.stores.sql import SqlStores
from amux_asgi.stores.sql.engine import open_engine
from amux_asgi.stores.sql.operation import Pace, Task, Transaction
from amux_asgi.stores.sql.schema import OWNERS, USAGE
from tests.databases import PostgreSQL, fresh_database, postgresql
from tests.shim import Shim, shim
from tests.stores.world import QUICK, give, opened_store, order, paid, rows, states, sums

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The database is what matters here, not the event loop."""
    return "asyncio"


@pytest.fixture
def through(postgresql_server: PostgreSQL) -> Generator[tuple[str, Shim]]:
    """Give the URL of a fresh database behind a shim, and the shim."""
    url = make_url(fresh_database(postgresql_server))
    folder = str(url.query["host"])
    with tempfile.TemporaryDirectory() as mine, shim(Path(mine), f"{folder}/.s.PGSQL.5432") as between:
        yield url.update_query_dict({"host": mine}).render_as_string(), between


@contextmanager
def locked(database: str) -> Generator[None]:
    """Let another connection have everything locked."""
    engine = open_engine(database)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql("LOCK TABLE wallets")
        yield
    engine.dispose()


class Load:
    """Pairs of hold and capture, one after the other in each of some tasks, until told; and what was said of each."""

    def __init__(self) -> None:
        self.captured: dict[str, int] = {}
        self.earned: dict[str, int] = {}
        self.held: set[str] = set()
        self.refused: list[GatewayError] = []
        self.slowest = 0.0
        self.over = False
        self._changed = anyio.Event()

    async def run(self, stores: SqlStores, task: int) -> None:
        number = 0
        while not self.over:
            number += 1
            row = order(f"gen_{task}_{number}")
            begun = time.monotonic()
            try:
                await stores.ledger.hold(row)
                self.held.add(row.id)
                self.slowest = max(self.slowest, time.monotonic() - begun)
                begun = time.monotonic()
                if number % 3 == 0:
                    await stores.ledger.earn(row, 4, 1)
                    self.earned[row.id] = 4
                    self.slowest = max(self.slowest, time.monotonic() - begun)
                    begun = time.monotonic()
                self.captured[row.id] = await stores.ledger.capture(row, paid(7))
            except StorageUnavailableError as error:
                self.refused.append(error)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self._changed.set()
            self._changed = anyio.Event()

    async def more(self, number: int) -> None:
        """Wait until so many more were captured."""
        enough = len(self.captured) + number
        with anyio.fail_after(40):
            while len(self.captured) < enough:
                await self._changed.wait()

    async def refusals(self, number: int) -> None:
        """Wait until so many more were refused."""
        enough = len(self.refused) + number
        with anyio.fail_after(40):
            while len(self.refused) < enough:
                await self._changed.wait()

    def check(self, database: str) -> None:
        """Hold what was said against what is there: what was captured, or else earned, is charged."""
        found = states(database)
        charged = self.earned | self.captured
        assert {row for row, state in found.items() if state == "captured"} == set(charged)
        assert sums(database) == (10**6 - sum(charged.values()), 0, sum(charged.values()))


async def test_a_locked_database_is_said_in_time(database: str) -> None:
    """L25: 503 inside the deadline, none hang, and it goes on when the lock is gone."""
    pace = Pace(patience=0.5, capture=0.5, lock=0.1)
    async with opened_store(database, pace) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_0"))
        ends: list[float] = []

        async def hold(name: str) -> None:
            begun = time.monotonic()
            with pytest.raises(StorageUnavailableError) as caught:
                await stores.ledger.hold(order(name))
            assert caught.value.retry_after
            ends.append(time.monotonic() - begun)

        async def capture() -> None:
            with pytest.raises(StorageUnavailableError):
                await stores.ledger.capture(order("gen_0"), paid())

        with locked(database):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(capture)
                stores.ledger.release(order("gen_1"), paid(0))
                for i in range(300):
                    tasks.start_soon(hold, f"gen_{i + 1}")

        await stores.ledger.hold(order("gen_after"))
        await stores.ledger.capture(order("gen_after"), paid())

    assert len(ends) == 300
    assert max(ends) < 3
    assert sums(database) == (90, 0, 10)


async def test_a_gateway_that_stops_while_the_database_is_away_stops(database: str) -> None:
    """Who waits is told, and what cannot be written is left to others."""
    ends: list[str] = []
    since = time.monotonic()
    with locked_later(database) as lock:
        async with anyio.create_task_group() as tasks:
            async with opened_store(database, Pace(farewell=1, lock=0.1)) as stores:
                await give(stores, 100)
                await stores.ledger.hold(order("gen_0"))
                lock.__enter__()

                async def hold() -> None:
                    with pytest.raises(StorageUnavailableError):
                        await stores.ledger.hold(order("gen_1"))
                    ends.append("told")

                tasks.start_soon(hold)
                await anyio.wait_all_tasks_blocked()
            assert time.monotonic() - since < 20
    assert ends == ["told"]
    async with opened_store(database, QUICK) as stores:
        with anyio.fail_after(40):
            while len(rows(database, sa.select(OWNERS.c.id))) > 1 or sums(database)[1]:
                await stores.ledger.get("account:a")
    assert sums(database) == (100, 0, 0)


@contextmanager
def locked_later(database: str) -> Generator[Any]:
    """Give a lock to enter; left, it is open again."""
    lock = locked(database)
    yield lock
    lock.__exit__(None, None, None)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_end_is_unknown_is_done_once(through: tuple[str, Shim], cut: Any) -> None:
    """Cut off while committing, it is asked what became of it: top-up, hold, earning and capture happen once."""
    url, between = through
    async with opened_store(url) as stores:
        between.cut = cut
        await give(stores, 100)
        between.cut = cut
        await stores.ledger.hold(order("gen_1"))
        between.cut = cut
        await stores.ledger.earn(order("gen_1"), 3, 1)
        assert rows(url, sa.select(USAGE.c.earned, USAGE.c.images)) == [(3, 1)]
        between.cut = cut

        charged = await stores.ledger.capture(order("gen_1"), paid(6))

    assert charged == 6
    assert between.cuts == 4
    assert sums(url) == (94, 0, 6)


async def test_under_load_cut_after_cut_loses_nothing(through: tuple[str, Shim]) -> None:
    """What was said to be captured is, and nothing else."""
    url, between = through
    chance = random.Random(7)
    load = Load()
    async with opened_store(url, QUICK) as stores, anyio.create_task_group() as tasks:
        await give(stores, 10**6)
        for task in range(16):
            tasks.start_soon(load.run, stores, task)
        for _ in range(20):
            await load.more(chance.randrange(5, 50))
            between.cut = chance.choice(["before", "after"])
        load.over = True

    assert between.cuts >= 15
    assert load.refused == []
    load.check(url)


async def test_a_database_that_stops_answering_hangs_nobody(through: tuple[str, Shim]) -> None:
    """Its connections stay open and nothing comes: each waiter is told in time, and it goes on afterwards."""
    url, between = through
    load = Load()
    async with opened_store(url, Pace(patience=0.5, capture=0.5)) as stores, anyio.create_task_group() as tasks:
        await give(stores, 10**6)
        for task in range(8):
            tasks.start_soon(load.run, stores, task)
        await load.more(20)
        between.passing.clear()
        await load.refusals(16)
        between.passing.set()
        await load.more(20)
        load.over = True

    assert load.slowest < 3
    load.check(url)


async def test_a_server_that_is_killed_and_comes_back_costs_nobody_anything(tmp_path: Path) -> None:
    """S06: 503 while it is away, nothing is captured that is not there, and it goes on without a restart of ours."""
    load = Load()
    with postgresql(tmp_path) as server:
        url = fresh_database(server)
        pace = Pace(patience=0.5, capture=1, lock=0.5)
        async with opened_store(url, pace) as stores, anyio.create_task_group() as tasks:
            await give(stores, 10**6)
            for task in range(16):
                tasks.start_soon(load.run, stores, task)
            for _ in range(2):
                await load.more(50)
                await anyio.to_thread.run_sync(kill, server)
                await load.refusals(16)
                await anyio.to_thread.run_sync(server.ensure_postgres_running)
            await load.more(50)
            load.over = True

        load.check(url)
        assert all(error.retry_after for error in load.refused)


def kill(server: PostgreSQL) -> None:
    """Kill every process of a server."""
    info = server.get_postmaster_info()
    assert info.process is not None
    family = [info.process, *info.process.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family)
    (server.pgdata / "postmaster.pid").unlink()


async def test_conflicts_are_tried_again_in_silence(postgresql_server: PostgreSQL) -> None:
    """S09: a tenth of the transactions fails by a deadlock or a serialisation error, and no client hears of it."""
    url = fresh_database(postgresql_server)
    load = Load()
    async with opened_store(url, Pace(patience=20)) as stores, anyio.create_task_group() as tasks:
        await give(stores, 10**6)
        await stores.writer.run(Task(inject, stores.writer.clock() + 9))
        for task in range(4):
            tasks.start_soon(load.run, stores, task)
        await load.more(300)
        load.over = True

    assert load.refused == []
    assert rows(url, sa.text("SELECT last_value > 5 FROM injected")) == [(True,)]
    load.check(url)


def inject(transaction: Transaction) -> None:
    """Let a tenth of the changes of wallets fail, and with them their transactions."""
    for statement in (
        "CREATE SEQUENCE injected",
        """CREATE FUNCTION inject() RETURNS trigger AS $$ BEGIN
             IF random() < 0.05 THEN
               PERFORM nextval('injected'); RAISE EXCEPTION 'injected' USING ERRCODE = '40P01';
             ELSIF random() < 0.05 THEN
               PERFORM nextval('injected'); RAISE EXCEPTION 'injected' USING ERRCODE = '40001';
             END IF; RETURN NEW; END $$ LANGUAGE plpgsql""",
        "CREATE TRIGGER inject BEFORE UPDATE ON wallets FOR EACH ROW EXECUTE FUNCTION inject()",
    ):
        transaction.connection.exec_driver_sql(statement)


async def test_a_real_deadlock_is_tried_again(postgresql_server: PostgreSQL) -> None:
    """S09: another program locks the same wallets in the opposite order."""
    url = fresh_database(postgresql_server)
    async with opened_store(url, Pace(lock=5, patience=20)) as stores:
        await give(stores, 100, account="a")
        await give(stores, 100, budget="b")
        engine = open_engine(url, lock=10)
        one = sa.text("SELECT 1 FROM wallets WHERE id = :id FOR UPDATE")
        blocked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with engine.connect() as connection, engine.connect() as looking:
            connection.execute(sa.text("SET deadlock_timeout = '60s'"))  # so that not this one is the victim
            connection.execute(one, {"id": "budget:b"})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stores.ledger.hold, order("gen_1", budget="b"))
                with anyio.fail_after(20):
                    while not looking.execute(blocked).scalar():
                        await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(connection.execute, one, {"id": "account:a"})
                connection.rollback()
        engine.dispose()

        await stores.ledger.capture(order("gen_1", budget="b"), paid())

    assert sums(url) == (90, 0, 10)


async def test_two_who_open_the_same_wallets_both_succeed(database: str) -> None:
    """Accounts that nobody heard of, used by two processes for the first time at once."""
    async with opened_store(database) as one, opened_store(database) as two, anyio.create_task_group() as tasks:
        for i in range(100):
            for name, stores in (("x", one), ("y", two)):
                row = order(f"gen_{name}{i}", account=f"account-{(i * 37) % 50:02d}")
                tasks.start_soon(stores.ledger.hold, row)

    assert sums(database, "account:account-00") == (0, 0, 0)
    assert len(states(database)) == 200


async def test_a_disk_that_is_full_is_said(postgresql_server: PostgreSQL) -> None:
    """L24: PostgreSQL says so with a code of its own: 503, and it goes on once there is room."""
    url = fresh_database(postgresql_server)
    async with opened_store(url, Pace(patience=0.5)) as stores:
        await give(stores, 100)
        await stores.writer.run(Task(fill, stores.writer.clock() + 9))
        with pytest.raises(StorageUnavailableError):
            await stores.ledger.hold(order("gen_1"))
        engine = open_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER fill ON usage")
        engine.dispose()

        await stores.ledger.hold(order("gen_2"))
        await stores.ledger.capture(order("gen_2"), paid())

    assert sums(url) == (90, 0, 10)


def fill(transaction: Transaction) -> None:
    """Let no row be added any more."""
    for statement in (
        """CREATE FUNCTION fill() RETURNS trigger AS $$ BEGIN
             RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql""",
        "CREATE TRIGGER fill BEFORE INSERT ON usage FOR EACH ROW EXECUTE FUNCTION fill()",
    ):
        transaction.connection.exec_driver_sql(statement)


async def test_a_thread_is_not_left_over() -> None:
    """Nothing of these tests goes on."""
    assert not [thread for thread in threading.enumerate() if thread.name == "amux-writer"]


async def test_a_file_that_was_taken_away_is_a_store_that_is_away(tmp_path: Path) -> None:
    """Nothing is written where nobody would find it, and no empty file is made; it comes back by itself."""
    path = tmp_path / "amux.db"
    async with opened_store(f"sqlite:///{path}", Pace(patience=0.2)) as stores:
        await give(stores, 100)
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(StorageUnavailableError):
            await stores.ledger.hold(order("gen_1"))
        made = path.exists()
        (tmp_path / "elsewhere").rename(path)
        await stores.ledger.hold(order("gen_2"))

    assert not made
