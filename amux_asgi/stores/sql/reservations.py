"""What happens to reservations in a database: decided in order, by the same functions as in memory, written at once."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from amux_asgi.errors import GatewayError, StorageUnavailableError
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.reservation import HELD, Line, Verb, earn, end, hold
from amux_asgi.stores.sql.book import Asked, Book, read, write
from amux_asgi.stores.sql.bulk import Row
from amux_asgi.stores.sql.operation import FOR_EVER, Operation, Transaction


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
        asked.wallets.update(self.wallets)
        if self.tried:
            asked.rows.append(self.id)

    def decide(self, book: Book) -> int:
        """Hold; not what an earlier try committed, nor what nobody waits for any more and others could have."""
        order = self.order
        if not (self.abandoned or self.id in book.rows):
            book.change(hold(book.of(self.wallets), order.amount))
            book.rows[self.id] = Line(HELD, order.amount)
            book.begun.append(
                (
                    order.id,
                    book.owner,
                    order.account,
                    order.key,
                    order.budget,
                    order.amount,
                    order.model,
                    order.request_id,
                    order.begun,
                )
            )
        return order.amount

    def undo(self) -> Operation[Any] | None:
        """Give back what nobody knows of."""
        if not self.tried:
            return None
        return End(self.id, self.wallets, Verb.REVOKE, Settlement(ended=self.order.begun), deadline=FOR_EVER)


class Later(MoneyOperation):
    """What is done to a reservation after its hold: it is owed, and must know the row."""

    owed = True

    def ask(self, asked: Asked) -> None:
        """Ask for the row."""
        asked.wallets.update(self.wallets)
        asked.rows.append(self.id)


class Earn(Later):
    """Note what a stream is worth so far, in all."""

    def __init__(self, order: Order, earned: int, images: int, deadline: float) -> None:
        super().__init__(order.id, order.wallets, deadline)
        self.earned = earned
        self.images = images
        self._change: tuple[Line, Line] | None = None  # before and after

    def decide(self, book: Book) -> int:
        """Note it, unless an earlier try did.

        Raises:
            StorageUnavailableError: nothing is held any more.
        """
        row = book.rows.get(self.id)
        if row is None:
            raise _lost()
        after = earn(row, self.earned, self.images)
        if after != row:
            self._change = row, after
            book.earn(self.id, after)
        return after.earned

    def undo(self) -> Operation[Any] | None:
        """Take back what nobody heard of, as no picture is delivered for it."""
        return None if self._change is None else Unearn(self.id, self.wallets, *self._change)


class Unearn(Later):
    """Let a stream be worth what it was, if nothing came after."""

    def __init__(self, id: str, wallets: tuple[str, ...], before: Line, after: Line) -> None:  # noqa: A002, a row's id
        super().__init__(id, wallets, FOR_EVER)
        self.before = before
        self.after = after

    def decide(self, book: Book) -> int:
        """Put the line back as it was; one that changed since then, or ended, is left."""
        if book.rows.get(self.id) == self.after:
            book.earn(self.id, self.before)
        return self.before.earned


class End(Later):
    """Capture, release, sweep or revoke a reservation; tells what it was charged."""

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
        self._delivered = 0  # pictures of a stream, before it was ended

    def decide(self, book: Book) -> int:
        """End it, if this is its first end; one that was never held needs none.

        Raises:
            StorageUnavailableError: it is to be paid, and cannot be.
        """
        row = book.rows.get(self.id)
        if row is None:
            if self.verb is Verb.CAPTURE:
                raise _lost()
            return 0
        ended = end(row, self.verb, self.settlement.charged, book.of(self.wallets))
        if self.answer is not None and (self.verb is Verb.REVOKE or ended is not None):
            self._answer(self.answer, book)
        if ended is None:
            return row.charged
        after, wallets = ended
        if row.state is HELD:
            self._delivered = row.images
        images = row.images if row.state is HELD and not self.verb.tells else self.settlement.images
        after = replace(after, images=images)
        book.change(wallets)
        book.rows[self.id] = after
        book.ended[self.id] = _ended(self.id, after, self.settlement)
        return after.charged

    def _answer(self, answer: Answer, book: Book) -> None:
        if self.verb is Verb.REVOKE:
            book.withdrawn.append((answer.claim, answer.expires))
        else:
            book.answers.append((answer.expires, answer.facts, answer.body, answer.claim, book.owner))

    def undo(self) -> Operation[Any] | None:
        """Take a capture back whose success nobody hears of, as nothing is delivered for it; give back what is held.

        What a stream has earned is charged all the same. Its facts stay behind: they may be what could not be written.
        """
        if not self.verb.tells:
            return None
        bare = Settlement(ended=self.settlement.ended, cost=None, images=self._delivered)
        return End(self.id, self.wallets, Verb.REVOKE, bare, deadline=FOR_EVER, answer=self.answer)


def _lost() -> StorageUnavailableError:
    return StorageUnavailableError("the database lost what was set aside for this", retry=False)


def _ended(row: str, line: Line, settlement: Settlement) -> Row:
    return (
        str(line.state),
        line.charged,
        settlement.cost,
        settlement.channel,
        msgspec.json.encode(settlement.attempts).decode() if settlement.attempts else None,
        line.images,
        settlement.input_tokens,
        settlement.output_tokens,
        settlement.ended,
        row,
    )
