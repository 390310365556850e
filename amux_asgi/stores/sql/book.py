"""What one transaction knows of money, and what it writes: read at once, written at once."""

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.reservation import Line, State
from amux_asgi.stores.sql.bulk import Row, Statement, find, inserting, put, told, updating, write_down
from amux_asgi.stores.sql.operation import Transaction
from amux_asgi.stores.sql.schema import ANSWERS, GRANTS, USAGE, WALLETS
from amux_asgi.wallets import Wallet, unheard


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
        self.earned: dict[str, Row] = {}  # by the row, as the last word counts
        self.ended: dict[str, Row] = {}
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
        self.earned[row] = (line.images, line.earned, row)


def read(transaction: Transaction, asked: Asked) -> Book:
    """Lock the wallets first: whoever has them is the only one to end a reservation that they pay for."""
    connection = transaction.connection
    wallets = _wallets(find(connection, _LOCKED, sorted(asked.wallets)))
    found = find(connection, _ROWS, asked.rows)
    rows = {name: Line(_STATES[state], *numbers) for name, state, *numbers in found}
    grants = {name: amount for name, amount in find(connection, _GRANTED, asked.grants)}  # noqa: C416, rows
    return Book(transaction.owner, wallets, rows, grants)


def look_up(connection: sa.Connection, names: list[str]) -> dict[str, Wallet]:
    """Look wallets up, and lock nothing."""
    return _wallets(find(connection, _FOUND, names))


def _wallets(found: Iterable[Any]) -> dict[str, Wallet]:
    return {
        name: Wallet(id=name, available=available, held=held, captured=captured, credit=credit)
        for name, available, held, captured, credit in found
    }


def write(connection: sa.Connection, book: Book) -> None:
    """Write what was decided. New wallets go in order, so that two who open the same ones do not block each other."""
    fresh = [_opened(wallet) for _, wallet in sorted(book.changed.items()) if wallet.id not in book.known]
    changed = [_changed(wallet) for wallet in book.changed.values() if wallet.id in book.known]
    put(connection, _OPEN, fresh)
    put(connection, _CHANGE, changed)
    put(connection, _BEGIN, book.begun)
    put(connection, _EARN, [*book.earned.values()])
    put(connection, _END, [*book.ended.values()])
    put(connection, _GRANT, book.grants)
    put(connection, _ANSWER, book.answers)
    put(connection, _WITHDRAW, book.withdrawn)


def get_ready(dialect: str) -> None:
    """Have the texts of all statements for a database."""
    statements = (_OPEN, _CHANGE, _BEGIN, _EARN, _END, _GRANT, _ANSWER, _WITHDRAW)
    write_down(dialect, statements, (_LOCKED, _ROWS, _GRANTED))


def _opened(wallet: Wallet) -> Row:
    return wallet.id, wallet.available, wallet.held, wallet.captured, wallet.granted, wallet.credit


def _changed(wallet: Wallet) -> Row:
    return wallet.available, wallet.held, wallet.captured, wallet.granted, wallet.credit, wallet.id


_FOUND: Final = sa.select(WALLETS.c.id, WALLETS.c.available, WALLETS.c.held, WALLETS.c.captured, WALLETS.c.credit)
_LOCKED: Final = _FOUND.order_by(WALLETS.c.id).with_for_update()
_ROWS: Final = sa.select(USAGE.c.id, USAGE.c.state, USAGE.c.amount, USAGE.c.charged, USAGE.c.earned, USAGE.c.images)
_GRANTED: Final = sa.select(GRANTS.c.id, GRANTS.c.amount)
_STATES: Final = {state.value: state for state in State}  # a call of `State` takes several times as long
_MONEY: Final = ("available", "held", "captured", "granted", "credit")
_OPEN: Final = inserting(WALLETS, ("id", *_MONEY))
_CHANGE: Final = updating(WALLETS, (*_MONEY, "wallet"))
_ZERO: Final = sa.literal_column("0", sa.Integer)
_BEGIN: Final = inserting(
    USAGE,
    ("id", "owner", "account", "key", "budget", "amount", "model", "request_id", "begun"),
    state=sa.literal_column(f"'{State.HELD}'"),
    charged=_ZERO,
    images=_ZERO,
    input_tokens=_ZERO,
    output_tokens=_ZERO,
)
_EARN: Final = updating(USAGE, ("images", "earned", "row"))
_END: Final = updating(
    USAGE,
    (
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
    ),
)
_GRANT: Final = inserting(GRANTS, ("id", "wallet", "amount", "note", "at"))
_ANSWERS: Final = ("expires", "facts", "body", "name", "working")
_ANSWER: Final = Statement(  # nothing, if this process was taken for dead and another one works on it now
    ANSWERS.update()
    .where(
        ANSWERS.c.claim == sa.bindparam("name"), ANSWERS.c.owner == sa.bindparam("working"), ANSWERS.c.body.is_(None)
    )
    .values(told(_ANSWERS[:-2])),
    _ANSWERS,
)
_WITHDRAW: Final = Statement(  # this very answer, not the claim of whoever came next
    ANSWERS.delete().where(
        ANSWERS.c.claim == sa.bindparam("name"),
        ANSWERS.c.body.is_not(None),
        ANSWERS.c.expires == sa.bindparam("expires"),
    ),
    ("name", "expires"),
)
