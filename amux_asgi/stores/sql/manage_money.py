"""The verbs for accounts in a database, and what they have in common with those for keys."""

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from amux_asgi import manage_checks as checked
from amux_asgi.errors import IdempotencyMismatchError, InvalidRequestError, NotFoundError
from amux_asgi.manage import USUAL, AccountInfo, AccountOrder, Credit, Entry, Page, ToppedUp, TopUp
from amux_asgi.stores.sql.ledger import Change
from amux_asgi.stores.sql.manage_history import read_history
from amux_asgi.stores.sql.operation import Task, Transaction
from amux_asgi.stores.sql.reads import Reads
from amux_asgi.stores.sql.reservations import MoneyOperation
from amux_asgi.stores.sql.schema import GRANTS, WALLETS
from amux_asgi.stores.sql.writer import PATIENCE, Writer
from amux_asgi.wallets import Wallet, account_wallet, credited, opened, topped_up

T = TypeVar("T")


class SqlAccounts:
    """Accounts in a database, while gateways use it."""

    def __init__(self, reads: Reads, writer: Writer, now: Callable[[], int]) -> None:
        """`now` is Unix time in milliseconds."""
        self._reads = reads
        self._writer = writer
        self._now = now

    async def create(self, order: AccountOrder) -> AccountInfo:
        """Open an account; one that was only metered so far begins anew, what it spent is forgiven."""
        wallet = account_wallet(checked.name(order.name))
        amount = checked.money(order.balance, "balance")
        return await self._once(
            partial(_open, wallet=wallet, amount=amount, credit=_credit(order.credit), at=self._now())
        )

    async def list(self, *, after: str | None = None, limit: int = USUAL) -> Page[AccountInfo]:
        """List accounts, ordered by their names."""
        after = account_wallet(checked.asked(after or "", "after"))
        asked = _LISTED.where(WALLETS.c.id > after).limit(checked.limit(limit) + 1)

        def read(connection: sa.Connection) -> list[AccountInfo]:
            return [account_of(row) for row in connection.execute(asked)]

        return page(await self._reads.run(read), limit, lambda info: info.name)

    async def show(self, name: str) -> AccountInfo:
        """Look one up."""
        return await self._reads.run(partial(_account, wallet=_known(name)))

    async def topup(self, name: str, topup: TopUp) -> ToppedUp:
        """Put money in, once for each id; an account without limit stays so."""
        wallet = _known(name)
        grant = fresh_id(wallet) if topup.id is None else f"{wallet}:{checked.grant_id(topup.id)}"
        amount = checked.change(topup.amount)
        note = checked.note(topup.note)
        return await self._once(partial(_top_up, wallet=wallet, grant=grant, amount=amount, note=note, at=self._now()))

    async def credit(self, name: str, credit: Credit) -> AccountInfo:
        """Change how far below zero it may go."""
        nano = _credit(credit.credit)
        note = "credit without limit" if nano is None else f"credit {checked.shown(nano)}"
        wallet = _known(name)
        return await self._changed(
            partial(_set_credit, wallet=wallet, credit=nano, note=note, grant=fresh_id(wallet), at=self._now())
        )

    async def history(self, name: str, *, before: str | None = None, limit: int = USUAL) -> Page[Entry]:
        """List what was put in and what was spent, newest first."""
        wallet = _known(name)
        checked.limit(limit)

        def read(connection: sa.Connection) -> Page[Entry]:
            _account(connection, wallet)
            return read_history(connection, name, before, limit)

        return await self._reads.run(read)

    async def _once(self, work: Callable[..., T]) -> T:
        """Do what is told by `again` whether an earlier try may have been committed without our knowing."""
        task: Task[T] = Task(lambda transaction: work(transaction, again=task.tried), self._writer.clock() + PATIENCE)
        return await self._writer.run(task)

    async def _changed(self, work: Callable[[Transaction], T]) -> T:
        return await self._writer.run(Task(work, self._writer.clock() + PATIENCE))


def fresh_id(wallet: str) -> str:
    """Name a change of a wallet that nobody will repeat."""
    return f"{wallet}:{secrets.token_hex(8)}"


