"""Opening a database: what keeps money through a loss of power, and tables of every version."""

import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from amux_asgi.errors import ConfigError
from amux_asgi.stores.sql.engine import is_away, is_conflict, open_engine, prepare, text_of
from amux_asgi.stores.sql.operation import Task, Transaction
from amux_asgi.stores.sql.owners import AT_ONCE, sweep
from amux_asgi.stores.sql.schema import MIGRATIONS, NUMBERS, OWNERS, USAGE
from tests.databases import fresh_database, postgresql
from tests.stores.world import QUICK, give, opened_store, order, paid, rows, sums


def note(connection: sa.Connection) -> None:
    """Bring tables to a version that does not exist yet."""
    connection.exec_driver_sql("ALTER TABLE usage ADD COLUMN note TEXT")


LATER = (*MIGRATIONS, note)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amux.db", "is no URL"),
        ("mysql://localhost/amux", "no store for 'mysql'"),
        ("sqlite+aiosqlite:///amux.db", "no store for"),
        ("sqlite://", "needs a file"),
        ("sqlite://user@host/amux.db", "no host"),
        ("postgresql://amux:pa@ss@db.example/amux", "more than one '@'"),
        ("postgresql://amux:pa@db.example:w0rd/amux", "is no URL"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_its_mend(url: str, said: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError, match=said):
        open_engine(url)


def test_a_database_in_memory_keeps_nothing() -> None:
    """SQLite has other ways to say it; what counts is that nothing is written through."""
    engine = open_engine("sqlite:///file:x?mode=memory&uri=true")

    with pytest.raises(ConfigError, match="would lose money in a power cut"):
        prepare(engine)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/amux.db", "unable to open"),
        ("postgresql://nobody@localhost:1/amux?connect_timeout=1", "cannot be used: .*connection"),
    ],
)
def test_a_database_that_cannot_be_opened_is_said_in_a_line(url: str, said: str) -> None:
    """With the driver's own reason."""
    with pytest.raises(ConfigError, match=said) as caught:
        prepare(open_engine(url))

    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """What is no database is not written over."""
    (tmp_path / "amux.db").write_bytes(b"a picture" * 1000)

    with pytest.raises(ConfigError, match="cannot be used"):
        prepare(open_engine(f"sqlite:///{tmp_path}/amux.db"))

    assert (tmp_path / "amux.db").read_bytes() == b"a picture" * 1000


def test_what_makes_a_commit_durable_is_set(database: str) -> None:
    """WAL and FULL, or fsync and synchronous_commit, whatever the database's own settings are."""
    engine = open_engine(database)
    name = engine.dialect.name
    if name == "postgresql":
        with engine.connect() as connection:
            own = connection.exec_driver_sql("SELECT current_database()").scalar()
            connection.exec_driver_sql(f"ALTER DATABASE {own} SET synchronous_commit = off")
            connection.commit()
        engine.dispose()

    prepare(engine)

    questions = {
        "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": "2"},
        "postgresql": {"SHOW fsync": "on", "SHOW synchronous_commit": "on"},
    }
    with engine.connect() as connection:
        found = {question: str(connection.exec_driver_sql(question).scalar()) for question in questions[name]}
    engine.dispose()
    assert found == questions[name]


def test_a_server_that_does_not_flush_is_refused(tmp_path: Path) -> None:
    """PostgreSQL with fsync turned off would lose money."""
    with postgresql(tmp_path) as server:
        engine = open_engine(fresh_database(server))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        engine.dispose()
        with engine.connect() as connection:
            while connection.exec_driver_sql("SHOW fsync").scalar() == "on":
                connection.rollback()
        engine.dispose()

        with pytest.raises(ConfigError, match="power cut: SHOW fsync is 'off'"):
            prepare(engine)
        engine.dispose()


def test_tables_are_made_once_and_brought_up_to_date_in_place(database: str) -> None:
    """An old version is migrated; one that is current is left; a newer one is refused with its mend."""
    engine = open_engine(database)
    prepare(engine)
    prepare(engine)

    prepare(engine, LATER)

    with engine.connect() as connection:
        assert connection.execute(sa.select(NUMBERS.c.value).where(NUMBERS.c.name == "schema")).scalar() == len(LATER)
        assert connection.exec_driver_sql("SELECT note FROM usage").all() == []
    with pytest.raises(ConfigError, match="of version 3, and this program knows 2; use a newer"):
        prepare(engine)
    engine.dispose()


def test_a_migration_happens_whole_or_not_at_all(database: str) -> None:
    """Cut off in its midst, it leaves the old version."""

    def fail(connection: sa.Connection) -> None:
        note(connection)
        connection.exec_driver_sql("SELECT nonsense")

    engine = open_engine(database)
    prepare(engine)

    with pytest.raises(ConfigError, match="cannot be used"):
        prepare(engine, (*MIGRATIONS, fail))

    prepare(engine, LATER)
    engine.dispose()


def test_who_comes_while_others_make_the_tables_waits_for_them(tmp_path: Path) -> None:
    """Another process holds the file's lock for longer than a transaction waits."""
    url = f"sqlite:///{tmp_path}/amux.db"
    engine = open_engine(url, lock=0.01)
    tries: list[object] = []

    with open_engine(url).connect() as other:
        making = other.begin()

        @event.listens_for(engine, "connect")
        def tried(connection: object, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
            tries.append(connection)
            if len(tries) == 2:
                making.rollback()

        prepare(engine)

    assert len(tries) == 2
    assert sa.inspect(engine).has_table("wallets")


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE keys (id TEXT)"],
        ["CREATE TABLE numbers (name TEXT, value INTEGER)"],
        ["CREATE TABLE numbers (name TEXT, value INTEGER)", "INSERT INTO numbers VALUES ('schema', 0)"],
        ["CREATE TABLE numbers (i INTEGER)"],
    ],
)
def test_tables_of_another_program_are_left_alone(database: str, statements: list[str]) -> None:
    """Nothing of ours is mixed into them."""
    engine = open_engine(database)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)

    with pytest.raises(ConfigError, match=r"tables of another program|cannot be used"):
        prepare(engine)

    assert not sa.inspect(engine).has_table("wallets")
    engine.dispose()


