"""`amux-asgi usage`: what was used, as a table, as JSON, or as CSV for whatever reads tables."""

import csv
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from msgspec import UNSET

from amux_asgi import manage_checks as checked
from amux_asgi.commands_base import ConfigOption, DatabaseOption, JsonOption, run, show_json, show_table, where
from amux_asgi.manage import UsageQuery, UsageRow
from amux_asgi.manage_checks import GROUPS

SUMS: Final = tuple(name for name in UsageRow.__struct_fields__ if name not in GROUPS)


def usage(  # noqa: PLR0913, the options of a command
    by: Annotated[str, typer.Option(help=f"What to add up by: some of {', '.join(GROUPS)}.")] = "key,model,day",
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only that of keys of this name.")] = None,
    since: Annotated[str | None, typer.Option(help="From this date of UTC on, or this time with its offset.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this one.")] = None,
    *,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer with CSV.")] = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Add up what was used: requests, pictures, tokens, what was charged and what vendors took."""
    query = UsageQuery(
        by=checked.groups(by),
        account=account,
        key=key,
        since=None if since is None else checked.moment(since, "since"),
        until=None if until is None else checked.moment(until, "until"),
    )
    rows = run(where(config, database), lambda manager: manager.usage(query))
    columns = [*query.by, *SUMS]
    if as_json:
        show_json(rows)
    elif as_csv:
        _write_csv(columns, rows)
    else:
        show_table(columns, [_cells(row, columns) for row in rows], right=SUMS)


def _write_csv(columns: Sequence[str], rows: Sequence[UsageRow]) -> None:
    """Write plain numbers, dates as 2026-11-24, and nothing where nothing is known."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_cells(row, columns) for row in rows)


def _cells(row: UsageRow, columns: Sequence[str]) -> list[Any]:
    return [None if (value := getattr(row, name)) is UNSET else value for name in columns]
