"""Connections to SQLite and PostgreSQL, with what makes a commit durable asserted, and no wait without an end."""

import random as chance
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.sql.compiler import SQLCompiler

from amux_asgi.errors import ConfigError
from amux_asgi.stores.sql.operation import Pace
from amux_asgi.stores.sql.schema import MIGRATIONS, Migration, migrate

Cursor = Any  # the drivers' own
CONNECT: Final = 3  # seconds to reach a server
STATEMENT: Final = 10  # seconds for one statement
STUCK: Final = 3  # seconds after which a transaction whose process does nothing is ended, and its locks are free
MAKING: Final = 60  # seconds for others to make the tables
AGAIN: Final = (0.0002, 0.001)  # seconds between two looks at SQLite's lock, by chance
READERS: Final = 5  # connections that only read
SCHEMA_LOCK: Final = 0x616D7578  # of PostgreSQL's advisory locks, while tables are made


def open_engine(url: str, *, lock: float = Pace().lock) -> sa.Engine:
    """Make an engine whose transactions begin as writers do; opens nothing yet.

    `lock` is how many seconds another process's lock is waited for.

    Raises:
        ConfigError: the URL is none, names another database, or its driver is not installed.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, lock)
    return _postgresql(parsed, lock)


def prepare(engine: sa.Engine, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make the tables, or bring them up to date; safe when many processes do so at once.

    Raises:
        ConfigError: the database cannot be used, or keeps nothing through a loss of power.
    """
    last = time.monotonic() + MAKING
    while True:
        try:
            with engine.begin() as connection:
                _check_durable(connection)
                for statement in _ALONE[engine.dialect.name]:
                    connection.exec_driver_sql(statement)
                migrate(connection, migrations)
        except DBAPIError as exc:
            if not _is_locked(exc) or time.monotonic() > last:
                raise ConfigError(f"the database cannot be used: {_reason(exc)}") from exc
            time.sleep(0.05)
        else:
            return


def cursor_of(connection: sa.Connection) -> Cursor:
    """Give a cursor of the driver's own for the transaction that is open; its errors are `DriverErrors`.

    SQLAlchemy looks at each statement and its rows: a statement of ours would take ten times as long.
    """
    return connection.connection.cursor()


class DriverErrors:
    """Raise what the driver raises as SQLAlchemy does; as a generator, it would take longer than a statement."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        kind = self._connection.dialect.loaded_dbapi.Error
        if isinstance(exc, kind):
            raise cast("Exception", DBAPIError.instance(None, None, exc, kind)) from exc


def ask(connection: sa.Connection, question: sa.ClauseElement, **told: object) -> Sequence[Any]:
    """Give the rows that the driver finds; `told` are the parameters, in their order."""
    cursor = cursor_of(connection)
    cursor.execute(text_of(question, connection.dialect.name, *told), tuple(told.values()))
    return cursor.fetchall()


@cache
def text_of(statement: sa.ClauseElement, dialect: str, *names: str) -> str:
    """Write a statement down for its driver once, to be run as it is; `names` are its parameters, in their order.

    Raises:
        ValueError: it has others, or in another order.
    """
    of: sa.Dialect = (
        sqlite.dialect(paramstyle="qmark") if dialect == "sqlite" else postgresql.dialect(paramstyle="format")
    )
    compiled = cast("SQLCompiler", statement.compile(dialect=of, column_keys=names))
    if tuple(compiled.positiontup or ()) != names:
        raise ValueError(f"the parameters are {compiled.positiontup}")
    return str(compiled)


def is_conflict(exc: Exception) -> bool:
    """Tell whether two transactions stood in each other's way, so that trying again at once may help."""
    return isinstance(exc, DBAPIError) and getattr(exc.orig, "sqlstate", None) in _CONFLICTS


def is_away(exc: Exception) -> bool:
    """Tell whether the store could not do anything at all: away, locked, full, read-only."""
    if isinstance(exc, DBAPIError) and _sqlite_code(exc) is not None:
        return _sqlite_code(exc) in _SQLITE_AWAY
    return isinstance(exc, OperationalError | InterfaceError | InternalError | NoConnectionError | FileNotFoundError)


def _sqlite_code(exc: DBAPIError) -> int | None:
    code: int | None = getattr(exc.orig, "sqlite_errorcode", None)
    return None if code is None else code & _KIND


def _is_locked(exc: DBAPIError) -> bool:
    return _sqlite_code(exc) in _SQLITE_LOCKED


def file_of(url: URL) -> Path | None:
    """Name the file of a SQLite database, if it is one by its plain path."""
    if url.get_backend_name() != "sqlite" or url.database is None or url.database.startswith("file:"):
        return None
    return Path(url.database).absolute()


