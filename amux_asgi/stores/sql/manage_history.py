"""What was put into an account and what was spent, newest first, page by page."""

from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi import manage_checks as checked
from amux_asgi.errors import InvalidRequestError
from amux_asgi.manage import Entry, Page
from amux_asgi.stores.sql.schema import GRANTS, USAGE
from amux_asgi.wallets import account_wallet

GRANT: Final = "grant"
KIND_USAGE: Final = "usage"
FAR: Final = 2**62  # milliseconds; after everything
LONGEST_ID: Final = 300  # characters; a grant's holds its account's name and the caller's own id


class Place(Struct, frozen=True):
    """Where a page ended: among rows of one time grants come first, and within a kind the database's own order."""

    at: int
    kind: str
    id: str


def read_history(connection: sa.Connection, account: str, before: str | None, limit: int) -> Page[Entry]:
    """Read one page.

    Raises:
        InvalidRequestError: `before` is not where a page ended.
    """
    place = Place(FAR, GRANT, "") if before is None else _place(before)
    grants = connection.execute(_grants(account_wallet(account), place).limit(limit + 1)).all()
    uses = connection.execute(_uses(account, place).limit(limit + 1)).all()
    rows = [(row.at, GRANT, row) for row in grants] + [(row.begun, KIND_USAGE, row) for row in uses]
    rows.sort(key=lambda row: (-row[0], row[1]))  # stable: the order that the database gave stays
    data = tuple(_entry(kind, row) for _, kind, row in rows[:limit])
    if len(rows) <= limit:
        return Page(data)
    at, kind, last = rows[limit - 1]
    return Page(data, f"{at}.{kind}.{last.id}")


def _place(text: str) -> Place:
    at, _, rest = text.partition(".")
    kind, _, last = rest.partition(".")
    if not (at.isascii() and at.isdecimal() and len(at) < len(str(FAR)) and kind in (GRANT, KIND_USAGE)):
        raise InvalidRequestError("'before' is not what the page before gave as 'next'", param="before")
    return Place(int(at), kind, checked.asked(last, "before", longest=LONGEST_ID))


def _grants(wallet: str, place: Place) -> sa.Select[Any]:
    after = GRANTS.c.at < place.at
    if place.kind == GRANT:
        after |= (GRANTS.c.at == place.at) & (GRANTS.c.id < place.id)
    return sa.select(GRANTS).where(GRANTS.c.wallet == wallet, after).order_by(GRANTS.c.at.desc(), GRANTS.c.id.desc())


def _uses(account: str, place: Place) -> sa.Select[Any]:
    if place.kind == GRANT:
        after = USAGE.c.begun <= place.at
    else:
        after = (USAGE.c.begun < place.at) | ((USAGE.c.begun == place.at) & (USAGE.c.id < place.id))
    return sa.select(USAGE).where(USAGE.c.account == account, after).order_by(USAGE.c.begun.desc(), USAGE.c.id.desc())


def _entry(kind: str, row: Any) -> Entry:  # noqa: ANN401, a row of either kind
    if kind == GRANT:
        return Entry(
            at=checked.time_of(row.at),
            kind="grant",
            id=row.id.removeprefix(f"{row.wallet}:"),
            amount=checked.shown(row.amount),
            note=row.note,
        )
    return Entry(
        at=checked.time_of(row.begun),
        kind="usage",
        id=row.id,
        amount=checked.shown(-row.charged),
        state=row.state,
        held=checked.shown(row.amount) if row.state == "held" else None,
        key=row.key,
        model=row.model,
        channel=row.channel,
        images=row.images,
        request_id=row.request_id,
    )
