"""Money in a database: what waits is decided in order, by the same functions as in memory, and written at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from amux_asgi.errors import GatewayError, InvalidRequestError, NotFoundError, StorageUnavailableError
from amux_asgi.quota import Answer, Order, Settlement, State, Verb, Wallet, chargeable, end, hold
from amux_asgi.stores.sql.book import Asked, Book, Row, look_up, read, write
from amux_asgi.stores.sql.operation import Operation, Task, Transaction
from amux_asgi.stores.sql.writer import Writer

FOR_EVER: Final = float("inf")


class MoneyOperation(Operation[int]):
    """What changes wallets. `id` is of the row it is about; `wallets` are locked before it is decided."""

    def __init__(self, id: str, wallets: tuple[str, ...], deadline: float) -> None:  # noqa: A002, a row's id
        super().__init__(deadline)
        self.id = id
        self.wallets = wallets

    def decide(self, book: Book) -> int:
        """Decide it by what is known, and note what is to be written.

        Raises:
            GatewayError: it cannot be; nothing was noted.
        """
        raise NotImplementedError

    def ask(self, asked: Asked) -> None:
        """Note what must be known of it."""
        asked.wallets.update(self.wallets)

    @staticmethod
    def together(transaction: Transaction, operations: Sequence[Any]) -> None:
        """Lock and read, decide in order, write what it led to."""
        asked = Asked(set(), [], [])
        for operation in operations:
            operation.ask(asked)
        book = read(transaction, asked)
        for operation in operations:
            try:
                operation.result = operation.decide(book)
            except GatewayError as error:
                operation.error = error
        write(transaction.connection, book)


class Hold(MoneyOperation):
    """Set the most that an order can cost aside."""

    def __init__(self, order: Order, deadline: float) -> None:
        super().__init__(order.id, order.wallets, deadline)
        self.order = order

    def ask(self, asked: Asked) -> None:
        """Ask for the row only where there may be one."""
        super().ask(asked)
        if self.tried:
            asked.rows.append(self.id)

    def decide(self, book: Book) -> int:
        """Hold; not what an earlier try committed, nor what nobody waits for any more and others could have."""
        order = self.order
        if not (self.abandoned or self.id in book.rows):
            book.change(hold(book.of(self.wallets), order.amount))
            book.rows[self.id] = Row(State.HELD, order.amount, 0)
            book.begun.append(
                {
                    "id": order.id,
                    "owner": book.owner,
                    "state": State.HELD.value,
                    "account": order.account,
                    "key": order.key,
                    "budget": order.budget,
                    "amount": order.amount,
                    "charged": 0,
                    "images": 0,
                    "input_tokens": 0,
                    "output_tokens": 0,
                    "model": order.model,
                    "request_id": order.request_id,
                    "begun": order.begun,
                }
            )
        return order.amount

    def undo(self) -> Operation[Any] | None:
        """Give back what nobody knows of."""
        if not self.tried:
            return None
        return End(self.id, self.wallets, Verb.REVOKE, Settlement(ended=self.order.begun), deadline=FOR_EVER)


class End(MoneyOperation):
    """Capture, release, sweep or revoke a reservation; tells what it was charged."""

    owed = True

    def __init__(  # noqa: PLR0913, the facts of one row
        self,
        id: str,  # noqa: A002, a row's id
        wallets: tuple[str, ...],
        verb: Verb,
        settlement: Settlement,
        *,
        deadline: float,
        answer: Answer | None = None,
    ) -> None:
        super().__init__(id, wallets, deadline)
        self.verb = verb
        self.settlement = settlement
        self.answer = answer

    def ask(self, asked: Asked) -> None:
        """Ask for the row."""
        super().ask(asked)
        asked.rows.append(self.id)

    def decide(self, book: Book) -> int:
        """End it, if this is its first end; one that was never held needs none.

        Raises:
            StorageUnavailableError: it is to be paid, and cannot be.
        """
        row = book.rows.get(self.id)
        if row is None and self.verb is Verb.CAPTURE:
            raise StorageUnavailableError("the database lost what was set aside for this", retry=False)
        if row is None:
            return 0
        charge = row.charged if self.verb is Verb.REVOKE else chargeable(self.settlement.charged, row.amount)
        ended = end(row.state, self.verb, row.amount, charge, book.of(self.wallets))
        if ended is None:
            return row.charged
        state, wallets = ended
        charged = charge if state is State.CAPTURED else 0
        book.change(wallets)
        book.rows[self.id] = Row(state, row.amount, charged)
        book.ended.append(_ended(self.id, state, charged, self.settlement))
        if self.answer is not None:
            (book.answers if state is State.CAPTURED else book.withdrawn).append(_answered(self.answer, book.owner))
        return charged

    def undo(self) -> Operation[Any] | None:
        """Take a capture back whose success nobody hears of, as nothing is delivered for it; give back what is held.

        Its facts stay behind: they may be what could not be written.
        """
        if self.verb not in (Verb.CAPTURE, Verb.RELEASE):
            return None
        bare = Settlement(ended=self.settlement.ended, cost=None)
        return End(self.id, self.wallets, Verb.REVOKE, bare, deadline=FOR_EVER, answer=self.answer)


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
            book.grants.append(
                {"id": self.id, "wallet": wallet.id, "amount": amount, "note": self._note, "at": self._at}
            )
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

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        """Take what it did cost, at most what was held, and keep the answer with it; tell what was charged.

        Raises:
            StorageUnavailableError: nothing was charged, so nothing may be delivered.
        """
        deadline = self._writer.clock() + self._writer.pace.capture
        capture = End(order.id, order.wallets, Verb.CAPTURE, settlement, deadline=deadline, answer=answer)
        # A cancellation waits: this ends by itself, and what it says decides what is delivered.
        return await self._writer.run(capture, shield=True)

    def release(self, order: Order, settlement: Settlement) -> None:
        """Give everything back, as soon as it can be written."""
        self._writer.put(End(order.id, order.wallets, Verb.RELEASE, settlement, deadline=FOR_EVER))

    async def get(self, wallet: str) -> Wallet | None:
        """Look a wallet up, behind everything that was asked for before."""
        return await self._writer.run(
            Task(partial(_look_up, name=wallet), self._writer.clock() + self._writer.pace.patience)
        )


def _look_up(transaction: Transaction, name: str) -> Wallet | None:
    return look_up(transaction.connection, [name]).get(name)


def _ended(row: str, state: State, charged: int, settlement: Settlement) -> dict[str, Any]:
    return {
        "row": row,
        "state": state.value,
        "charged": charged,
        "cost": settlement.cost,
        "channel": settlement.channel,
        "attempts": msgspec.json.encode(settlement.attempts).decode() if settlement.attempts else None,
        "images": settlement.images,
        "input_tokens": settlement.input_tokens,
        "output_tokens": settlement.output_tokens,
        "ended": settlement.ended,
    }


def _answered(answer: Answer, owner: str) -> dict[str, Any]:
    return {
        "name": answer.claim,
        "working": owner,
        "body": answer.body,
        "facts": answer.facts,
        "expires": answer.expires,
    }