def _parsed(url: str) -> URL:
    if url.partition("://")[2].count("@") > 1:  # what stands behind the first would be taken for a host, and be shown
        raise ConfigError("the database's URL holds more than one '@'; write one in a password as %40")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its text may hold the password
        message = "the database is no URL; write 'sqlite:///FILE' or 'postgresql://USER@HOST/NAME'"
        raise ConfigError(message) from None
    if parsed.drivername not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"there is no store for {parsed.drivername!r}; write 'sqlite:///FILE' or 'postgresql://USER@HOST/NAME'"
        )
    if parsed.drivername == "sqlite" and (parsed.host or parsed.username):
        raise ConfigError("SQLite has a file, and no host; write 'sqlite:///FILE', or 'sqlite:////FILE' from the root")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("SQLite needs a file, as in 'sqlite:///amux.db'; without a database, money is in memory")
    return parsed


def _sqlite(url: URL, lock: float) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": lock, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]  # noqa: ANN401, sqlite3's
        connection.isolation_level = None  # transactions begin where we say so
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        if _writes(connection):
            _begin_to_write(connection, lock)
        else:
            with DriverErrors(connection):
                cursor_of(connection).execute("BEGIN")

    return engine


def _begin_to_write(connection: sa.Connection, lock: float) -> None:
    """Begin as soon as no other process writes, looking again and again.

    SQLite by itself looks ten times a second in the end: beside others that write all the time, one would wait for
    seconds, and two processes would do less than one.
    """
    cursor = cursor_of(connection)
    if _ASKS not in connection.info:
        cursor.execute("PRAGMA busy_timeout=0")
        connection.info[_ASKS] = True
    last = time.monotonic() + lock
    with DriverErrors(connection):
        while True:
            try:
                cursor.execute(_BEGIN)
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & _KIND not in _SQLITE_LOCKED or time.monotonic() > last:
                    raise
            else:
                return
            time.sleep(chance.uniform(*AGAIN))  # noqa: S311, so that two do not look at the same time for ever


def _writes(connection: sa.Connection) -> bool:
    return not connection.get_execution_options().get("reads", False)


def _postgresql(url: URL, lock: float) -> sa.Engine:
    settings = {
        "synchronous_commit": "on",
        "lock_timeout": f"{round(lock * 1000)}ms",
        "statement_timeout": f"{STATEMENT}s",
        "idle_in_transaction_session_timeout": f"{STUCK}s",
    }
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=QueuePool,
            hide_parameters=True,
            pool_size=READERS,
            max_overflow=1,  # the writer's own
            pool_timeout=lock,
            connect_args={
                "connect_timeout": CONNECT,
                "tcp_user_timeout": STATEMENT * 1000,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            },
        )
    except ModuleNotFoundError as exc:
        raise ConfigError('psycopg is not installed: pip install "amux-asgi[postgres]"') from exc


def _check_durable(connection: sa.Connection) -> None:
    for question, wanted in _DURABLE[connection.dialect.name]:
        found = str(connection.exec_driver_sql(question).scalar())
        if found not in wanted:
            raise ConfigError(f"the database would lose money in a power cut: {question} is {found!r}")


def _reason(exc: DBAPIError) -> str:
    return str(exc.orig).strip().partition("\n")[0]


_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",  # macOS: through the disk's own cache too; elsewhere it says nothing
    "checkpoint_fullfsync=ON",
    "temp_store=MEMORY",
    "cache_size=-65536",  # KiB
    "wal_autocheckpoint=8000",  # pages: wallets that change in every transaction are copied back less often
)
_ALONE: Final = {
    "sqlite": (),
    "postgresql": (
        f"SET LOCAL lock_timeout = '{MAKING}s'",
        "SET LOCAL statement_timeout = 0",  # large tables may take long
        f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})",
    ),
}
"""What keeps others from making tables at the same time; SQLite's transactions do by themselves."""


_CONFLICTS: Final = (  # of PostgreSQL
    "40001",  # serialization failure
    "40P01",  # deadlock
    "23505",  # two made the same row
)
_BEGIN: Final = "BEGIN IMMEDIATE"
_ASKS: Final = "amux_asgi asks for the lock itself"  # of a connection
_KIND: Final = 0xFF  # of SQLite's error codes, without what extends them
_SQLITE_LOCKED: Final = (5, 6)  # busy, locked
_SQLITE_AWAY: Final = (
    *_SQLITE_LOCKED,
    7,  # no memory
    8,  # read-only
    9,  # interrupted
    10,  # the disk fails
    11,  # corrupt
    13,  # full
    14,  # cannot be opened
    15,  # too many at its locks
    26,  # no database
)
_DURABLE: Final = {
    "sqlite": (("PRAGMA journal_mode", ("wal",)), ("PRAGMA synchronous", ("2", "3"))),
    "postgresql": (("SHOW fsync", ("on",)), ("SHOW synchronous_commit", ("on", "remote_apply"))),
}
