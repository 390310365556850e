"""The verbs for keys in a database. Whoever changes keys has the revision's row, so that one change follows another."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from amux_asgi import manage_checks as checked
from amux_asgi.errors import InvalidRequestError, NotFoundError
from amux_asgi.keys import digest_of, make_key
from amux_asgi.manage import LONGEST_OVERLAP, USUAL, Budget, KeyChange, KeyInfo, KeyOrder, NewKey, Page, Roll
from amux_asgi.stores.sql.manage_money import change, fresh_id, page, sums
from amux_asgi.stores.sql.operation import Task, Transaction
from amux_asgi.stores.sql.reads import Reads
from amux_asgi.stores.sql.schema import KEYS, NUMBERS, WALLETS
from amux_asgi.stores.sql.writer import PATIENCE, Writer
from amux_asgi.wallets import account_wallet, budget_wallet, budgeted

T = TypeVar("T")
Row = dict[str, Any]


class SqlKeys:
    """Keys in a database, while gateways use it."""

    def __init__(self, reads: Reads, writer: Writer, now: Callable[[], int]) -> None:
        """`now` is Unix time in milliseconds."""
        self._reads = reads
        self._writer = writer
        self._now = now

    async def create(self, order: KeyOrder) -> NewKey:
        """Make a key; its name must be new."""
        now = self._now()
        key, row = _fresh(now)
        name = checked.name(order.name)
        row |= {
            "name": name,
            "account": name if order.account is None else checked.name(order.account, "account"),
            "models": _json(checked.some(order.models, "models")),
            "passthrough": _json(checked.globs(order.passthrough, "passthrough")),
            "networks": _json(checked.networks(order.networks)),
            "expires": _ends(order.expires),
            "budget": None if order.budget is None else row["id"],
        }
        _check_ahead(row["expires"], now)
        budget = None if order.budget is None else checked.money(order.budget, "budget")
        return await self._made(key, partial(_create, row=row, budget=budget))

    async def list(
        self, *, account: str | None = None, name: str | None = None, after: str | None = None, limit: int = USUAL
    ) -> Page[KeyInfo]:
        """List keys, ordered by their ids."""
        asked = _FOUND.where(KEYS.c.id > checked.asked(after or "", "after")).order_by(KEYS.c.id)
        asked = asked.limit(checked.limit(limit) + 1)
        if account is not None:
            asked = asked.where(KEYS.c.account == checked.asked(account, "account"))
        if name is not None:
            asked = asked.where(KEYS.c.name == checked.asked(name, "name"))
        now = self._now()

        def read(connection: sa.Connection) -> list[KeyInfo]:
            return [_info(row, now) for row in connection.execute(asked)]

        return page(await self._reads.run(read), limit, lambda info: info.id)

    async def show(self, key: str) -> KeyInfo:
        """Look one up by its id."""
        return await self._reads.run(partial(_show, key=key, now=self._now()))

    async def revoke(self, key: str) -> KeyInfo:
        """Let it count no more, for ever."""
        return await self._changed(partial(_revoke, key=key, now=self._now()))

    async def roll(self, key: str, roll: Roll) -> NewKey:
        """Replace it by another one that may do the same."""
        if not 0 <= roll.overlap <= LONGEST_OVERLAP:
            raise InvalidRequestError(f"'overlap' is from 0 to {LONGEST_OVERLAP} seconds", param="overlap")
        now = self._now()
        made, row = _fresh(now)
        if roll.expires is not UNSET:
            row["expires"] = _ends(roll.expires)
            _check_ahead(row["expires"], now)
        ends = now + round(roll.overlap * 1000)
        return await self._made(made, partial(_roll, key=key, fresh=row, ends=ends, now=now))

    async def allow(self, key: str, change: KeyChange) -> KeyInfo:
        """Change what it may do; a budget, for all keys of its name."""
        values: Row = {}
        if change.models is not UNSET:
            values["models"] = _json(checked.some(change.models, "models"))
        if change.passthrough is not UNSET:
            values["passthrough"] = _json(checked.globs(change.passthrough, "passthrough"))
        if change.networks is not UNSET:
            values["networks"] = _json(checked.networks(change.networks))
        if change.expires is not UNSET:
            values["expires"] = _ends(change.expires)
        budget = checked.money(change.budget, "budget") if isinstance(change.budget, str) else change.budget
        return await self._changed(partial(_allow, key=key, values=values, budget=budget, now=self._now()))

    async def _changed(self, work: Callable[[Transaction], T]) -> T:
        return await self._writer.run(Task(work, self._writer.clock() + PATIENCE))

    async def _made(self, key: str, work: Callable[[Transaction], tuple[KeyInfo, bool]]) -> NewKey:
        info, unlimited = await self._changed(work)
        return NewKey(key=key, unlimited=unlimited, info=info)


def _create(transaction: Transaction, row: Row, budget: int | None) -> tuple[KeyInfo, bool]:
    connection = transaction.connection
    _lock(connection)
    named = [found.id for found in _named(connection, row["name"])]
    if row["id"] not in named:  # otherwise an earlier try was committed
        if named:
            raise InvalidRequestError(
                f"the name is taken by the key {named[-1]}; it names whose use is whose, so choose another one, or "
                f"roll that key",
                param="name",
                code="already_exists",
            )
        if budget is not None:
            _set_budget(transaction, row["id"], budget, row["created"])
        connection.execute(KEYS.insert(), [row])
        _bump(connection)
    return _seen(connection, row["id"], row["created"])


def _roll(transaction: Transaction, key: str, fresh: Row, ends: int, now: int) -> tuple[KeyInfo, bool]:
    connection = transaction.connection
    _lock(connection)
    old = _row(connection, key)
    named = list(_named(connection, old.name))
    if fresh["id"] not in [found.id for found in named]:
        if not _counts(old, now):
            raise InvalidRequestError("the key counts no more, so it cannot be rolled; make another one", param="key")
        newest = next(found.id for found in reversed(named) if found.id == key or _counts(found, now))
        if newest != key:
            raise InvalidRequestError(f"the key was rolled already, to {newest}; roll that one", param="key")
        same = {
            name: getattr(old, name)
            for name in ("name", "account", "budget", "models", "passthrough", "networks", "expires")
        }
        connection.execute(KEYS.insert(), [{**same, **fresh, "created": max(now, old.created + 1)}])
        ends = ends if old.expires is None else min(ends, old.expires)
        connection.execute(KEYS.update().where(KEYS.c.id == key).values(expires=ends))
        _bump(connection)
    return _seen(connection, fresh["id"], now)


def _revoke(transaction: Transaction, key: str, now: int) -> KeyInfo:
    connection = transaction.connection
    _lock(connection)
    _row(connection, key)
    connection.execute(KEYS.update().where(KEYS.c.id == key).values(disabled=True))
    _bump(connection)
    return _show(connection, key, now)


def _allow(transaction: Transaction, key: str, values: Row, budget: Any, now: int) -> KeyInfo:  # noqa: ANN401, an integer, None or UNSET
    connection = transaction.connection
    _lock(connection)
    row = _row(connection, key)
    if budget is not UNSET:
        wallet = None
        if budget is not None:
            wallet = str(row.budget or next(iter(_named(connection, row.name))).id)  # of the name, whatever was rolled
            _set_budget(transaction, wallet, budget, now)
        connection.execute(KEYS.update().where(KEYS.c.name == row.name).values(budget=wallet))
    if values:
        connection.execute(KEYS.update().where(KEYS.c.id == key).values(values))
    _bump(connection)
    return _show(connection, key, now)


def _set_budget(transaction: Transaction, budget: str, total: int, now: int) -> None:
    wallet = budget_wallet(budget)
    change(transaction, fresh_id(wallet), wallet, partial(budgeted, total=total), note="budget", at=now)


def _lock(connection: sa.Connection) -> None:
    connection.execute(_REVISION)


def _bump(connection: sa.Connection) -> None:
    connection.execute(_BUMP)


def _named(connection: sa.Connection, name: str) -> Iterable[Any]:
    """List the keys of a name, the oldest first."""
    return connection.execute(_NAMED, {"name": name}).all()


def _row(connection: sa.Connection, key: str, asked: sa.Select[Any] | None = None) -> Any:  # noqa: ANN401, a row
    found = None
    if _ID.fullmatch(key):
        found = connection.execute((sa.select(KEYS) if asked is None else asked).where(KEYS.c.id == key)).first()
    if found is None:
        raise _no_key(connection, key)
    return found


def _no_key(connection: sa.Connection, key: str) -> NotFoundError:
    """Help whoever gives a key's name for its id."""
    same = [found.id for found in _named(connection, key)] if checked.is_name(key) else []
    hint = f"; keys of this name: {', '.join(same)}" if same else ""
    return NotFoundError(f"there is no key of this id{hint}", param="key")


