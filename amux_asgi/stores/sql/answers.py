"""Claims and answers in a database: who works on a request is one row, which the capture turns into the answer."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from anyio.lowlevel import RunVar
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError

from amux_asgi.errors import GatewayError
from amux_asgi.idempotency import NEVER, Claim, Found, Turn, conflict, decide
from amux_asgi.quota import Answer
from amux_asgi.stores.sql.operation import Chore, Operation, Task, Transaction, away
from amux_asgi.stores.sql.schema import ANSWERS
from amux_asgi.stores.sql.writer import PATIENCE, Writer

T = TypeVar("T")
FOR_EVER: Final = float("inf")
POLL: Final = 0.25  # seconds between two looks at a twin in another process, at least; at most twice that
SWEEP: Final = 5.0  # seconds between two looks for answers that expired
READERS: Final = 2  # connections that one event loop reads answers with
AT_ONCE: Final = 8  # answers that one transaction sweeps: each may be many megabytes


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


class SqlAnswers:
    """Claims and answers in a database, shared with every other process that uses it."""

    def __init__(
        self,
        writer: Writer,
        engine: sa.Engine,
        *,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        """`now` is Unix time in milliseconds; `random` gives 0 ≤ x < 1."""
        self._writer = writer
        self._reader = engine.execution_options(reads=True)
        self._now = now
        self._sleep = sleep
        self._random = random
        self._taken: dict[Claim, tuple[bytes, str]] = {}  # by which token, and of which owner

    async def take(self, claim: Claim, *, deadline: float) -> Answer | None:
        """Take the claim (`None`), or give its answer; wait while another process works on it.

        Raises:
            IdempotencyMismatchError: the name stands for another request.
            IdempotencyConflictError: another process was still working on it at the deadline.
            StorageUnavailableError: it could not be written down or read.
        """
        token = _fresh_token()
        while True:
            patience = self._writer.clock() + PATIENCE  # the row decides, also of who comes late
            turn, owner = await self._writer.run(Take(claim, patience, now=self._now, token=token))
            if turn is Turn.MINE:
                self._taken[claim] = (token, owner)
                return None
            answer = await self._wait(claim, deadline)
            if answer is not None:
                return answer

    async def find(self, claim: Claim, *, deadline: float) -> Answer | None:
        """Give its answer, waiting while another process works on it; `None` if there is nothing. Raises as `take`."""
        patience = self._writer.clock() + PATIENCE  # the row decides, also of who comes late
        turn = await self._writer.run(Look(claim, patience, now=self._now, token=b""))
        return None if turn is Turn.MINE else await self._wait(claim, deadline)

    async def _wait(self, claim: Claim, deadline: float) -> Answer | None:
        while True:
            turn, answer = await anyio.to_thread.run_sync(self._read, claim, limiter=_limiter())
            if turn is not Turn.THEIRS:
                return answer
            left = deadline - self._writer.clock()
            if left <= 0:
                raise conflict()
            await self._sleep(min(left, POLL * (1 + self._random())))

    def reserve(self, claim: Claim) -> None:
        """Let other processes find that this one works on it, if nobody else does."""
        if claim in self._taken:  # by one of those that are alike and have no key
            return
        token = _fresh_token()
        self._taken[claim] = (token, self._writer.owner)
        self._writer.put(Reserve(claim, self._writer.clock() + PATIENCE, now=self._now, token=token))

    def kept(self, claim: Claim, answer: Answer) -> None:
        """Note that the ledger kept the answer; if this process was taken for dead meanwhile, it had no place to."""
        _, owner = self._taken[claim]
        if owner == self._writer.owner:
            del self._taken[claim]
        else:
            self.keep(claim, answer)

    def keep(self, claim: Claim, answer: Answer) -> None:
        """Keep an answer that no capture wrote, as soon as it can be."""
        token, _ = self._taken.pop(claim, _NOT_TAKEN)
        self._writer.put(Keep(claim, FOR_EVER, now=self._now, token=token, answer=answer))

    def drop(self, claim: Claim) -> None:
        """Give up a claim that was taken or reserved here and has no answer."""
        token, _ = self._taken.pop(claim, _NOT_TAKEN)
        self._writer.put(Drop(claim, FOR_EVER, now=self._now, token=token))

    def chore(self) -> Chore:
        """Give what is to be done again and again: remove what expired."""
        return Chore(every=SWEEP, make=self._next)

    def _next(self) -> Operation[None]:
        return Task(self._sweep, self._writer.clock() + PATIENCE)

    def _sweep(self, transaction: Transaction) -> None:
        now = self._now()
        expired = transaction.connection.execute(_EXPIRED, {"now": now}).scalars().all()
        if expired:
            transaction.connection.execute(_REMOVE, {"names": expired, "now": now})
        if len(expired) == AT_ONCE:
            self._writer.put(self._next())

    def _read(self, claim: Claim) -> tuple[Turn, Answer | None]:
        try:
            with self._reader.connect() as connection, connection.begin():
                row = connection.execute(_WHOLE, {"name": claim.name}).one_or_none()
        except SQLAlchemyError as exc:
            raise away("the database cannot be read at present") from exc
        if row is None:
            return Turn.MINE, None
        fingerprint, expires, facts, body = row
        turn = decide(Found(fingerprint, finished=body is not None, expires=expires), claim.fingerprint, self._now())
        if turn is not Turn.OVER:
            return turn, None
        return turn, Answer(claim=claim.name, body=body, expires=expires, facts=facts)


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


def _limiter() -> anyio.CapacityLimiter:
    limiter = _readers.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(READERS)
        _readers.set(limiter)
    return limiter


def _fresh_token() -> bytes:
    return secrets.token_bytes(16)


_readers: Final = RunVar[anyio.CapacityLimiter]("amux_asgi readers of answers")
_NOT_TAKEN: Final = (b"", "")  # no row has this token
_NAMES: Final = sa.bindparam("names", expanding=True, type_=sa.Text)
_ROWS: Final = sa.select(
    ANSWERS.c.claim,
    ANSWERS.c.fingerprint,
    ANSWERS.c.owner,
    ANSWERS.c.expires,
    sa.case((ANSWERS.c.body.is_(None), ANSWERS.c.facts)),  # while it is worked on, whose work it is
).where(ANSWERS.c.claim.in_(_NAMES))
_WHOLE: Final = sa.select(ANSWERS.c.fingerprint, ANSWERS.c.expires, ANSWERS.c.facts, ANSWERS.c.body).where(
    ANSWERS.c.claim == sa.bindparam("name")
)
_DELETE: Final = ANSWERS.delete().where(
    ANSWERS.c.claim == sa.bindparam("name"),
    ANSWERS.c.owner == sa.bindparam("seen_owner"),
    ANSWERS.c.expires == sa.bindparam("seen_expires"),
)
_INSERT: Final = ANSWERS.insert()
_EXPIRED: Final = (
    sa.select(ANSWERS.c.claim)
    .where(ANSWERS.c.expires <= sa.bindparam("now"))
    .order_by(ANSWERS.c.expires)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)
)
_REMOVE: Final = ANSWERS.delete().where(ANSWERS.c.claim.in_(_NAMES), ANSWERS.c.expires <= sa.bindparam("now"))
