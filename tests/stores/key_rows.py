"""API keys as rows, written by plain SQL as by another process, and a store of keys whose work a test does itself."""

import string
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import sqlalchemy as sa
from sqlalchemy import event

from amux_asgi.errors import GatewayError
from amux_asgi.keys import Principal, digest_of, key_id_of, make_key
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.stores.sql.keys import SqlKeys
from amux_asgi.stores.sql.schema import KEYS

PEER = "192.0.2.7"
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Rows:
    """The table of keys, changed by somebody else."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        prepare(self.engine)

    def make(self, **columns: Any) -> str:
        """Make a key, and give it."""
        return self.many(1, **columns)[0]

    def many(self, count: int, **columns: Any) -> list[str]:
        """Make keys that are alike."""
        keys = [make_key() for _ in range(count)]
        self.change(KEYS.insert(), [_row(key, columns) for key in keys])
        return keys

    def revoke(self, key: str) -> None:
        """Disable a key."""
        self.change(sa.text("UPDATE keys SET disabled = true WHERE id = :id"), {"id": key_id_of(key)})

    def disabled(self) -> dict[str, bool]:
        """Tell of each id whether its key is disabled."""
        with self.engine.connect() as connection:
            return {row.id: bool(row.disabled) for row in connection.execute(sa.text("SELECT id, disabled FROM keys"))}

    def change(self, statement: sa.Executable, values: Any) -> None:
        """Commit a change of keys, with the revision."""
        self.engine.dispose()  # its connections may have been cut
        with self.engine.begin() as connection:
            connection.execute(statement, values)
            connection.execute(sa.text("UPDATE numbers SET value = value + 1 WHERE name = 'revision'"))


class Store:
    """A store of keys whose clocks stand, whose thread does not run, and whose statements are counted."""

    def __init__(self, url: str, patience: float) -> None:
        self.clock = 1000.0
        self.now = 1_700_000_000_000
        self.statements: list[str] = []
        engine = open_engine(url)
        event.listen(engine, "before_cursor_execute", self._note)
        self.keys = SqlKeys(engine, clock=lambda: self.clock, now=lambda: self.now, patience=patience)

    def _note(self, *told: Any) -> None:
        self.statements.append(f"{told[2]} {told[3]}")

    def look(self) -> None:
        """Do what the thread does every half second."""
        self.keys.look_ups.turn(0)

    def at_once(self, key: str, peer: str | None = PEER) -> Principal:
        """Show a key that needs no waiting for anything."""
        try:
            self.keys.authenticate(key, peer).send(None)
        except StopIteration as done:
            principal: Principal = done.value
            return principal
        raise AssertionError("it waits")

    async def show(self, *keys: str, peers: Sequence[str | None] = (PEER,)) -> list[str]:
        """Show keys at the same time, each from the next of the peers; tell for each its account, or the refusal."""
        begun: list[str] = []
        ends: dict[int, str] = {}

        async def one(i: int, key: str) -> None:
            begun.append(key)  # and by the next turn of the loop it waits, or has its end
            try:
                ends[i] = (await self.keys.authenticate(key, peers[i % len(peers)])).account
            except GatewayError as error:
                ends[i] = error.code

        async with anyio.create_task_group() as tasks:
            for i, key in enumerate(keys):
                tasks.start_soon(one, i, key)
            while len(begun) < len(keys):
                await anyio.lowlevel.checkpoint()
            while len(ends) < len(keys):
                self.look()
                await anyio.lowlevel.checkpoint()
        return [ends[i] for i in range(len(keys))]


@contextmanager
def opened(url: str, *, patience: float = 10) -> Generator[tuple[Rows, Store]]:
    """Give both while entered; the store's clients have so many seconds of patience."""
    rows = Rows(url)
    store = Store(url, patience)
    try:
        yield rows, store
    finally:
        store.keys.look_ups.close()
        rows.engine.dispose()


def _row(key: str, columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": key_id_of(key),
        "digest": digest_of(key),
        "last_four": key[41:45],
        "name": "team-a",
        "account": "team",
        "passthrough": "[]",
        "disabled": False,
        "created": 1,
        **columns,
    }


def same_id(key: str) -> str:
    """Give another key with the same id."""
    return with_checksum(key[:13] + make_key()[13:45])


def with_checksum(body: str) -> str:
    """Complete a key as `make_key` does."""
    checksum = ""
    number = zlib.crc32(body.encode())
    for _ in range(6):
        number, digit = divmod(number, len(DIGITS))
        checksum = DIGITS[digit] + checksum
    return f"{body}_{checksum}"
