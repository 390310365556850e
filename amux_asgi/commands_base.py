"""What the commands for a database share: where it is, and how its answers are shown."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar, cast

import anyio
import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from amux_asgi.app import CONFIG_VARIABLE
from amux_asgi.config import load
from amux_asgi.database import Database
from amux_asgi.errors import ConfigError
from amux_asgi.manage import Manager

T = TypeVar("T")
DATABASE_VARIABLE: Final = "AMUX_DATABASE"
WIDE: Final = 1000  # columns where nobody looks, so that no line is broken

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help=f"The configuration that names the database; or {CONFIG_VARIABLE}."),
]
DatabaseOption = Annotated[str | None, typer.Option("--database", help=f"Its URL; or {DATABASE_VARIABLE}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


class Where(Struct, frozen=True):
    """A database, and the names of the keys that stand in the configuration beside it."""

    url: str
    fixed_keys: frozenset[str] = frozenset()


def where(config: Path | None, database: str | None) -> Where:
    """Find the database: what an option says counts before a variable.

    Raises:
        ConfigError: nobody says where it is.
    """
    if config is None and database is None:
        database = os.environ.get(DATABASE_VARIABLE)
        named = os.environ.get(CONFIG_VARIABLE)
        config = Path(named) if database is None and named is not None else None
    told = Where("") if config is None else _configured(config)
    url = told.url if database is None else database
    if not url:
        raise ConfigError(
            f"say where the database is: --database URL, --config FILE, or the variable {DATABASE_VARIABLE} or "
            f"{CONFIG_VARIABLE}"
        )
    return Where(url, told.fixed_keys)


def run(place: Where, work: Callable[[Manager], Awaitable[T]]) -> T:
    """Open the database, work on it, and close it.

    Raises:
        ConfigError: it cannot be used.
        GatewayError: the work is refused.
    """
    database = Database(place.url)
    file = Path(place.url.removeprefix("sqlite:///").partition("?")[0])
    fresh = place.url.startswith("sqlite:///") and not file.exists()

    async def opened() -> T:
        async with database.opened() as stores:
            if fresh:
                tell(f"made a new database: {file}")
            return await work(stores.manage)

    return anyio.run(opened)


def tell(text: str) -> None:
    """Say something to the person, beside what scripts read."""
    sys.stderr.write(f"{text}\n")


def show_json(answer: object) -> None:
    """Print an answer for programs."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a table; `right` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(told(cell) for cell in row))
    _console().print(table)


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print one thing, a line for each of its fields."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in fields:
        table.add_row(f"{name}:", told(value))
    _console().print(table)


def told(value: object) -> str:
    """Write a value for people."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", value)))
    return "-" if value is None else str(value)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


def _configured(file: Path) -> Where:
    """Read where a configuration's database is; the credentials of vendors may be missing here."""
    read = load(file, _Unset(os.environ))
    url = read.gateway.database
    if url is not None and _Unset.MARK in url:
        url = load(file).gateway.database  # says which variable is missing
    if url is None:
        raise ConfigError(f"{file}: [gateway.database] there is none, so keys and accounts are not kept; name one")
    return Where(url, frozenset(key.name for key in read.keys))


class _Unset(dict[str, str]):
    """An environment in which every variable is set."""

    MARK: Final = "unset-variable-"

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return f"{self.MARK}{name}"
