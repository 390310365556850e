"""Another attempt: whether there may be one, when, and at whom. Functions of time and chance."""

from collections.abc import Callable, Iterable
from typing import Final

from amux_asgi.errors import End, GatewayError, UpstreamUnreachableError
from amux_asgi.resting import Reason, signal
from amux_asgi.routing import Candidate, Channel

EXTRA_ATTEMPTS: Final = 2  # beyond the first
SHARE: Final = 0.15  # of a retry that each first ask earns: with the allowance, below 20 % of a busy gateway's asks
ALLOWANCE: Final = 20.0  # retries that a quiet gateway can make at once
REFILL: Final = 0.2  # retries that time alone gives back, each second
SHORTEST_TIME: Final = 1.0  # seconds; no vendor paints faster, so a shorter attempt would only be paid for and cut off
FIRST_PAUSE: Final = 0.1  # seconds at most before the first extra attempt, doubled for the next


class Budget:
    """How many asks may be retries: a token bucket, one for all that a process does."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._tokens = ALLOWANCE
        self._at = clock()

    def earn(self, asks: int) -> None:
        """Note first asks, which earn a part of a retry each."""
        self._tokens = min(self._tokens + SHARE * asks, ALLOWANCE)

    def spend(self, asks: int) -> bool:
        """Take what that many retried asks cost, all of it or nothing; tell whether it was there."""
        now = self._clock()
        self._tokens = min(self._tokens + REFILL * (now - self._at), ALLOWANCE)
        self._at = now
        if self._tokens < asks:
            return False
        self._tokens -= asks
        return True


def may_go_on(end: End | None, channel: Channel) -> bool:
    """Tell whether another attempt may follow one that ended so."""
    return end in (End.NEVER_SENT, End.REFUSED) or (end is End.UNKNOWN and channel.on_unknown == "retry")


def is_free(error: GatewayError) -> bool:
    """Tell whether what was not done is done elsewhere without being a retry: nothing was sent, or refused at the door.

    Who refuses at the door is benched for it, which bounds this well enough; who fails could be asked without end.
    """
    said = signal(error)
    return error.end is End.NEVER_SENT or (said is not None and said.reason is not Reason.FAILING)


def pause(extra: int, random: Callable[[], float]) -> float:
    """Give the seconds to wait before the extra attempt of this number, counted from one: full jitter."""
    return random() * FIRST_PAUSE * 2 ** (extra - 1)


def in_turn(others: Iterable[Candidate], before: Candidate, error: GatewayError, *, extra: int) -> list[Candidate]:
    """Order who may be asked next.

    Another credential of the same channel first, once; then, or when nobody there can be reached, other channels.
    """
    if extra == 1 and not isinstance(error, UpstreamUnreachableError):
        return list(others)
    return sorted(others, key=lambda other: other.channel.name == before.channel.name)
