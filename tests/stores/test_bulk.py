"""Many rows by one statement are the same rows as one by one, on each database."""

import sqlite3
from collections.abc import Generator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.stores.sql.bulk import find, inserting, put, updating
from amux_asgi.stores.sql.engine import open_engine

THINGS: Final = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("word", sa.Text),
    sa.Column("number", sa.BigInteger),
    sa.Column("kind", sa.Text, nullable=False),
)
INSERT: Final = inserting(THINGS, ("id", "word", "number"), kind=sa.literal_column("'new'"))
CHANGE: Final = updating(THINGS, ("word", "number", "row"))
ALL: Final = sa.select(THINGS.c.id, THINGS.c.word, THINGS.c.number, THINGS.c.kind)
HIGHEST: Final = 2**63 - 1
numbers = st.none() | st.integers(-HIGHEST - 1, HIGHEST) | st.sampled_from([10**18, -(10**18), HIGHEST, -HIGHEST - 1])
words = st.none() | st.text() | st.sampled_from(['"', "\\", "[1]", "\x00", "a\x00b", "1" * 19, "'", "\\u0000", "null"])
things = st.dictionaries(st.text(), st.tuples(words, numbers), min_size=1, max_size=9)


def there(connection: sa.Connection) -> dict[str, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in connection.execute(ALL)}


@pytest.fixture(scope="module")
def sqlite_connection(tmp_path_factory: pytest.TempPathFactory) -> Generator[sa.Connection]:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('bulk')}/things.db")
    with engine.connect() as connection:
        THINGS.create(connection)
        connection.commit()
        yield connection
    engine.dispose()


@given(before=things, after=things)
def test_all_at_once_is_as_one_by_one(
    sqlite_connection: sa.Connection,
    before: dict[str, tuple[str | None, int | None]],
    after: dict[str, tuple[str | None, int | None]],
) -> None:
    """Whatever the texts and numbers are, they are written, changed and found as they were told."""
    connection = sqlite_connection
    expected = {name: (*after.get(name, told), "new") for name, told in before.items()}
    with connection.begin_nested() as savepoint:
        put(connection, INSERT, [(name, *told) for name, told in before.items()])
        put(connection, CHANGE, [(*told, name) for name, told in after.items()])

        written = there(connection)
        found = find(connection, ALL, [*before, *after])
        savepoint.rollback()

    assert written == expected
    assert {name: tuple(values) for name, *values in found} == expected


@pytest.mark.parametrize("number", [1, 2, 7])
def test_rows_are_put_and_found_on_each_database(database: str, number: int) -> None:
    """One row, or many; what is not there is not found."""
    engine = open_engine(database)
    told = {f"thing {i}": (f"wörd {i}", i) for i in range(number)}
    with engine.begin() as connection:
        THINGS.create(connection)

        put(connection, INSERT, [(name, *values) for name, values in told.items()])
        put(connection, CHANGE, [(word, value + 1, name) for name, (word, value) in told.items()])
        put(connection, CHANGE, [])

        expected = {name: (word, value + 1, "new") for name, (word, value) in told.items()}
        assert there(connection) == expected
        assert {name: tuple(values) for name, *values in find(connection, ALL, [*told, "none"])} == expected
        assert not find(connection, ALL, [])
        THINGS.drop(connection)
    engine.dispose()


@pytest.mark.parametrize("number", [HIGHEST + 1, -HIGHEST - 2, 2**64, 2**70])
def test_a_number_that_no_column_holds_is_not_written_as_another(sqlite_connection: sa.Connection, number: int) -> None:
    """SQLite would take it for a fraction, and money would be lost."""
    with pytest.raises(OverflowError):
        put(sqlite_connection, INSERT, [(name, None, number) for name in "abcd"])
    sqlite_connection.rollback()


def test_two_of_one_name_are_refused(sqlite_connection: sa.Connection) -> None:
    """As one by one: nothing is passed over."""
    with pytest.raises(sqlite3.IntegrityError):
        put(sqlite_connection, INSERT, [(name, None, 1) for name in "abcda"])
    sqlite_connection.rollback()
