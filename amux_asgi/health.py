"""Which ways to the upstreams are open, and when the others are back: one look-up each, learned from real asks alone.

One process has one, for all its event loops; it outlives a change of the configuration.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from amux_asgi.errors import (
    GatewayError,
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamDeniedError,
    UpstreamEmptyError,
    UpstreamUnavailableError,
)
from amux_asgi.resting import (
    USUAL,
    Reason,
    Signal,
    State,
    answered,
    benched,
    called_back,
    delivered,
    entered,
    failed,
    open_at,
)

SHORTEST: Final = 16  # characters of a credential whose last four may be shown

Seat = tuple[str, str, str]
"""One way to an upstream: the channel's name, the credential, the upstream's name of the model."""


class Row(Struct, frozen=True, kw_only=True):
    """What an operator is told about one way to an upstream.

    `state` is `open`, `benched` (the upstream said so), `ejected` or `paused` (failures in a row: others take over, or
    nobody can), or `on trial` (its rest is over, the next ask decides). `returns` is in seconds. `left` says that it is
    asked all the same where nobody else is open.
    """

    channel: str
    model: str  # the upstream's name
    credential: str  # its last four characters, if it is long enough
    state: str
    reason: str | None = None
    returns: float | None = None
    left: bool = False


class Health:
    """What is known of all ways to the upstreams. Never waits, and asks nobody."""

    def __init__(self, *, clock: Callable[[], float], random: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds; `random` gives 0 ≤ x < 1."""
        self._clock = clock
        self._random = random
        self._states: dict[Seat, State] = {}
        self._groups: dict[Seat, list[Sequence[Seat]]] = {}
        self._kin: dict[tuple[Reason, str, str], list[Seat]] = {}

    def know(self, groups: Iterable[Sequence[Seat]]) -> None:
        """Take who can serve each model; what is known of them stays, and all others are forgotten."""
        self._groups, self._kin = {}, {}
        for group in groups:
            for seat in dict.fromkeys(group):
                self._groups.setdefault(seat, []).append(group)
        for seat in self._groups:
            channel, credential, model = seat
            for reason, other in _CONCERNS.items():
                self._kin.setdefault((reason, channel, model if other else credential), []).append(seat)
        self._states = {seat: state for seat, state in self._states.items() if seat in self._groups}
        for group in {id(group): group for groups in self._groups.values() for group in groups}.values():
            self._call_back(group)

    def is_open(self, seat: Seat) -> bool:
        """Tell whether it may be asked, without asking it."""
        state = self._states.get(seat)
        return state is None or state.reason is None or open_at(state, self._clock())

    def is_left(self, seat: Seat) -> bool:
        """Tell whether it may be asked where nobody else is open: it was refused a few times, which costs nothing."""
        return self._states.get(seat, USUAL).last <= self._clock()

    def enter(self, seat: Seat, *, last: bool = False) -> bool:
        """Tell whether it may be asked now; of those that come back only one ask at a time is let through.

        `last` says that nobody else is open.
        """
        state = self._states.get(seat)
        if state is None or state.reason is None:
            return True
        now = self._clock()
        if not open_at(state, now) and not (last and state.last <= now):
            return False
        self._states[seat] = entered(state, now)
        return True

    def rested_since(self, seat: Seat, moment: float) -> bool:
        """Tell whether it has begun to rest after this moment, as one finds who had to wait for a place."""
        state = self._states.get(seat)
        return state is not None and state.reason is not None and state.since > moment

    def usual(self, seat: Seat) -> float:
        """Give the seconds that it usually takes to deliver; nothing before it has delivered."""
        return self._states.get(seat, USUAL).usual or 0.0

    def delivered(self, seat: Seat, begun: float) -> None:
        """Note that it delivered what it was asked at `begun`."""
        if seat in self._groups:
            self._states[seat] = delivered(self._states.get(seat, USUAL), begun=begun, now=self._clock())

    def answered(self, seat: Seat, begun: float) -> None:
        """Note that it found fault with what it was asked at `begun`."""
        if seat in self._states:
            self._states[seat] = answered(self._states[seat], begun=begun)

    def failed(self, seat: Seat, begun: float, said: Signal) -> None:
        """Note how it failed what it was asked at `begun`: alone, or with all others that this concerns."""
        if seat not in self._groups:
            return
        now = self._clock()
        if said.reason is Reason.FAILING:
            can_eject = partial(self._can_eject, seat)
            before = self._states.get(seat, USUAL)
            after = failed(before, begun=begun, now=now, random=self._random, can_eject=can_eject)
            self._set(seat, after)
            return
        channel, credential, model = seat
        other = model if _CONCERNS.get(said.reason) else credential
        for kin in self._kin.get((said.reason, channel, other), (seat,)):
            state = benched(self._states.get(kin, USUAL), said, begun=begun, now=now, random=self._random)
            self._set(kin, state)

    def wait(self, seats: Iterable[Seat]) -> float:
        """Give the seconds until the first of them may be asked, when nobody else is open."""
        now = self._clock()
        return min((max(self._until(seat) - now, 0.0) for seat in seats), default=0.0)

    def refusal(self, seats: Sequence[Seat]) -> GatewayError:
        """Say why none of these may be asked at present, as the upstream would say it if it were asked."""
        reasons = {self._states.get(seat, USUAL).reason for seat in seats}
        reason = reasons.pop() if len(reasons) == 1 else None
        error = _REFUSALS[reason]()
        error.retry_after = self.wait(seats)
        return error

    def snapshot(self) -> list[Row]:
        """List what is known of every way to an upstream, in the order of the configuration."""
        now = self._clock()
        return [_row(seat, self._states.get(seat, USUAL), now) for seat in self._groups]

    def _until(self, seat: Seat) -> float:
        state = self._states.get(seat, USUAL)
        return USUAL.until if state.reason is None else min(state.until, state.last)

    def _can_eject(self, seat: Seat) -> bool:
        """Tell whether others can take over: at most half of a model's ways are ejected, and one is always left."""
        return all(self._spares(seat, group) for group in self._groups[seat])

    def _spares(self, seat: Seat, group: Sequence[Seat]) -> bool:
        others = [self._states.get(other, USUAL) for other in group if other != seat]
        ejected = sum(other.ejected for other in others)
        return 2 * (ejected + 1) <= len(group) and any(other.reason is None for other in others)

    def _set(self, seat: Seat, state: State) -> None:
        began = state.reason is not None and self._states.get(seat, USUAL).reason is None
        self._states[seat] = state
        for group in self._groups[seat] if began else ():
            self._call_back(group)

    def _call_back(self, group: Sequence[Seat]) -> None:
        """Call those back that were ejected, if nobody else is left."""
        states = {seat: self._states.get(seat, USUAL) for seat in group}
        if all(state.reason is not None for state in states.values()):
            now = self._clock()
            self._states |= {seat: called_back(state, now) for seat, state in states.items() if state.ejected}