def _show(connection: sa.Connection, key: str, now: int) -> KeyInfo:
    return _info(_row(connection, key, _FOUND), now)


def _seen(connection: sa.Connection, key: str, now: int) -> tuple[KeyInfo, bool]:
    """Give a key, and whether its account may spend without limit."""
    info = _show(connection, key, now)
    account = connection.execute(_CREDIT, {"wallet": account_wallet(info.account)}).first()
    return info, account is None or account.credit is None


def _fresh(now: int) -> tuple[str, Row]:
    key = make_key()
    row: Row = {
        "id": key.split("_")[1],
        "digest": digest_of(key),
        "last_four": key[-4:],
        "disabled": False,
        "created": now,
    }
    return key, row


def _counts(row: Any, now: int) -> bool:  # noqa: ANN401, a row
    return not row.disabled and (row.expires is None or row.expires > now)


def _info(row: Any, now: int) -> KeyInfo:  # noqa: ANN401, a row
    return KeyInfo(
        id=row.id,
        name=row.name,
        account=row.account,
        state="revoked" if row.disabled else "active" if _counts(row, now) else "expired",
        last_four=row.last_four,
        models=_texts(row.models),
        passthrough=_texts(row.passthrough) or (),
        networks=_texts(row.networks),
        budget=None if row.granted is None else Budget(**sums(row)),
        expires=None if row.expires is None else checked.time_of(row.expires),
        created=checked.time_of(row.created),
    )


