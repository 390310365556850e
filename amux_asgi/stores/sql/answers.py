"""Claims and answers in a database: who works on a request is one row, which the capture turns into the answer."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.to_thread
import sqlalchemy as sa
from anyio.lowlevel import RunVar
from sqlalchemy.exc import SQLAlchemyError

from amux_asgi.idempotency import Claim, Found, Turn, conflict, decide
from amux_asgi.quota import Answer
from amux_asgi.stores.sql.claim_rows import NAMES, Drop, Keep, Look, Reserve, Take
from amux_asgi.stores.sql.operation import FOR_EVER, Chore, Operation, Task, Transaction, away
from amux_asgi.stores.sql.schema import ANSWERS
from amux_asgi.stores.sql.writer import PATIENCE, Writer

POLL: Final = 0.25  # seconds between two looks at a twin in another process, at least; at most twice that
SWEEP: Final = 5.0  # seconds between two looks for answers that expired
READERS: Final = 2  # connections that one event loop reads answers with
AT_ONCE: Final = 8  # answers that one transaction sweeps: each may be many megabytes


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
_WHOLE: Final = sa.select(ANSWERS.c.fingerprint, ANSWERS.c.expires, ANSWERS.c.facts, ANSWERS.c.body).where(
    ANSWERS.c.claim == sa.bindparam("name")
)
_EXPIRED: Final = (
    sa.select(ANSWERS.c.claim)
    .where(ANSWERS.c.expires <= sa.bindparam("now"))
    .order_by(ANSWERS.c.expires)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)
)
_REMOVE: Final = ANSWERS.delete().where(ANSWERS.c.claim.in_(NAMES), ANSWERS.c.expires <= sa.bindparam("now"))
