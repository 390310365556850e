"""Money in a database: what waits is decided in order, by the same functions as in memory, and written at once."""

from collections.abc import Callable
from functools import partial
from typing import cast

import anyio

from amux_asgi.errors import InvalidRequestError, NotFoundError
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql.book import Asked, Book, look_up
from amux_asgi.stores.sql.operation import FOR_EVER, Task, Transaction
from amux_asgi.stores.sql.reservations import Earn, End, Hold, MoneyOperation
from amux_asgi.stores.sql.writer import Writer
from amux_asgi.wallets import Wallet


class Change(MoneyOperation):
    """Change one wallet for a reason; the same `id` changes it once."""

    def __init__(  # noqa: PLR0913, the facts of one row
        self,
        id: str,  # noqa: A002, a row's id
        wallet: str,
        change: Callable[[Wallet], Wallet],
        *,
        note: str,
        at: int,
        deadline: float,
        new: bool | None = None,
    ) -> None:
        """`new` tells whether the wallet must be unheard of, must be known, or may be either."""
        super().__init__(id, (wallet,), deadline)
        self._change = change
        self._note = note
        self._at = at
        self._new = new

    def ask(self, asked: Asked) -> None:
        """Ask whether it was done before."""
        super().ask(asked)
        asked.grants.append(self.id)

    def decide(self, book: Book) -> int:
        """Change it; tells by how much."""
        (wallet,) = book.of(self.wallets)
        known = wallet.id in book.known or wallet.id in book.changed
        if self.id in book.granted:
            return book.granted[self.id]
        if self._new is False and not known:
            raise NotFoundError("there is no such account")
        if self._new is True and known:
            raise InvalidRequestError("there is such an account already", code="already_exists")
        after = self._change(wallet)
        amount = after.granted - wallet.granted
        if after != wallet or not known:
            book.change((after,))
        if amount or after.credit != wallet.credit or not known:
            book.grants.append((self.id, wallet.id, amount, self._note, self._at))
            book.granted[self.id] = amount
        return amount


class SqlLedger:
    """A ledger in a database, shared with every other process that uses it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def hold(self, order: Order) -> None:
        """Set the most that it can cost aside.

        Raises:
            QuotaError: the account or the key's budget does not cover it.
            StorageUnavailableError: it could not be written down, so nothing was set aside.
        """
        await self._writer.run(Hold(order, self._writer.clock() + self._writer.pace.patience))

    async def earn(self, order: Order, earned: int, images: int) -> None:
        """Note what a stream is worth, in all, before another of its pictures is delivered.

        Raises:
            StorageUnavailableError: it was not noted, so the picture may not be delivered.
        """
        deadline = self._writer.clock() + self._writer.pace.capture
        with anyio.CancelScope(shield=True):  # a cancellation waits, as it does for a capture
            await self._writer.run(Earn(order, earned, images, deadline))

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        """Take what it did cost, at most what was held, and keep the answer with it; tell what was charged.

        Raises:
            StorageUnavailableError: nothing was charged, so nothing may be delivered.
        """
        deadline = self._writer.clock() + self._writer.pace.capture
        capture = End(order.id, order.wallets, Verb.CAPTURE, settlement, deadline=deadline, answer=answer)
        with anyio.CancelScope(shield=True):  # this ends by itself, and what it says decides what is delivered
            await self._writer.run(capture)
        return cast("int", capture.result)

    def release(self, order: Order, settlement: Settlement) -> None:
        """Give everything back but the charge, as soon as it can be written."""
        self._writer.put(End(order.id, order.wallets, Verb.RELEASE, settlement, deadline=FOR_EVER))

    async def get(self, wallet: str) -> Wallet | None:
        """Look a wallet up, behind everything that was asked for before."""
        return await self._writer.run(
            Task(partial(_look_up, name=wallet), self._writer.clock() + self._writer.pace.patience)
        )


def _look_up(transaction: Transaction, name: str) -> Wallet | None:
    return look_up(transaction.connection, [name]).get(name)