@pytest.mark.anyio
async def test_what_is_held_is_still_there_after_an_upgrade(database: str) -> None:
    """O07: a process of the old version captures what it held, while and after the tables are migrated."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        for name in ("gen_1", "gen_2"):
            await stores.ledger.hold(order(name))
        engine = open_engine(database)
        prepare(engine, LATER)
        engine.dispose()

        charged = await stores.ledger.capture(order("gen_1"), paid(6))
        await stores.ledger.hold(order("gen_3"))
        stores.ledger.release(order("gen_2"), paid(0))
        await stores.ledger.capture(order("gen_3"), paid(1))

    assert charged == 6
    assert sums(database) == (93, 0, 7)


@pytest.mark.anyio
async def test_whom_others_took_for_dead_goes_on_under_a_new_name(database: str) -> None:
    """What it begins from then on is its own, and nobody else's to give back."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_1"))
        (before,) = rows(database, sa.select(OWNERS.c.id))
        await stores.writer.run(Task(bury, stores.writer.clock() + 9))

        await stores.ledger.hold(order("gen_2"))

        owners = dict(rows(database, sa.select(USAGE.c.id, USAGE.c.owner)))  # pyright: ignore[reportArgumentType]
        assert owners["gen_1"] == before[0]
        assert owners["gen_2"] == stores.writer.owner != before[0]
    async with opened_store(database, QUICK) as stores:
        while sums(database)[1]:
            await stores.ledger.get("account:a")
    assert sums(database) == (100, 0, 0)


@pytest.mark.anyio
async def test_much_that_a_dead_process_held_is_given_back_in_parts(database: str) -> None:
    """No transaction grows with what there is to give back."""
    async with opened_store(database) as stores:
        await give(stores, 10_000)
        async with anyio.create_task_group() as tasks:
            for i in range(AT_ONCE + 1):
                tasks.start_soon(stores.ledger.hold, order(f"gen_{i}"))
        dead = stores.writer.owner
        await stores.writer.run(Task(bury, stores.writer.clock() + 9))

        async with opened_store(database, QUICK) as other:
            while dead in {name for (name,) in rows(database, sa.select(OWNERS.c.id))}:
                await other.ledger.get("account:a")

        assert sums(database) == (10_000, 0, 0)


@pytest.mark.anyio
async def test_who_moved_in_the_last_moment_is_not_swept(database: str) -> None:
    """The counter is read again in the transaction that would give back what it holds."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_1"))
        late = partial(sweep, name=stores.writer.owner, beats=0, now=lambda: 1)

        await stores.writer.run(Task(late, stores.writer.clock() + 9))

        assert sums(database) == (90, 10, 0)


@pytest.mark.anyio
async def test_who_held_nothing_is_swept_without_a_word(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process that died idle took nothing with it."""
    async with opened_store(database) as stores:
        beats = partial(sa.insert(OWNERS).values, beats=5, dead=False)
        await stores.writer.run(Task(lambda work: work.connection.execute(beats(id="idle")), stores.writer.clock() + 9))
        gone = partial(sweep, name="idle", beats=5, now=lambda: 1)

        await stores.writer.run(Task(gone, stores.writer.clock() + 9))

        assert [name for (name,) in rows(database, sa.select(OWNERS.c.id))] == [stores.writer.owner]
        assert "a process is gone" not in caplog.text


def bury(transaction: Transaction) -> None:
    transaction.connection.execute(OWNERS.update().values(dead=True))


@pytest.mark.anyio
async def test_an_idle_process_is_not_taken_for_dead(database: str) -> None:
    """It counts on, though nobody asks it for anything: what it holds stays held."""
    async with opened_store(database, QUICK) as one, opened_store(database, QUICK) as two:
        await give(one, 100)
        await one.ledger.hold(order("gen_1"))
        since = two.writer.clock()
        while two.writer.clock() - since < 2 * QUICK.dead_after:
            await two.ledger.get("account:a")

        assert await one.ledger.capture(order("gen_1"), paid()) == 10

    assert sums(database) == (90, 0, 10)


def test_what_no_driver_says_is_neither_away_nor_in_conflict() -> None:
    """Our own faults are not repeated."""
    assert not is_away(ValueError())
    assert not is_conflict(ValueError())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_row_in_another_order_than_its_statement_shows_at_once(dialect: str) -> None:
    """Values are told by their places, so that the places are looked at."""
    names = ("id", "beats", "dead")

    assert text_of(OWNERS.insert(), dialect, *names).startswith("INSERT INTO owners (id, beats, dead)")
    with pytest.raises(ValueError, match="the parameters are"):
        text_of(OWNERS.insert(), dialect, *reversed(names))


def test_without_its_driver_postgresql_names_the_extra() -> None:
    """The error is what to install."""
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "psycopg"}
    for name in hidden:
        del sys.modules[name]
    sys.modules["psycopg"] = None  # type: ignore[assignment]
    try:
        with pytest.raises(ConfigError, match=r'pip install "amux-asgi\[postgres\]"'):
            open_engine("postgresql://nobody@localhost/amux")
    finally:
        del sys.modules["psycopg"]
        sys.modules.update(hidden)
