"""The same request sent twice: how it is recognised, what becomes of the second, and the port that keeps answers.

Times are in milliseconds of Unix time, as several processes share them; deadlines in seconds of a monotonic clock.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, Struct

from amux_asgi.errors import End, GatewayError, IdempotencyConflictError, IdempotencyMismatchError, InvalidRequestError
from amux_asgi.keys import Principal
from amux_asgi.quota import Answer
from amux_asgi.schema import ImagesResponse

KEY: Final = b"idempotency-key"
RETRIES: Final = b"x-stainless-retry-count"
DAY: Final = 86_400_000  # ms that an answer is kept
URL_LIFE: Final = 3_600_000  # ms that the URL of a picture is good for
PICK_UP: Final = 600_000  # ms in which a client that left may come back without a key
AGAIN: Final = 5.0  # seconds a twin is asked to wait
NEVER: Final = 2**63 - 1  # when a claim expires that is worked on: its owner's death ends it, not a clock


class Kind(Enum):
    """What a request says of its twins."""

    KEYED = "keyed"  # it has an idempotency key: all with that key are one
    FIRST = "first"  # a stock SDK sends it for the first time: it is one by itself
    RETRY = "retry"  # a stock SDK sends it again


class Claim(Struct, frozen=True):
    """The right to be the one that works on a request: a digest of whose it is, and one of what it asks."""

    name: str
    fingerprint: str


class Ask(Struct, frozen=True):
    """What a request claims, and how."""

    claim: Claim
    kind: Kind


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a reply was made of, beside its body: enough to say it again."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Found(Struct, frozen=True):
    """What stands under a claim's name."""

    fingerprint: str
    finished: bool
    expires: int


class Turn(Enum):
    """Whose turn it is."""

    MINE = "nobody works on it: go on"
    THEIRS = "a twin works on it: wait"
    OVER = "it is finished: say the answer again"


@runtime_checkable
class Answers(Protocol):
    """The port that keeps claims and answers for all processes that share it.

    In one process, nobody else asks for a claim between its `take` and its end: `Claims` sees to that.
    """

    async def take(self, claim: Claim, *, deadline: float) -> Answer | None:
        """Take the claim (`None`), or give its answer; wait while another process works on it.

        A claim that was taken ends by `kept`, `keep` or `drop`, or with its process.

        Raises:
            IdempotencyMismatchError: the name stands for another request.
            IdempotencyConflictError: another process was still working on it at the deadline.
            StorageUnavailableError: it could not be written down.
        """
        ...

    async def find(self, claim: Claim, *, deadline: float) -> Answer | None:
        """Give its answer, waiting while another process works on it; `None` if there is nothing. Raises as `take`."""
        ...

    def reserve(self, claim: Claim) -> None:
        """Let other processes find that this one works on it, if nobody else does; needs no waiting."""
        ...

    def kept(self, claim: Claim, answer: Answer) -> None:
        """Note that the ledger kept the answer with its capture; needs no waiting."""
        ...

    def keep(self, claim: Claim, answer: Answer) -> None:
        """Keep an answer that no capture wrote, as soon as it can be; needs no waiting."""
        ...

    def drop(self, claim: Claim) -> None:
        """Give up a claim that was taken or reserved here and has no answer; needs no waiting."""
        ...


