"""What one transaction knows of money, and what it writes: read at once, written at once."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.quota import Line, State, Wallet, unheard
from amux_asgi.stores.sql.engine import text_of
from amux_asgi.stores.sql.operation import Transaction
from amux_asgi.stores.sql.schema import ANSWERS, GRANTS, USAGE, WALLETS

Select = Any  # SQLAlchemy's, of any columns


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
        self.begun: list[dict[str, Any]] = []
        self.earned: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.grants: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.withdrawn: list[dict[str, Any]] = []

    def of(self, names: Iterable[str]) -> tuple[Wallet, ...]:
        """Give wallets as they stand after what was decided so far."""
        return tuple(self.wallets.get(name) or unheard(name) for name in names)

    def change(self, wallets: Iterable[Wallet]) -> None:
        """Note wallets as they stand now."""
        for wallet in wallets:
            self.wallets[wallet.id] = self.changed[wallet.id] = wallet

    def earn(self, row: str, line: Line) -> None:
        """Note what a stream is worth now."""
        self.rows[row] = line
        self.earned.append({"row": row, "earned": line.earned, "images": line.images})


def read(transaction: Transaction, asked: Asked) -> Book:
    """Lock the wallets first: whoever has them is the only one to end a reservation that they pay for."""
    connection = transaction.connection
    wallets = _wallets(_find(connection, _LOCKED, sorted(asked.wallets)))
    found = _find(connection, _ROWS, asked.rows)
    rows = {name: Line(State(state), *numbers) for name, state, *numbers in found}
    grants = {name: amount for name, amount in _find(connection, _GRANTED, asked.grants)}  # noqa: C416, rows
    return Book(transaction.owner, wallets, rows, grants)


def look_up(connection: sa.Connection, names: Sequence[str]) -> dict[str, Wallet]:
    """Look wallets up, and lock nothing."""
    return _wallets(_find(connection, _FOUND, names))


def _find(connection: sa.Connection, question: Select, ids: Sequence[str]) -> Sequence[Any]:
    """Find the rows with one of these ids; of as many as the next power of two, so that few texts serve any number."""
    if not ids:
        return ()
    size = 1 << (len(ids) - 1).bit_length()
    told = dict(zip_longest(_names(size), ids, fillvalue=ids[-1]))
    return connection.exec_driver_sql(_asking(question, connection.dialect.name, size), told).all()


@cache
def _names(size: int) -> tuple[str, ...]:
    return tuple(f"id_{i}" for i in range(size))


@cache
def _asking(question: Select, dialect: str, size: int) -> str:
    column = question.selected_columns[0]
    return text_of(question.where(column.in_([sa.bindparam(name, type_=sa.Text) for name in _names(size)])), dialect)


def _wallets(found: Iterable[Any]) -> dict[str, Wallet]:
    return {
        name: Wallet(id=name, available=available, held=held, captured=captured, credit=credit)
        for name, available, held, captured, credit in found
    }


def write(connection: sa.Connection, book: Book) -> None:
    """Write what was decided. New wallets go in order, so that two who open the same ones do not block each other."""
    fresh = [_columns(wallet) for _, wallet in sorted(book.changed.items()) if wallet.id not in book.known]
    changed = [_columns(wallet) for wallet in book.changed.values() if wallet.id in book.known]
    for statement, rows in (
        (_OPEN, fresh),
        (_CHANGE, changed),
        (_BEGIN, book.begun),
        (_EARN, book.earned),
        (_END, book.ended),
        (_GRANT, book.grants),
        (_ANSWER, book.answers),
        (_WITHDRAW, book.withdrawn),
    ):
        if rows:
            connection.exec_driver_sql(text_of(statement, connection.dialect.name, *rows[0]), rows)


def _columns(wallet: Wallet) -> dict[str, Any]:
    return {
        "wallet": wallet.id,
        "available": wallet.available,
        "held": wallet.held,
        "captured": wallet.captured,
        "granted": wallet.granted,
        "credit": wallet.credit,
    }


_FOUND: Final = sa.select(WALLETS.c.id, WALLETS.c.available, WALLETS.c.held, WALLETS.c.captured, WALLETS.c.credit)
_LOCKED: Final = _FOUND.order_by(WALLETS.c.id).with_for_update()
_ROWS: Final = sa.select(USAGE.c.id, USAGE.c.state, USAGE.c.amount, USAGE.c.charged, USAGE.c.earned, USAGE.c.images)
_GRANTED: Final = sa.select(GRANTS.c.id, GRANTS.c.amount)
_MONEY: Final = {
    name: sa.bindparam(name, type_=sa.BigInteger) for name in ("available", "held", "captured", "granted", "credit")
}
_OPEN: Final = WALLETS.insert().values(id=sa.bindparam("wallet"), **_MONEY)
_CHANGE: Final = WALLETS.update().where(WALLETS.c.id == sa.bindparam("wallet")).values(**_MONEY)
_BEGIN: Final = USAGE.insert()
_EARN: Final = (
    USAGE.update()
    .where(USAGE.c.id == sa.bindparam("row"))
    .values({name: sa.bindparam(name) for name in ("earned", "images")})
)
_END: Final = (
    USAGE.update()
    .where(USAGE.c.id == sa.bindparam("row"))
    .values(
        {
            name: sa.bindparam(name)
            for name in (
                "state",
                "charged",
                "cost",
                "channel",
                "attempts",
                "images",
                "input_tokens",
                "output_tokens",
                "ended",
            )
        }
    )
)
_GRANT: Final = GRANTS.insert()
_ANSWER: Final = (  # nothing, if this process was taken for dead and another one works on it now
    ANSWERS.update()
    .where(
        ANSWERS.c.claim == sa.bindparam("name"), ANSWERS.c.owner == sa.bindparam("working"), ANSWERS.c.body.is_(None)
    )
    .values({name: sa.bindparam(name) for name in ("body", "facts", "expires")})
)
_WITHDRAW: Final = ANSWERS.delete().where(  # this very answer, not the claim of whoever came next
    ANSWERS.c.claim == sa.bindparam("name"),
    ANSWERS.c.body.is_not(None),
    ANSWERS.c.expires == sa.bindparam("expires"),
)
