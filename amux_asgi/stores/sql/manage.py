"""All that an operator does to a database, while gateways use it: what is written goes through the one writer."""

from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from amux_asgi.manage import UsageQuery, UsageRow
from amux_asgi.stores.sql.manage_keys import SqlKeys
from amux_asgi.stores.sql.manage_money import SqlAccounts
from amux_asgi.stores.sql.manage_usage import report
from amux_asgi.stores.sql.reads import Reads
from amux_asgi.stores.sql.writer import Writer


class SqlManager:
    """The verbs: `keys`, `accounts`, and what was used."""

    def __init__(self, engine: sa.Engine, writer: Writer, now: Callable[[], int]) -> None:
        """`now` is Unix time in milliseconds."""
        self._reads = Reads(engine)
        self.keys: SqlKeys = SqlKeys(self._reads, writer, now)
        self.accounts: SqlAccounts = SqlAccounts(self._reads, writer, now)

    async def usage(self, query: UsageQuery) -> tuple[UsageRow, ...]:
        """Add up what was used.

        Raises:
            InvalidRequestError: these would be too many rows.
        """
        return await self._reads.run(partial(report, query=query))
