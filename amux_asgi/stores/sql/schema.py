"""The tables, the same on SQLite and PostgreSQL, and how they are made and brought up to date.

Money is in nano-dollars, times are in milliseconds of Unix time, lists are JSON.
"""

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, LargeBinary, MetaData, Table, Text

from amux_asgi.errors import ConfigError

METADATA: Final = MetaData()

WALLETS: Final = Table(
    "wallets",
    METADATA,
    Column("id", Text, primary_key=True),  # "account:NAME" or "budget:NAME"
    Column("available", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("credit", BigInteger),  # how far below zero; NULL: without limit
    CheckConstraint("granted = available + held + captured", name="adds_up"),
    CheckConstraint("held >= 0 AND captured >= 0", name="not_negative"),
    CheckConstraint("credit IS NULL OR (credit >= 0 AND available >= -credit)", name="floor"),
    sqlite_with_rowid=False,
)
"""What may be spent. The checks are the net below the decisions of `wallets.py` and `reservation.py`."""

GRANTS: Final = Table(
    "grants",
    METADATA,
    Column("id", Text, primary_key=True),  # the caller's, so that a repeated top-up is one
    Column("wallet", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("grants_wallet", "wallet", "at"),
    sqlite_with_rowid=False,
)
"""Every top-up and correction."""

USAGE: Final = Table(
    "usage",
    METADATA,
    Column("id", Text, primary_key=True),  # begins with the time, so that new rows lie side by side
    Column("owner", Text, nullable=False),  # the process that works on it
    Column("state", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("budget", Text),
    Column("amount", BigInteger, nullable=False),  # the most it could cost
    Column("charged", BigInteger, nullable=False),
    Column("cost", BigInteger),  # the vendor's price; NULL: nobody knows
    Column("model", Text),
    Column("channel", Text),
    Column("request_id", Text),
    Column("attempts", Text),
    Column("images", Integer, nullable=False),  # of a stream that goes on: those delivered
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("begun", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("earned", BigInteger, nullable=False, server_default="0"),  # what a stream's pictures are worth so far
    CheckConstraint("charged >= 0 AND charged <= amount", name="at_most_held"),
    CheckConstraint("earned >= 0 AND earned <= amount", name="earned_at_most_held"),
    CheckConstraint("earned = 0 OR state <> 'swept'", name="earned_is_charged"),  # also by who does not know of it
    Index("usage_account", "account", "id"),  # an account's history; makes a hold dearer by about a tenth
    sqlite_with_rowid=False,
)
"""Every reservation, from its hold on; ended, it is the usage row."""

Index("usage_held", USAGE.c.owner, sqlite_where=USAGE.c.state == "held", postgresql_where=USAGE.c.state == "held")

OWNERS: Final = Table(
    "owners",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("beats", BigInteger, nullable=False),  # a process that lives counts on
    Column("dead", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("last_four", Text, nullable=False),
    Column("name", Text, nullable=False),  # shared by keys that replace each other
    Column("account", Text, nullable=False),
    Column("budget", Text),  # names a wallet, likewise shared
    Column("models", Text),  # NULL: all
    Column("passthrough", Text, nullable=False),
    Column("networks", Text),  # NULL: all
    Column("disabled", Boolean, nullable=False),
    Column("expires", BigInteger),
    Column("created", BigInteger, nullable=False),
    Index("keys_name", "name"),
    sqlite_with_rowid=False,
)

ANSWERS: Final = Table(
    "answers",
    METADATA,
    Column("claim", Text, primary_key=True),  # a digest of whose idempotency key it is, and of the key
    Column("fingerprint", Text, nullable=False),  # of path and body
    Column("owner", Text, nullable=False),  # the process that works on it
    Column("expires", BigInteger, nullable=False),
    Column("facts", LargeBinary),  # of the answer; while it is worked on, a token of whose work it is
    Column("body", LargeBinary),  # NULL while it is worked on; the last, as SQLite reads up to what it looks for
    Index("answers_expires", "expires"),
    Index("answers_owner", "owner", sqlite_where=sa.text("body IS NULL"), postgresql_where=sa.text("body IS NULL")),
)

NUMBERS: Final = Table(
    "numbers",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""`schema`: the version of these tables; `revision`: counts the changes of keys."""

Migration = Callable[[sa.Connection], None]


def _create(connection: sa.Connection) -> None:
    METADATA.create_all(connection, checkfirst=False)  # another program's table of such a name is not used for ours


def _earn(connection: sa.Connection) -> None:
    # Its default lets processes of the first version go on to add rows.
    connection.exec_driver_sql(
        "ALTER TABLE usage ADD COLUMN earned BIGINT DEFAULT 0 NOT NULL"
        " CONSTRAINT earned_at_most_held CHECK (earned >= 0 AND earned <= amount)"
        " CONSTRAINT earned_is_charged CHECK (earned = 0 OR state <> 'swept')"
    )


MIGRATIONS: Final[Sequence[Migration]] = (_create, _earn)
"""The first makes all tables as they stand above; each later one brings those of its predecessor up to date."""


def migrate(connection: sa.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make the tables, or bring them up to date, inside the caller's transaction, which keeps others from doing so.

    Raises:
        ConfigError: they are of a newer version than this program knows, or another program's.
    """
    found = _version(connection)
    if found > len(migrations):
        raise ConfigError(
            f"the database is of version {found}, and this program knows {len(migrations)}; use a newer amux-asgi"
        )
    if found == len(migrations):
        return
    for migration in migrations[found:] if found else migrations[:1]:
        migration(connection)
    if not found:
        connection.execute(NUMBERS.insert(), [{"name": "schema", "value": 0}, {"name": "revision", "value": 0}])
    connection.execute(NUMBERS.update().where(NUMBERS.c.name == "schema").values(value=len(migrations)))


def _version(connection: sa.Connection) -> int:
    if not sa.inspect(connection).has_table("numbers"):
        return 0
    version: int | None = connection.execute(_VERSION).scalar()
    if not version:
        raise ConfigError("the database holds tables of another program; give amux-asgi one of its own")
    return version


_VERSION: Final = sa.select(NUMBERS.c.value).where(NUMBERS.c.name == "schema")
