"""Reading beside the writer: connections of its own, in a few threads, which keep no one from writing."""

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from amux_asgi.errors import StorageUnavailableError
from amux_asgi.stores.sql.operation import AGAIN

T = TypeVar("T")
AT_ONCE: Final = 2  # so that reports leave connections to those who let requests in
PATIENCE: Final = 60  # seconds for one question


class Reads:
    """What is asked of a database while others write to it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Ask inside one transaction that only reads; waits for its end, also when cancelled.

        Raises:
            StorageUnavailableError: it gave no answer.
        """
        return await anyio.to_thread.run_sync(self._read, work, limiter=self._threads)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.connect().execution_options(reads=True) as connection, connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{PATIENCE}s'")
                return work(connection)
        except SQLAlchemyError as exc:
            raise StorageUnavailableError("the database cannot be read at present", retry_after=AGAIN) from exc
