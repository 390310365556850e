"""What is done to the rows of claims: decided in order by what one transaction knows of them, and written at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.errors import GatewayError
from amux_asgi.idempotency import NEVER, Claim, Found, Turn, decide
from amux_asgi.quota import Answer
from amux_asgi.stores.sql.operation import FOR_EVER, Operation, Transaction
from amux_asgi.stores.sql.schema import ANSWERS

T = TypeVar("T")
NAMES: Final = sa.bindparam("names", expanding=True, type_=sa.Text)


class Row(Struct, frozen=True, kw_only=True):
    """A row as the database has it, or is to have it; `token` is of the one work that made it, until it is finished."""

    fingerprint: str
    owner: str
    expires: int
    token: bytes | None
    answer: Answer | None = None  # to be written

    @property
    def found(self) -> Found:
        """Give what a decision needs of it."""
        return Found(self.fingerprint, finished=self.token is None, expires=self.expires)


class Book:
    """What one transaction knows of the rows that it is about, and what they are to be."""

    def __init__(self, owner: str, now: int, before: dict[str, Row]) -> None:
        self.owner = owner
        self.now = now
        self.before = before
        self.rows: dict[str, Row] = dict(before)

    def found(self, claim: Claim) -> Found | None:
        """Give what stands under the claim's name."""
        row = self.rows.get(claim.name)
        return None if row is None else row.found

    def is_of(self, claim: Claim, token: bytes) -> bool:
        """Tell whether this work has the claim."""
        row = self.rows.get(claim.name)
        return row is not None and row.token == token

    def is_free(self, claim: Claim) -> bool:
        """Tell whether nobody has the claim, and no answer is there."""
        found = self.found(claim)
        return found is None or (found.finished and found.expires <= self.now)

    def begin(self, claim: Claim, token: bytes) -> None:
        """Give the claim to a work of this process."""
        self.rows[claim.name] = Row(fingerprint=claim.fingerprint, owner=self.owner, expires=NEVER, token=token)


class ClaimOperation(Operation[T], ABC):
    """What changes the row of one claim. All kinds share `together`, so that they happen in order."""

    def __init__(self, claim: Claim, deadline: float, *, now: Callable[[], int], token: bytes) -> None:
        super().__init__(deadline)
        self.claim = claim
        self.now = now
        self.token = token

    @abstractmethod
    def decide(self, book: Book) -> T:
        """Decide it by what is known, and note what is to be written.

        Raises:
            GatewayError: it cannot be; nothing was noted.
        """

    @staticmethod
    def together(transaction: Transaction, operations: Sequence[Any]) -> None:
        """Read, decide in order, write what it led to."""
        names = sorted({operation.claim.name for operation in operations})
        found = transaction.connection.execute(_ROWS, {"names": names})
        before = {
            name: Row(fingerprint=fingerprint, owner=owner, expires=expires, token=token)
            for name, fingerprint, owner, expires, token in found
        }
        book = Book(transaction.owner, operations[0].now(), before)
        for operation in operations:
            try:
                operation.result = operation.decide(book)
            except GatewayError as error:
                operation.error = error
        _write(transaction.connection, book)


class Take(ClaimOperation[tuple[Turn, str]]):
    """Take a claim; tells whose turn it is, and under which name this process has it."""

    def decide(self, book: Book) -> tuple[Turn, str]:
        """Take it, if nobody has it; what an earlier try committed is ours."""
        if book.is_of(self.claim, self.token):
            return Turn.MINE, book.owner
        turn = decide(book.found(self.claim), self.claim.fingerprint, book.now)
        if turn is Turn.MINE:
            book.begin(self.claim, self.token)
        return turn, book.owner

    def undo(self) -> Operation[Any]:
        """Drop what nobody knows of."""
        return Drop(self.claim, FOR_EVER, now=self.now, token=self.token)


class Look(ClaimOperation[Turn]):
    """Tell whose turn it is, after everything that this process has to write of the claim."""

    def decide(self, book: Book) -> Turn:
        """Change nothing."""
        return decide(book.found(self.claim), self.claim.fingerprint, book.now)


class Reserve(ClaimOperation[None]):
    """Take a claim if nobody has it; otherwise do nothing."""

    def decide(self, book: Book) -> None:
        """Take it."""
        if book.is_free(self.claim):
            book.begin(self.claim, self.token)


class Drop(ClaimOperation[None]):
    """Give up a claim that has no answer."""

    def decide(self, book: Book) -> None:
        """Remove the row, if it is still of this work."""
        if book.is_of(self.claim, self.token):
            del book.rows[self.claim.name]


class Keep(ClaimOperation[None]):
    """Keep an answer that no capture wrote."""

    def __init__(self, claim: Claim, deadline: float, *, now: Callable[[], int], token: bytes, answer: Answer) -> None:
        super().__init__(claim, deadline, now=now, token=token)
        self.answer = answer

    def decide(self, book: Book) -> None:
        """Put it where this work's claim stands, or nobody's."""
        if book.is_of(self.claim, self.token) or book.is_free(self.claim):
            book.rows[self.claim.name] = Row(
                fingerprint=self.claim.fingerprint,
                owner=book.owner,
                expires=self.answer.expires,
                token=None,
                answer=self.answer,
            )


def _write(connection: sa.Connection, book: Book) -> None:
    """Write what changed, in the order of the names; rows that others changed meanwhile are in conflict."""
    names = sorted(name for name in {*book.before, *book.rows} if book.before.get(name) is not book.rows.get(name))
    gone = [
        {"name": name, "seen_owner": row.owner, "seen_expires": row.expires}
        for name in names
        if (row := book.before.get(name)) is not None
    ]
    fresh = [_columns(name, row) for name in names if (row := book.rows.get(name)) is not None]
    if gone:
        connection.execute(_DELETE, gone)
    if fresh:
        connection.execute(_INSERT, fresh)


def _columns(name: str, row: Row) -> dict[str, Any]:
    answer = row.answer
    return {
        "claim": name,
        "fingerprint": row.fingerprint,
        "owner": row.owner,
        "expires": row.expires,
        "facts": row.token if answer is None else answer.facts,
        "body": None if answer is None else answer.body,
    }


_ROWS: Final = sa.select(
    ANSWERS.c.claim,
    ANSWERS.c.fingerprint,
    ANSWERS.c.owner,
    ANSWERS.c.expires,
    sa.case((ANSWERS.c.body.is_(None), ANSWERS.c.facts)),  # while it is worked on, whose work it is
).where(ANSWERS.c.claim.in_(NAMES))
_DELETE: Final = ANSWERS.delete().where(
    ANSWERS.c.claim == sa.bindparam("name"),
    ANSWERS.c.owner == sa.bindparam("seen_owner"),
    ANSWERS.c.expires == sa.bindparam("seen_expires"),
)
_INSERT: Final = ANSWERS.insert()
