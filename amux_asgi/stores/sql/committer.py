"""Batches of operations, each done in one transaction under the name that this process has among others."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from amux_asgi.stores.sql.engine import DriverErrors, ask, file_of, is_conflict
from amux_asgi.stores.sql.operation import Operation, Task, Transaction
from amux_asgi.stores.sql.schema import OWNERS

Batch = list[Operation[Any]]
CONFLICTS: Final = 3  # repetitions of one batch at once


class Committer:
    """The connection of one thread that writes; `check` is called before each commit, and prevents it by raising."""

    def __init__(self, engine: sa.Engine, check: Callable[[], None]) -> None:
        self.owner: str = _fresh_owner()
        self._engine = engine
        self._check = check
        self._file = file_of(engine.url)
        self._opened: tuple[int, int] | None = None  # the file that the connection is to
        self._connection: sa.Connection | None = None

    def attempt(self, batch: Batch, join: Callable[[Batch], None]) -> Exception | None:
        """Try to commit; give what came between. `join` adds what may come along, once it is this process's turn."""
        failure: Exception | None = None
        for _ in range(1 + CONFLICTS):
            try:
                self._commit(batch, join)
            except Exception as exc:  # noqa: BLE001, sorted by the caller; the thread must live
                failure = exc
                if not is_conflict(exc):
                    self.close()  # only after a mere conflict it is good for more
                    break
            else:
                return None
        return failure

    def close(self) -> None:
        """Close the connection; the next try makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):  # it may be broken
                connection.invalidate()
                connection.close()

    def _commit(self, batch: Batch, join: Callable[[Batch], None]) -> None:
        """Do it all in one transaction. Nothing in it waits longer than the engine lets it."""
        connection = self._connected()
        with DriverErrors(connection), connection.begin():
            join(batch)
            transaction = Transaction(connection, self._name(connection))
            kinds: dict[Callable[..., None], list[Operation[Any]]] = {}
            for operation in batch:
                operation.error = None
                kinds.setdefault(operation.together, []).append(operation)
            # Tasks come last, so that they see what was put before them, and find the wallets locked in order.
            tasks = kinds.pop(Task.together, ())
            for together, operations in kinds.items():
                together(transaction, operations)
            Task.together(transaction, tasks)
            for operation in batch:
                operation.tried = True
            self._check()

    def _connected(self) -> sa.Connection:
        """Give the connection; one to a file that is gone or was replaced is none, and makes no empty one."""
        if self._file is not None:
            told = self._file.stat()
            if (told.st_dev, told.st_ino) != self._opened:
                self.close()
                self._opened = (told.st_dev, told.st_ino)
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _name(self, connection: sa.Connection) -> str:
        """Give the name that this process has, and let nobody take it for dead meanwhile.

        Whom another one took for dead goes on under a new name. That is kept whatever becomes of the commit: if it is
        unknown, the next transaction finds out.
        """
        if not ask(connection, _ALIVE, owner=self.owner):
            self.owner = _fresh_owner()
            connection.execute(_BIRTH, {"id": self.owner, "beats": 1, "dead": False})
        return self.owner


def _fresh_owner() -> str:
    """Name a process so that no other one ever has the name."""
    return secrets.token_hex(8)


_ALIVE: Final = (  # locked: whoever would take it for dead passes it by, or this waits and finds it dead
    sa.select(OWNERS.c.id).where(OWNERS.c.id == sa.bindparam("owner"), OWNERS.c.dead.is_(False)).with_for_update()
)
_BIRTH: Final = OWNERS.insert()
