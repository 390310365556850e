"""Many rows by one statement: to SQLite they go, and from it they come, as one JSON text.

For each row that it takes or gives one by one, the driver lets go of Python's lock. The event loop, if it is busy on
another core, then has it for a while, and all that waits for the end of the transaction waits for that.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.stores.sql.engine import cursor_of, text_of

Select = Any  # SQLAlchemy's, of any columns
Row = tuple[Any, ...]  # in the order of its statement's names
MANY: Final = 4  # rows; for fewer, to write and to read JSON takes SQLite longer than to run a statement for each
AS_JSON: Final = sqlite3.sqlite_version_info >= (3, 38)  # which has JSON always, and can update from it


class Statement(Struct, frozen=True):
    """What writes rows: by their `names` one after the other, and, where rows may be JSON, all at once."""

    one: sa.ClauseElement
    names: tuple[str, ...]
    many: sa.ClauseElement | None = None


def inserting(table: sa.Table, names: tuple[str, ...], **fixed: sa.ColumnElement[Any]) -> Statement:
    """Insert rows of these columns; the `fixed` ones are the same in each."""
    many = sa.select(*_fields(len(names)), *fixed.values()).select_from(_EACH)
    return Statement(
        table.insert().values(**told(names), **fixed), names, table.insert().from_select([*names, *fixed], many)
    )


def updating(table: sa.Table, names: tuple[str, ...]) -> Statement:
    """Set these columns; the last name is told what the row's `id` is. No row may be there twice."""
    *fields, row = _fields(len(names))
    columns = names[:-1]
    return Statement(
        table.update().where(table.c.id == sa.bindparam(names[-1])).values(told(columns)),
        names,
        table.update().where(table.c.id == row).values(dict(zip(columns, fields, strict=True))),
    )


def put(connection: sa.Connection, statement: Statement, rows: Sequence[Row]) -> None:
    """Write rows, if there are any."""
    if not rows:
        return
    cursor, dialect = cursor_of(connection), connection.dialect.name
    if statement.many is not None and (text := _json(rows, dialect)):
        cursor.execute(text_of(statement.many, dialect, "rows"), (text,))
    else:
        cursor.executemany(text_of(statement.one, dialect, *statement.names), rows)


def find(connection: sa.Connection, question: Select, ids: list[str]) -> Sequence[Any]:
    """Find the rows whose first column is one of these."""
    if not ids:
        return ()
    cursor, dialect = cursor_of(connection), connection.dialect.name
    if text := _json(ids, dialect):
        cursor.execute(text_of(_together(question), dialect, "rows"), (text,))
        return msgspec.json.decode(cursor.fetchone()[0])
    size = 1 << (len(ids) - 1).bit_length()  # of as many as the next power of two, so that few texts serve any number
    cursor.execute(_asking(question, dialect, size), (*ids, *ids[-1:] * (size - len(ids))))
    return cursor.fetchall()


def write_down(dialect: str, statements: Iterable[Statement], questions: Iterable[Select]) -> None:
    """Have the texts ready, which take milliseconds, before the first row has to wait for one."""
    for statement in statements:
        text_of(statement.one, dialect, *statement.names)
        if statement.many is not None and _takes_json(dialect):
            text_of(statement.many, dialect, "rows")
    for question in questions:
        if _takes_json(dialect):
            text_of(_together(question), dialect, "rows")


def told(names: Sequence[str]) -> dict[str, Any]:
    """Have columns be what is told under their own names."""
    return {name: sa.bindparam(name) for name in names}


def _takes_json(dialect: str) -> bool:
    return AS_JSON and dialect == "sqlite"


def _json(rows: Sequence[Row] | list[str], dialect: str) -> str | None:
    """Write many for SQLite, unless it would read something else: numbers beyond its integers, or a text with a NUL."""
    if len(rows) < MANY or not _takes_json(dialect):
        return None
    text = _encode(rows)
    return None if _NUL in text or _LARGE.search(text) else text.decode()


def _fields(number: int) -> list[Any]:
    return [sa.func.json_extract(_EACH.c.value, sa.literal_column(f"'$[{i}]'")) for i in range(number)]


@cache
def _together(question: Select) -> Select:
    """Ask for all rows at once; in whatever order, as who asks for several knows them apart."""
    columns = list(question.selected_columns)
    return sa.select(sa.func.json_group_array(sa.func.json_array(*columns))).where(
        columns[0].in_(sa.select(_EACH.c.value))
    )


@cache
def _asking(question: Select, dialect: str, size: int) -> str:
    column, mark = question.selected_columns[0], _MARKS[dialect]
    one = text_of(question.where(column.in_([sa.bindparam("id", type_=sa.Text)])), dialect, "id")
    return one.replace(f"({mark})", f"({', '.join([mark] * size)})")  # to compile each size takes a millisecond


_MARKS: Final = {"sqlite": "?", "postgresql": "%s::VARCHAR"}  # as SQLAlchemy writes a text that is told
_EACH: Final = sa.func.json_each(sa.bindparam("rows")).table_valued("value", name="each_row")
_encode: Final = msgspec.json.Encoder().encode
_NUL: Final = b"\\u0000"
_LARGE: Final = re.compile(rb"[\[,]-?\d{19}")