def change(  # noqa: PLR0913, the facts of one row
    transaction: Transaction,
    grant: str,
    wallet: str,
    decide: Callable[[Wallet], Wallet],
    *,
    note: str,
    at: int,
    new: bool | None = None,
) -> int:
    """Change a wallet as a part of a larger transaction; tells by how much, now or when it counted before.

    Raises:
        GatewayError: it was decided otherwise, and nothing was written.
    """
    operation = Change(grant, wallet, decide, note=note, at=at, deadline=0, new=new)
    MoneyOperation.together(transaction, [operation])
    if operation.error is not None:
        raise operation.error
    return operation.result or 0


def page(rows: Sequence[T], limit: int, place: Callable[[T], str]) -> Page[T]:
    """Make a page of rows that were asked for with one more than it holds."""
    data = tuple(rows[:limit])
    return Page(data, place(data[-1]) if len(rows) > limit else None)


def sums(row: Any) -> dict[str, str]:  # noqa: ANN401, a row
    """Write the sums of a wallet."""
    return {
        "granted": checked.shown(row.granted),
        "available": checked.shown(row.available),
        "held": checked.shown(row.held),
        "spent": checked.shown(row.captured),
    }


def account_of(row: Any) -> AccountInfo:  # noqa: ANN401, a row
    """Read an account."""
    credit = None if row.credit is None else checked.shown(row.credit)
    return AccountInfo(name=row.id.removeprefix(account_wallet("")), credit=credit, **sums(row))


def _open(  # noqa: PLR0913, the facts of one row
    transaction: Transaction, wallet: str, *, amount: int, credit: int | None, at: int, again: bool
) -> AccountInfo:
    grant = f"opening:{wallet}"
    if _counted(transaction, wallet, grant, own=at if again else None):
        raise _there()
    change(transaction, grant, wallet, partial(_opened, amount=amount, credit=credit), note="opening balance", at=at)
    return _account(transaction.connection, wallet)


def _opened(wallet: Wallet, amount: int, credit: int | None) -> Wallet:
    if wallet.credit is not None:
        raise _there()
    return opened(wallet, amount, credit)


def _top_up(  # noqa: PLR0913, the facts of one row
    transaction: Transaction, wallet: str, grant: str, *, amount: int, note: str, at: int, again: bool
) -> ToppedUp:
    repeated = _counted(transaction, wallet, grant, own=at if again else None)
    counted = change(transaction, grant, wallet, partial(topped_up, amount=amount), note=note, at=at, new=False)
    if counted != amount:
        raise IdempotencyMismatchError(f"this id was used for a top-up of {checked.shown(counted)} already", param="id")
    return ToppedUp(repeated=repeated, account=_account(transaction.connection, wallet))


def _counted(transaction: Transaction, wallet: str, grant: str, own: int | None) -> bool:
    """Tell whether a change counted before; `own` is the time of one that is the caller's own earlier try."""
    connection = transaction.connection
    connection.execute(_WALLET.with_for_update(), {"wallet": wallet})  # so that nobody else decides meanwhile
    found = connection.execute(_GRANT, {"grant": grant}).first()
    return found is not None and found.at != own


def _set_credit(  # noqa: PLR0913, the facts of one row
    transaction: Transaction, wallet: str, grant: str, *, credit: int | None, note: str, at: int
) -> AccountInfo:
    change(transaction, grant, wallet, partial(credited, credit=credit), note=note, at=at, new=False)
    return _account(transaction.connection, wallet)


def _account(connection: sa.Connection, wallet: str) -> AccountInfo:
    found = connection.execute(_WALLET, {"wallet": wallet}).first()
    if found is None:
        raise _no_account()
    return account_of(found)


def _known(name: str) -> str:
    """Name the wallet of an account that may have been made elsewhere, under whatever name."""
    try:
        return account_wallet(checked.asked(name, "name"))
    except InvalidRequestError as exc:
        raise _no_account() from exc


def _credit(text: str | None) -> int | None:
    return None if text is None else checked.money(text, "credit")


def _no_account() -> NotFoundError:
    return NotFoundError("there is no such account", param="name")


def _there() -> InvalidRequestError:
    return InvalidRequestError("there is such an account already", param="name", code="already_exists")


_WALLET: Final = sa.select(WALLETS).where(WALLETS.c.id == sa.bindparam("wallet"))
_PREFIX: Final = account_wallet("")
_LISTED: Final = (
    sa.select(WALLETS).where(sa.func.substr(WALLETS.c.id, 1, len(_PREFIX)) == _PREFIX).order_by(WALLETS.c.id)
)
_GRANT: Final = sa.select(GRANTS).where(GRANTS.c.id == sa.bindparam("grant"))
