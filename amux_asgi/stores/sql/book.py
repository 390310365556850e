"""What one transaction knows of money, and what it writes: read at once, written at once."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.quota import Line, State, Wallet, unheard
from amux_asgi.stores.sql.engine import cursor_of, text_of
from amux_asgi.stores.sql.operation import Transaction
from amux_asgi.stores.sql.schema import ANSWERS, GRANTS, USAGE, WALLETS

Select = Any  # SQLAlchemy's, of any columns
Row = tuple[Any, ...]  # in the order of its statement below


class Asked(Struct, frozen=True):
    """What operations must know before they can be decided."""

    wallets: set[str]
    rows: list[str]
    grants: list[str]


class Book:
    """What one transaction knows, and what it will write: wallets and rows as they stand after each decision."""

    def __init__(self, owner: str, wallets: dict[str, Wallet], rows: dict[str, Line], grants: dict[str, int]) -> None:
        self.owner = owner
        self.wallets = wallets
        self.known: frozenset[str] = frozenset(wallets)
        self.rows = rows
        self.granted = grants
        self.changed: dict[str, Wallet] = {}
        self.begun: list[Row] = []
        self.earned: list[Row] = []
        self.ended: list[Row] = []
        self.grants: list[Row] = []
        self.answers: list[Row] = []
        self.withdrawn: list[Row] = []

    def of(self, names: Iterable[str]) -> tuple[Wallet, ...]:
        """Give wallets as they stand after what was decided so far."""
        return tuple([self.wallets.get(name) or unheard(name) for name in names])

    def change(self, wallets: Iterable[Wallet]) -> None:
        """Note wallets as they stand now."""
        for wallet in wallets:
            self.wallets[wallet.id] = self.changed[wallet.id] = wallet

    def earn(self, row: str, line: Line) -> None:
        """Note what a stream is worth now."""
        self.rows[row] = line
        self.earned.append((line.images, line.earned, row))


def read(transaction: Transaction, asked: Asked) -> Book:
    """Lock the wallets first: whoever has them is the only one to end a reservation that they pay for."""
    connection = transaction.connection
    wallets = _wallets(_find(connection, _LOCKED, sorted(asked.wallets)))
    found = _find(connection, _ROWS, asked.rows)
    rows = {name: Line(_STATES[state], *numbers) for name, state, *numbers in found}
    grants = {name: amount for name, amount in _find(connection, _GRANTED, asked.grants)}  # noqa: C416, rows
    return Book(transaction.owner, wallets, rows, grants)


def look_up(connection: sa.Connection, names: list[str]) -> dict[str, Wallet]:
    """Look wallets up, and lock nothing."""
    return _wallets(_find(connection, _FOUND, names))


def _find(connection: sa.Connection, question: Select, ids: list[str]) -> Sequence[Any]:
    """Find the rows with one of these ids; of as many as the next power of two, so that few texts serve any number."""
    if not ids:
        return ()
    size = 1 << (len(ids) - 1).bit_length()
    cursor = cursor_of(connection)
    cursor.execute(_asking(question, connection.dialect.name, size), (*ids, *ids[-1:] * (size - len(ids))))
    return cursor.fetchall()


@cache
def _asking(question: Select, dialect: str, size: int) -> str:
    column, mark = question.selected_columns[0], _MARKS[dialect]
    one = text_of(question.where(column.in_([sa.bindparam("id", type_=sa.Text)])), dialect, "id")
    return one.replace(f"({mark})", f"({', '.join([mark] * size)})")  # to compile each size takes a millisecond


def _wallets(found: Iterable[Any]) -> dict[str, Wallet]:
    return {
        name: Wallet(id=name, available=available, held=held, captured=captured, credit=credit)
        for name, available, held, captured, credit in found
    }


def write(connection: sa.Connection, book: Book) -> None:
    """Write what was decided. New wallets go in order, so that two who open the same ones do not block each other."""
    fresh = [_opened(wallet) for _, wallet in sorted(book.changed.items()) if wallet.id not in book.known]
    changed = [_changed(wallet) for wallet in book.changed.values() if wallet.id in book.known]
    cursor, dialect = cursor_of(connection), connection.dialect.name
    for statement, names, rows in (
        (_OPEN, _OPENED, fresh),
        (_CHANGE, _CHANGED, changed),
        (_BEGIN, _BEGUN, book.begun),
        (_EARN, _EARNED, book.earned),
        (_END, _ENDED, book.ended),
        (_GRANT, _GRANTS, book.grants),
        (_ANSWER, _ANSWERS, book.answers),
        (_WITHDRAW, _WITHDRAWN, book.withdrawn),
    ):
        if rows:
            cursor.executemany(text_of(statement, dialect, *names), rows)


def _opened(wallet: Wallet) -> Row:
    return wallet.id, wallet.available, wallet.held, wallet.captured, wallet.granted, wallet.credit


def _changed(wallet: Wallet) -> Row:
    return wallet.available, wallet.held, wallet.captured, wallet.granted, wallet.credit, wallet.id


def _told(names: Iterable[str]) -> dict[str, Any]:
    return {name: sa.bindparam(name) for name in names}


_FOUND: Final = sa.select(WALLETS.c.id, WALLETS.c.available, WALLETS.c.held, WALLETS.c.captured, WALLETS.c.credit)
_LOCKED: Final = _FOUND.order_by(WALLETS.c.id).with_for_update()
_ROWS: Final = sa.select(USAGE.c.id, USAGE.c.state, USAGE.c.amount, USAGE.c.charged, USAGE.c.earned, USAGE.c.images)
_GRANTED: Final = sa.select(GRANTS.c.id, GRANTS.c.amount)
_MARKS: Final = {"sqlite": "?", "postgresql": "%s::VARCHAR"}  # as SQLAlchemy writes a text that is told
_STATES: Final = {state.value: state for state in State}  # a call of `State` takes several times as long
_MONEY: Final = ("available", "held", "captured", "granted", "credit")
_OPENED: Final = ("wallet", *_MONEY)
_OPEN: Final = WALLETS.insert().values(id=sa.bindparam("wallet"), **_told(_MONEY))
_CHANGED: Final = (*_MONEY, "wallet")
_CHANGE: Final = WALLETS.update().where(WALLETS.c.id == sa.bindparam("wallet")).values(_told(_MONEY))
_BEGUN: Final = ("id", "owner", "account", "key", "budget", "amount", "model", "request_id", "begun")
_ZERO: Final = sa.literal_column("0", sa.Integer)
_BEGIN: Final = USAGE.insert().values(
    **_told(_BEGUN),
    state=sa.literal_column(f"'{State.HELD}'"),
    charged=_ZERO,
    images=_ZERO,
    input_tokens=_ZERO,
    output_tokens=_ZERO,
)
_EARNED: Final = ("images", "earned", "row")
_EARN: Final = USAGE.update().where(USAGE.c.id == sa.bindparam("row")).values(_told(_EARNED[:-1]))
_ENDED: Final = (
    "state",
    "charged",
    "cost",
    "channel",
    "attempts",
    "images",
    "input_tokens",
    "output_tokens",
    "ended",
    "row",
)
_END: Final = USAGE.update().where(USAGE.c.id == sa.bindparam("row")).values(_told(_ENDED[:-1]))
_GRANTS: Final = ("id", "wallet", "amount", "note", "at")
_GRANT: Final = GRANTS.insert().values(_told(_GRANTS))
_ANSWERS: Final = ("expires", "facts", "body", "name", "working")
_ANSWER: Final = (  # nothing, if this process was taken for dead and another one works on it now
    ANSWERS.update()
    .where(
        ANSWERS.c.claim == sa.bindparam("name"), ANSWERS.c.owner == sa.bindparam("working"), ANSWERS.c.body.is_(None)
    )
    .values(_told(_ANSWERS[:-2]))
)
_WITHDRAWN: Final = ("name", "expires")
_WITHDRAW: Final = ANSWERS.delete().where(  # this very answer, not the claim of whoever came next
    ANSWERS.c.claim == sa.bindparam("name"),
    ANSWERS.c.body.is_not(None),
    ANSWERS.c.expires == sa.bindparam("expires"),
)
