"""Who works on a request and who waits for it, in this process: of all twins one goes on, the others get its answer."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import msgspec
from anyio.lowlevel import current_token

from amux_asgi.errors import StorageUnavailableError
from amux_asgi.idempotency import DAY, PICK_UP, Answers, Ask, Claim, Facts, Kind, conflict
from amux_asgi.quota import Answer

NEVER: Final = Answer(claim="", body=b"", facts=b"", expires=0)
"""Stands for the answer of what can have no twin."""


class Work:
    """A request that is ours to do: one that can have no twin.

    It ends by `finish`, `keep` or `drop`, none of which waits. Only the first counts: `drop` can stand in a `finally`.
    """

    longest = DAY  # ms that its answer is kept

    def __init__(self, now: Callable[[], int], claim: Claim | None = None) -> None:
        self.claim = claim
        self._now = now

    def answer(self, body: bytes, *, facts: Facts, life: int) -> Answer:
        """Make the answer that is kept; `life` is for how many milliseconds it may be said again."""
        if self.claim is None:
            return NEVER  # nobody will ask for it
        expires = self._now() + min(life, self.longest)
        return Answer(claim=self.claim.name, body=body, facts=msgspec.json.encode(facts), expires=expires)

    def with_capture(self, answer: Answer) -> Answer | None:  # noqa: ARG002, of those with a key
        """Give what the ledger is to keep with the capture: the answer, if there is an idempotency key."""
        return None

    def finish(self, answer: Answer) -> None:
        """End it after the capture, with an answer for all twins."""

    def keep(self, answer: Answer) -> None:
        """End it without a capture, with an error for all twins that is the answer for good."""

    def drop(self) -> None:
        """End it without an answer: one of its twins takes over."""

    def left(self) -> None:
        """Note that its client has gone, so that it finds the answer when it comes back; also after the end."""

    def answered(self) -> None:
        """Note that its client has heard how it ended."""


class Shared(Work):
    """A request that is ours to do, and that twins may wait for."""

    def __init__(
        self, now: Callable[[], int], claim: Claim, answers: Answers, forget: Callable[["Shared"], None]
    ) -> None:
        super().__init__(now, claim)
        self._forget = forget
        self.answers = answers
        self.mine = claim
        self.readers = 1
        self.ended: bool = False
        self.result: Answer | None = None
        self.error: StorageUnavailableError | None = None
        self.bell: Bell = Bell()

    def end(self, result: Answer | None) -> None:
        """Tell all twins; what the store must know was told to it before, so that it hears of the next one later."""
        self.ended = True
        self.result = result
        self._forget(self)
        self.bell.ring()


class Keyed(Shared):
    """A request with an idempotency key."""

    def with_capture(self, answer: Answer) -> Answer | None:
        """Give the answer."""
        return answer

    def finish(self, answer: Answer) -> None:
        """End it after the capture, with an answer for all twins."""
        if not self.ended:
            self.answers.kept(self.mine, answer)
            self.end(answer)

    def keep(self, answer: Answer) -> None:
        """End it without a capture, with an error for all twins that is the answer for good."""
        if not self.ended:
            self.answers.keep(self.mine, answer)
            self.end(answer)

    def drop(self) -> None:
        """End it without an answer: one of its twins takes over."""
        if not self.ended:
            self.answers.drop(self.mine)
            self.end(None)


class Unkeyed(Shared):
    """A request without an idempotency key; other processes hear of it only when its client has gone or came back.

    A retry finds it as long as somebody may still miss its answer: until its last client has it, or has left.
    """

    longest = PICK_UP
    _told = False

    def finish(self, answer: Answer) -> None:
        """End it; its answer is kept only for a client that has gone or came back."""
        if not self.ended:
            if self._told:
                self.answers.keep(self.mine, answer)
            self.end(answer)

    def keep(self, answer: Answer) -> None:
        """End it likewise."""
        self.finish(answer)

    def drop(self) -> None:
        """End it without an answer."""
        if not self.ended:
            if self._told:
                self.answers.drop(self.mine)
            self.end(None)

    def end(self, result: Answer | None) -> None:
        """Tell all twins; one that comes between the end and the last client's word gets the result, too."""
        self.ended = True
        self.result = result
        self._forget_if_over()
        self.bell.ring()

    def left(self) -> None:
        """Note that one of its clients has gone."""
        self.readers -= 1
        if not self.readers:
            self._tell()
        self._forget_if_over()

    def answered(self) -> None:
        """Note that one of its clients has the answer."""
        self.readers -= 1
        self._forget_if_over()

    def came_back(self) -> None:
        """Note that a client came back, which may go again."""
        self.readers += 1
        self._tell()

    def _tell(self) -> None:
        """Let other processes, and those who come later, find it."""
        if self._told:
            return
        self._told = True
        if not self.ended:
            self.answers.reserve(self.mine)
        elif self.result is not None:
            self.answers.keep(self.mine, self.result)

    def _forget_if_over(self) -> None:
        if self.ended and (self.result is None or self.readers <= 0):
            self._forget(self)