def _ends(time: datetime | None) -> int | None:
    return None if time is None else checked.milliseconds(time, "expires")


def _check_ahead(expires: int | None, now: int) -> None:
    if expires is not None and expires <= now:
        raise InvalidRequestError("'expires' has passed already", param="expires")


def _json(texts: tuple[str, ...] | None) -> str | None:
    return None if texts is None else msgspec.json.encode(texts).decode()


def _texts(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else msgspec.json.decode(text, type=tuple[str, ...])


_ID: Final = re.compile("[A-Za-z0-9]{8}")
_FOUND: Final = sa.select(KEYS, WALLETS.c.granted, WALLETS.c.available, WALLETS.c.held, WALLETS.c.captured).join_from(
    KEYS, WALLETS, WALLETS.c.id == sa.literal(budget_wallet("")) + KEYS.c.budget, isouter=True
)
_NAMED: Final = sa.select(KEYS).where(KEYS.c.name == sa.bindparam("name")).order_by(KEYS.c.created, KEYS.c.id)
_CREDIT: Final = sa.select(WALLETS.c.credit).where(WALLETS.c.id == sa.bindparam("wallet"))
_REVISION: Final = sa.select(NUMBERS.c.value).where(NUMBERS.c.name == "revision").with_for_update()
_BUMP: Final = NUMBERS.update().where(NUMBERS.c.name == "revision").values(value=NUMBERS.c.value + 1)
