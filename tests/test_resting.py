"""For how long a way to an upstream rests, and why."""

import pytest

from amux_asgi.errors import (
    ContentPolicyError,
    End,
    GatewayError,
    InternalError,
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamDeniedError,
    UpstreamEmptyError,
    UpstreamError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
    UpstreamUnreachableError,
)
from amux_asgi.resting import (
    TRIAL,
    Reason,
    Signal,
    State,
    benched,
    called_back,
    delivered,
    entered,
    failed,
    open_at,
    signal,
)

RATE = Signal(Reason.RATE)
FAILING = Reason.FAILING


def told(seconds: float) -> RateLimitError:
    error = RateLimitError("busy", retry_after=seconds)
    error.told = True
    return error


def least() -> float:
    return 0.0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (told(7), Signal(Reason.RATE, 7)),
        (RateLimitError("busy", retry_after=5), Signal(Reason.RATE)),
        (UpstreamAuthError("no"), Signal(Reason.AUTH)),
        (UpstreamAuthError("no token", end=End.NEVER_SENT), Signal(FAILING)),
        (UpstreamDeniedError("not this"), Signal(Reason.DENIED)),
        (UpstreamEmptyError("no money"), Signal(Reason.EMPTY)),
        (ModelNotFoundError("what?"), Signal(Reason.NO_MODEL)),
        (UpstreamUnavailableError("overloaded", retry_after=9), Signal(FAILING)),
        (UpstreamUnreachableError("gone"), Signal(FAILING)),
        (UpstreamError("failed", end=End.REFUSED), Signal(FAILING)),
        (UpstreamTimeoutError("slow"), Signal(FAILING)),
        (UpstreamError("sent elsewhere", retry=False), None),
        (UpstreamTooLargeError("too much was asked"), None),
        (ContentPolicyError("no cats"), None),
        (InternalError("a bug"), None),
    ],
)
def test_an_end_says_something_about_who_was_asked_or_nothing(error: GatewayError, said: Signal | None) -> None:
    """What the client did wrong, or we, is held against no upstream."""
    assert signal(error) == said


def test_a_refused_token_is_replaced_so_the_credential_may_be_good() -> None:
    """Only when it goes on does the credential rest."""
    assert signal(UpstreamAuthError("old"), token=True) == Signal(FAILING)


def test_the_upstreams_own_word_counts() -> None:
    """To the second, up to an hour, and never less than one."""
    ends = [
        benched(State(), Signal(Reason.RATE, wait), begun=0, now=1, random=least).until for wait in (7, 90_000, 0, 0.2)
    ]

    assert ends == [8, 3601, 2, 2]


def test_a_rate_limit_without_a_word_grows_until_something_is_delivered() -> None:
    """One second, two, four, to a minute; then it begins anew."""
    state, now, waits = State(), 10.0, list[float]()

    for _ in range(8):
        state = benched(state, RATE, begun=now, now=now + 0.1, random=least)
        waits.append(round(state.until - now - 0.1, 6))
        now = state.until
        assert not open_at(state, now - 0.001)
        state = entered(state, now)
        assert state.reason is None  # its limit is over for all
    again = benched(delivered(state, begun=now, now=now + 1), RATE, begun=now + 1, now=now + 2, random=least)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert again.until == now + 3


def test_chance_makes_the_longer_waits_shorter() -> None:
    """So that several gateways do not come back at once; never by more than a quarter."""
    first = benched(State(), RATE, begun=0, now=1, random=lambda: 0.99)
    second = benched(first, RATE, begun=2, now=2, random=lambda: 0.8)

    assert (first.until, second.until) == (2, pytest.approx(2 + 2 * 0.8))


def test_what_was_under_way_says_nothing_new() -> None:
    """Twenty refusals of one moment are one; only a longer word of the upstream counts."""
    state = benched(State(), RATE, begun=0, now=1, random=least)
    dead = State(failures=5, reason=FAILING, since=5, until=35, rests=1)

    assert benched(state, RATE, begun=0.5, now=1.5, random=least) is state
    assert benched(state, Signal(Reason.RATE, 9), begun=0.5, now=1.5, random=least).until == 10.5
    assert failed(dead, begun=4, now=6, random=least, can_eject=lambda: True) is dead
    assert delivered(dead, begun=4, now=6).reason is FAILING


@pytest.mark.parametrize(("others", "waits"), [(True, [30, 60, 120, 240, 300, 300]), (False, [1, 2, 4, 8, 8, 8])])
def test_five_failures_in_a_row_rest_and_each_trial_that_fails_rests_longer(
    others: bool,  # noqa: FBT001, a table
    waits: list[float],
) -> None:
    """Half a minute and longer while others take over, a few seconds where nobody can."""
    state, now, rests = State(), 10.0, list[float]()

    for _ in range(4):
        state = failed(state, begun=now, now=now, random=least, can_eject=lambda: others)
        assert state.reason is None
    for _ in waits:
        now += 0.5
        state = failed(state, begun=now, now=now, random=least, can_eject=lambda: others)
        rests.append(state.until - now)
        now = state.until
        state = entered(state, now)
        assert not open_at(state, now + TRIAL - 0.1)  # one ask is the trial

    assert rests == waits
    assert (state.ejected, state.failures) == (others, 10)
    assert delivered(state, begun=now, now=now + 3) == State(since=state.since, good=now + 3, usual=3)


def test_where_nobody_can_take_over_half_of_the_asks_may_fail() -> None:
    """What worked a second ago is not paused for five failures in a row."""
    working = State(failures=30, good=9.5)

    assert failed(working, begun=9.6, now=10, random=least, can_eject=lambda: False).reason is None
    assert failed(working, begun=9.6, now=10.6, random=least, can_eject=lambda: False).reason is FAILING
    assert failed(working, begun=9.6, now=10, random=least, can_eject=lambda: True).ejected


def test_the_usual_time_is_what_half_of_the_asks_take() -> None:
    """A single slow one does not move it far."""
    state = State()
    for took in [10, 10, 10, 400, 10, 11, 9] * 30:
        state = delivered(state, begun=100, now=100 + took)

    assert state.usual == pytest.approx(10, rel=0.2)


def test_who_is_open_stays_so_while_it_is_asked() -> None:
    """Nothing has to be known of one that works."""
    assert open_at(State(), 0)
    assert entered(State(), 0) == State()


def test_who_is_called_back_is_tried_at_once() -> None:
    """Nobody else is left."""
    state = called_back(State(reason=FAILING, ejected=True, since=1, until=300), now=20)

    assert (state.ejected, open_at(state, 20), open_at(entered(state, 20), 20)) == (False, True, False)