class Claims:
    """Requests that may have twins. `answers` is shared with other processes; here, those of this process meet."""

    def __init__(self, answers: Answers, *, clock: Callable[[], float], now: Callable[[], int]) -> None:
        """`clock` is monotonic, in seconds; `now` is Unix time in milliseconds."""
        self._answers = answers
        self._clock = clock
        self._now = now
        self._alone = Work(now)  # of all that can have no twin: it keeps nothing
        self._keyed: dict[Claim, Shared] = {}
        self._unkeyed: dict[Claim, list[Unkeyed]] = {}

    async def begin(self, ask: Ask | None, *, deadline: float) -> Work | Answer:
        """Give the answer of a twin, waited for if need be, or the work, which is then ours to end.

        Raises:
            IdempotencyMismatchError: the idempotency key was used with another request.
            IdempotencyConflictError: a twin was still working on it at the deadline.
            StorageUnavailableError: the claim could not be written down.
        """
        if ask is None:
            return self._alone
        if ask.kind is Kind.KEYED:
            return await self._claim(ask.claim, deadline)
        answer = await self._pick_up(ask.claim, deadline) if ask.kind is Kind.RETRY else None
        return answer or self._open(ask.claim)

    async def _claim(self, claim: Claim, deadline: float) -> Work | Answer:
        """Be the first of this process, or wait for the first; when it ends without an answer, there is a new first."""
        mine = Keyed(self._now, claim, self._answers, self._forget_keyed)
        while (first := self._keyed.setdefault(claim, mine)) is not mine:
            answer = await self._answer_of(first, deadline)
            if answer is not None:
                return answer
        try:
            answer = await self._answers.take(claim, deadline=deadline)
        except BaseException as exc:
            if isinstance(exc, StorageUnavailableError):
                mine.error = exc
            mine.end(None)
            raise
        if answer is None:
            return mine
        mine.end(answer)
        return answer

    async def _pick_up(self, claim: Claim, deadline: float) -> Answer | None:
        """Find what became of the request's first time: still worked on here, or told to all by its process."""
        while works := self._unkeyed.get(claim):
            work = min(works, key=_readers)  # one whose client has gone before any other
            work.came_back()
            try:
                answer = await self._answer_of(work, deadline)
            finally:
                work.left()
            if answer is not None:
                return answer
        return await self._answers.find(claim, deadline=deadline)

    def _open(self, claim: Claim) -> Unkeyed:
        work = Unkeyed(self._now, claim, self._answers, self._forget_unkeyed)
        self._unkeyed.setdefault(claim, []).append(work)
        return work

    async def _answer_of(self, work: Shared, deadline: float) -> Answer | None:
        with anyio.move_on_after(deadline - self._clock()):
            await work.bell.wait()
        if not work.ended:
            raise conflict()
        if work.error is not None:  # rather than that each of many twins finds out after the other
            raise StorageUnavailableError(work.error.message, retry_after=work.error.retry_after)
        return work.result

    def _forget_keyed(self, work: Shared) -> None:
        del self._keyed[work.mine]

    def _forget_unkeyed(self, work: Shared) -> None:
        works = [other for other in self._unkeyed.pop(work.mine, ()) if other is not work]
        if works:
            self._unkeyed[work.mine] = works


def _readers(work: Shared) -> int:
    return work.readers


class Bell:
    """What many wait for, each on its own event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rung = False
        self._waiting: dict[anyio.Event, Callable[..., object]] = {}

    async def wait(self) -> None:
        """Wait until it was rung."""
        event = anyio.Event()
        native = cast("Any", current_token().native_token)
        with self._lock:
            if self._rung:
                return
            self._waiting[event] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiting.pop(event, None)

    def ring(self) -> None:
        """Let all go on."""
        with self._lock:
            self._rung = True
            waiting, self._waiting = self._waiting, {}
        for event, soon in waiting.items():
            with suppress(RuntimeError):  # its loop is closed, so nobody waits
                soon(event.set)