def _row(seat: Seat, state: State, now: float) -> Row:
    channel, credential, model = seat
    if state.reason is None:
        name, returns = "open", None
    elif state.until <= now:
        name, returns = "on trial", 0.0
    else:
        resting = "ejected" if state.ejected else "paused"
        name, returns = (resting if state.reason is Reason.FAILING else "benched"), state.until - now
    return Row(
        channel=channel,
        model=model,
        credential=credential[-4:] if len(credential) >= SHORTEST else "",
        state=name,
        reason=None if state.reason is None else state.reason.value,
        returns=returns,
        left=state.reason is not None and state.last <= now,
    )


_CONCERNS: Final = {Reason.AUTH: False, Reason.EMPTY: False, Reason.NO_MODEL: True}
"""Who else is benched: all models of the credential, or (true) all credentials for the model; else only the two."""

_REFUSALS: Final[Mapping[Reason | None, Callable[[], GatewayError]]] = {
    Reason.RATE: partial(RateLimitError, "the rate limit of every upstream that serves this model is reached"),
    Reason.AUTH: partial(UpstreamAuthError, "the upstream refuses this gateway's credential"),
    Reason.EMPTY: partial(UpstreamEmptyError, "the upstream serves nothing on this gateway's account at present"),
    Reason.DENIED: partial(UpstreamDeniedError, "this gateway's account at the upstream may not do this"),
    Reason.NO_MODEL: partial(ModelNotFoundError, "the upstream does not know this model", param="model"),
    Reason.FAILING: partial(UpstreamUnavailableError, "no upstream that serves this model works at present"),
    None: partial(UpstreamUnavailableError, "no upstream that serves this model can be asked at present"),
}
