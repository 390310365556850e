"""What happens to reservations in a database: decided in order, by the same functions as in memory, written at once."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from amux_asgi.errors import GatewayError, StorageUnavailableError
from amux_asgi.quota import Answer, Order, Settlement, State, Verb, chargeable, end, hold
from amux_asgi.stores.sql.book import Asked, Book, Row, read, write
from amux_asgi.stores.sql.operation import Operation, Transaction

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