def asked(principal: Principal, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Ask | None:
    """Read from the headers (names in lower case) what a request claims; `None` if it cannot have a twin.

    Raises:
        InvalidRequestError: its idempotency key is none.
    """
    found = [(name, value) for name, value in headers if name in _READ]
    if not found:
        return None
    fingerprint = fingerprint_of(path, body)
    keys = [value for name, value in found if name == KEY]
    if keys:
        return Ask(Claim(keyed(principal, _key(keys)), fingerprint), Kind.KEYED)
    counts = [value for _, value in found]
    if len(counts) > 1 or not _COUNT.fullmatch(counts[0]):
        return None
    return Ask(Claim(unkeyed(principal, fingerprint), fingerprint), Kind.RETRY if int(counts[0]) else Kind.FIRST)


def fingerprint_of(path: str, body: bytes) -> str:
    """Give what tells two requests apart: SHA-256 of path and body."""
    return _digest(path.encode(errors="surrogatepass"), body)


def keyed(principal: Principal, key: str) -> str:
    """Name the claim of an idempotency key, so that nobody else's key leads to it."""
    return _name("key", principal, key)


def unkeyed(principal: Principal, fingerprint: str) -> str:
    """Name the claim of a request without a key."""
    return _name("request", principal, fingerprint)


def decide(found: Found | None, fingerprint: str, now: int) -> Turn:
    """Say whose turn it is, by what stands under the name.

    Raises:
        IdempotencyMismatchError: another request.
    """
    if found is None or (found.finished and found.expires <= now):
        return Turn.MINE
    if found.fingerprint != fingerprint:
        raise IdempotencyMismatchError("this idempotency key was used with another request before", param=PARAM)
    return Turn.OVER if found.finished else Turn.THEIRS


def is_terminal(error: GatewayError) -> bool:
    """Tell whether this error is the answer for good: the same request could only end the same way."""
    return error.end is End.FINAL


def life_of(images: ImagesResponse) -> int:
    """Say for how many milliseconds an answer may be said again: no longer than its pictures' URLs are good for."""
    return DAY if all(image.url is UNSET for image in images.data) else URL_LIFE


def conflict() -> IdempotencyConflictError:
    """Say that a twin takes too long."""
    return IdempotencyConflictError("the same request is still being worked on", retry_after=AGAIN)


def facts_of(answer: Answer) -> Facts:
    """Read what a kept reply was made of."""
    return msgspec.json.decode(answer.facts, type=Facts)


class MemoryAnswers:
    """Answers that last as long as their process, bounded in number and bytes; never waits.

    The oldest answers give way. Claims that are worked on never do, and are few: each is a request in flight.
    """

    def __init__(self, *, now: Callable[[], int], entries: int = 10_000, size: int = 268_435_456) -> None:
        """`now` is Unix time in milliseconds; `size` is in bytes of bodies and facts."""
        self._now = now
        self._entries = entries
        self._room = size
        self._working: dict[str, str] = {}
        self._finished: OrderedDict[str, tuple[str, Answer]] = OrderedDict()

    async def take(self, claim: Claim, *, deadline: float) -> Answer | None:
        """Take the claim (`None`), or give its answer.

        Raises:
            IdempotencyMismatchError: the name stands for another request.
        """
        answer = await self.find(claim, deadline=deadline)
        if answer is None:
            self._forget(claim.name)  # what expired
            self._working[claim.name] = claim.fingerprint
        return answer

    async def find(self, claim: Claim, *, deadline: float) -> Answer | None:  # noqa: ARG002, never waits
        """Give its answer, if there is one.

        Raises:
            IdempotencyMismatchError: the name stands for another request.
        """
        working = self._working.get(claim.name)
        if working is not None:
            decide(Found(working, finished=False, expires=NEVER), claim.fingerprint, self._now())
        fingerprint, answer = self._finished.get(claim.name, (claim.fingerprint, None))
        if answer is None:
            return None
        turn = decide(Found(fingerprint, finished=True, expires=answer.expires), claim.fingerprint, self._now())
        return answer if turn is Turn.OVER else None

    def reserve(self, claim: Claim) -> None:
        """There are no other processes."""

    def kept(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer: a ledger in memory leaves that to us."""
        self.keep(claim, answer)

    def keep(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer."""
        self.drop(claim)
        self._forget(claim.name)
        self._finished[claim.name] = (claim.fingerprint, answer)
        self._room -= _size(answer)
        while self._finished and (self._room < 0 or len(self._finished) > self._entries):
            self._forget(next(iter(self._finished)))

    def drop(self, claim: Claim) -> None:
        """Give up a claim that has no answer."""
        self._working.pop(claim.name, None)

    def _forget(self, name: str) -> None:
        _, answer = self._finished.pop(name, ("", None))
        self._room += 0 if answer is None else _size(answer)


def _key(values: list[bytes]) -> str:
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise InvalidRequestError(
            "send one 'Idempotency-Key' of 1 to 255 printable ASCII characters", param=PARAM, code="invalid_value"
        )
    return values[0].decode("ascii")


def _name(kind: str, principal: Principal, rest: str) -> str:
    return _digest(*(text.encode(errors="surrogatepass") for text in (kind, principal.account, principal.key, rest)))


def _digest(*parts: bytes) -> str:
    """Hash parts together, each with its length, so that no two lists of parts look alike."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.hexdigest()


def _size(answer: Answer) -> int:
    return len(answer.body) + len(answer.facts)


PARAM: Final = "Idempotency-Key"
_READ: Final = frozenset({KEY, RETRIES})
_KEY: Final = re.compile(rb"[ -~]{1,255}")
_COUNT: Final = re.compile(rb"[0-9]{1,3}")
