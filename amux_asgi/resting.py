"""When a way to an upstream rests, for how long, and how it comes back: values and functions, no clock of their own.

What the upstream says benches (its rate limit, our credential, our account, the model); failures in a row eject, while
others can take over, and pause where nobody can. Only real requests are asked: a probe could cost money.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import (
    End,
    GatewayError,
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamDeniedError,
    UpstreamEmptyError,
    UpstreamTooLargeError,
)

FAILURES: Final = 5  # in a row, after which it rests
FRESH: Final = 1.0  # seconds that a success proves that it works: half of all asks may fail
TRIAL: Final = 5.0  # seconds between two asks of one that comes back, until one of them ends
JITTER: Final = 0.25  # of a wait that nobody told us
LONGEST_TOLD: Final = 3600.0  # seconds; a vendor's word counts no longer
MEMORY: Final = 0.1  # how far one ask moves what asks usually take


class Reason(Enum):
    """Why it rests."""

    RATE = "rate limit reached"
    AUTH = "credential refused"
    EMPTY = "account empty"
    DENIED = "not allowed"
    NO_MODEL = "model unknown"
    FAILING = "failures in a row"


class Rest(Struct, frozen=True):
    """How long it rests: seconds the first time, doubled each time in a row, at most `most`."""

    first: float
    most: float

    def after(self, times: int, random: Callable[[], float]) -> float:
        """Give the seconds of the next rest, after so many in a row."""
        wait = min(self.first * 2.0 ** min(times, 30), self.most)
        return wait if times == 0 else wait * (1 - JITTER * random())


LAST: Final = Rest(1, 30)
REFUSALS: Final = 5  # in a row, after which it rests also where nobody else is left: until then they cost nothing
RATE_REFUSALS: Final = 2  # of them, where it wants fewer requests and does not say for how long
BENCHES: Final = {
    Reason.RATE: Rest(1, 60),
    Reason.AUTH: Rest(60, 900),
    Reason.EMPTY: Rest(60, 900),
    Reason.DENIED: Rest(60, 900),
    Reason.NO_MODEL: Rest(60, 900),
}
EJECTION: Final = Rest(30, 300)
PAUSE: Final = Rest(1, 8)


class Signal(Struct, frozen=True):
    """What the end of an ask says about who was asked; `wait` (seconds) is the upstream's own word."""

    reason: Reason
    wait: float | None = None


class State(Struct, frozen=True, kw_only=True):
    """What is known of one way to an upstream. Times are of the caller's clock, in seconds."""

    failures: int = 0  # in a row
    reason: Reason | None = None  # why it rests, or is on trial; `None`: it is open
    ejected: bool = False
    since: float = float("-inf")  # it began its latest rest; what was asked before says nothing new
    until: float = float("-inf")  # the end of its rest, then of its latest trial
    last: float = float("-inf")  # from then on it may be asked where nobody else is left
    rests: int = 0  # in a row
    good: float = float("-inf")  # it delivered last
    usual: float | None = None  # seconds that it takes to deliver, half of the time


USUAL: Final = State()


def signal(error: GatewayError, *, token: bool = False) -> Signal | None:
    """Say what a failed ask tells about who was asked; `None` if it was the request's fault, or ours.

    Where a `token` stands for the credential, a refused one is replaced: the credential may be good.
    """
    if error.end in (None, End.FINAL) or isinstance(error, UpstreamTooLargeError):
        return None
    if error.end is End.UNKNOWN:
        return None if error.retry is False else Signal(Reason.FAILING)  # false: what we sent, or to where
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.FAILING)
    if reason is Reason.AUTH and (token or error.end is End.NEVER_SENT):
        reason = Reason.FAILING
    return Signal(reason, error.retry_after if error.told and reason is Reason.RATE else None)


def open_at(state: State, now: float) -> bool:
    """Tell whether it may be asked: open, or its rest or its latest trial is over."""
    return state.reason is None or state.until <= now


def entered(state: State, now: float) -> State:
    """Give what it is while it is asked, for one that may be: its rate limit is over, or this is a trial."""
    if state.reason is None:
        return state
    if state.until > now:  # nobody else is left
        return state if state.last <= state.since else replace(state, last=min(now + TRIAL, state.until))
    if state.reason is Reason.RATE:
        return replace(state, reason=None)
    return replace(state, until=now + TRIAL, last=now + TRIAL)


def answered(state: State, *, begun: float) -> State:
    """Give what it is after it found fault with a request: it works, and takes our credential."""
    return state if begun < state.since else State(since=state.since, good=state.good, usual=state.usual)


def delivered(state: State, *, begun: float, now: float) -> State:
    """Give what it is after it delivered what it was asked at `begun`."""
    took = now - begun
    usual = took if state.usual is None else state.usual * (1 + MEMORY if took > state.usual else 1 - MEMORY)
    if begun < state.since:
        return replace(state, good=now, usual=usual)
    return State(since=state.since, good=now, usual=usual)


def benched(state: State, said: Signal, *, begun: float, now: float, random: Callable[[], float]) -> State:
    """Give what it is after the upstream refused it."""
    wait, least = BENCHES[said.reason].after(state.rests, random), 0.0
    if said.wait is not None:
        wait = least = max(min(said.wait, LONGEST_TOLD), BENCHES[said.reason].first)
    elif (more := state.rests + 1 - (RATE_REFUSALS if said.reason is Reason.RATE else REFUSALS)) >= 0:
        least = min(LAST.after(more, random), wait)
    if begun < state.since:  # one of those that were under way; only the upstream's word can make it longer
        longer = said.wait is not None and state.reason is Reason.RATE and now + wait > state.until
        return replace(state, until=now + wait, last=now + wait) if longer else state
    return replace(
        state,
        reason=said.reason,
        ejected=False,
        since=now,
        until=now + wait,
        last=now + least,
        rests=state.rests + 1,
    )


def failed(
    state: State, *, begun: float, now: float, random: Callable[[], float], can_eject: Callable[[], bool]
) -> State:
    """Give what it is after it failed; `can_eject` tells whether others could take over."""
    if begun < state.since:
        return state
    failures = state.failures + 1
    if state.reason is None and failures < FAILURES:
        return replace(state, failures=failures)
    ejected = can_eject()
    if state.reason is None and not ejected and now - state.good < FRESH:
        return replace(state, failures=failures)
    rest = EJECTION if ejected else PAUSE
    until = now + rest.after(state.rests, random)
    return replace(
        state,
        failures=failures,
        reason=Reason.FAILING,
        ejected=ejected,
        since=now,
        until=until,
        last=until,
        rests=state.rests + 1,
    )


def called_back(state: State, now: float) -> State:
    """Give what an ejected one is when nobody else is left: it is tried at once."""
    return replace(state, ejected=False, until=min(state.until, now), last=min(state.last, now))


_REASONS: Final = (
    (RateLimitError, Reason.RATE),
    (UpstreamEmptyError, Reason.EMPTY),
    (UpstreamDeniedError, Reason.DENIED),
    (UpstreamAuthError, Reason.AUTH),
    (ModelNotFoundError, Reason.NO_MODEL),
)
