"""What was used, added up: by key, account, model, channel and day."""

from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from amux_asgi import manage_checks as checked
from amux_asgi.errors import InvalidRequestError
from amux_asgi.manage import UsageQuery, UsageRow
from amux_asgi.reservation import State
from amux_asgi.stores.sql.schema import USAGE

MOST: Final = 100_000  # rows of one report
DAY: Final = 86_400_000  # milliseconds


def report(connection: sa.Connection, query: UsageQuery) -> tuple[UsageRow, ...]:
    """Add up.

    Raises:
        InvalidRequestError: this would be too many rows.
    """
    groups = {name: _GROUPS[name] for name in dict.fromkeys(query.by)}
    columns = [group.label(name) for name, group in groups.items()]
    asked = (
        sa.select(*columns, *_SUMS).where(*_where(query)).group_by(*groups.values()).order_by(*groups.values())
    ).limit(MOST + 1)
    rows = connection.execute(asked).all()
    if len(rows) > MOST:
        raise InvalidRequestError(f"this would be more than {MOST} rows; ask for less time, or by fewer things")
    return tuple(_row(row, groups) for row in rows if row.requests)


def _where(query: UsageQuery) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query.account is not None:
        conditions.append(USAGE.c.account == checked.asked(query.account, "account"))
    if query.key is not None:
        conditions.append(USAGE.c.key == checked.asked(query.key, "key"))
    if query.since is not None:
        conditions.append(USAGE.c.begun >= checked.milliseconds(query.since, "since"))
    if query.until is not None:
        conditions.append(USAGE.c.begun < checked.milliseconds(query.until, "until"))
    return conditions


def _row(row: Any, groups: dict[str, Any]) -> UsageRow:  # noqa: ANN401, a row
    fields: dict[str, Any] = {name: getattr(row, name) for name in groups}
    if "day" in fields:
        fields["day"] = (checked.EPOCH + timedelta(days=int(fields["day"]))).date().isoformat()
    fields.update((name, int(getattr(row, name))) for name in _COUNTS)
    return UsageRow(**fields, charged=checked.shown(int(row.charged)), cost=checked.shown(int(row.cost)))


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _sum(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


_GROUPS: Final[dict[str, sa.ColumnElement[Any]]] = {
    "account": USAGE.c.account,
    "key": USAGE.c.key,
    "model": USAGE.c.model,
    "channel": USAGE.c.channel,
    # Literally, so that PostgreSQL sees the same expression where it is selected and where it is grouped by.
    "day": USAGE.c.begun.op("/")(sa.literal_column(str(DAY))),
}
_COUNTS: Final = ("requests", "failed", "running", "images", "input_tokens", "output_tokens", "unknown_costs")
_HELD: Final = USAGE.c.state == State.HELD.value
_SUMS: Final = (
    sa.func.count().label("requests"),
    _count(USAGE.c.state.in_([State.RELEASED.value, State.SWEPT.value])).label("failed"),
    _count(_HELD).label("running"),
    _sum(USAGE.c.images).label("images"),
    _sum(USAGE.c.input_tokens).label("input_tokens"),
    _sum(USAGE.c.output_tokens).label("output_tokens"),
    _sum(USAGE.c.charged).label("charged"),
    _sum(USAGE.c.cost).label("cost"),
    _count(~_HELD & USAGE.c.cost.is_(None)).label("unknown_costs"),
)
