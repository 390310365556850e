"""Which ways to the upstreams are open, whoever fails."""

import heapq
from collections import Counter
from random import Random

import pytest

from amux_asgi.errors import (
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamDeniedError,
    UpstreamEmptyError,
    UpstreamUnavailableError,
)
from amux_asgi.health import Health, Seat
from amux_asgi.resting import Reason, Signal
from tests.fleet import Fleet

FAILING = Signal(Reason.FAILING)
FIVE = [("a", f"credential-of-tests-{i}", "m") for i in range(5)]


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def health(*groups: list[Seat]) -> tuple[Health, Time]:
    time = Time()
    known = Health(clock=time, random=lambda: 0.0)
    known.know(groups)
    return known, time


def fail(known: Health, seat: Seat, time: Time, said: Signal = FAILING, times: int = 1) -> None:
    for _ in range(times):
        time.now += 0.01
        known.failed(seat, time.now, said)


def test_one_of_five_that_always_fails_is_ejected_after_five_and_back_by_one_ask_after_half_a_minute() -> None:
    """U24: and where that fails too, after a minute."""
    known, time = health(FIVE)

    fail(known, FIVE[0], time, times=4)
    assert known.is_open(FIVE[0])
    fail(known, FIVE[0], time)
    assert [known.is_open(seat) for seat in FIVE] == [False, True, True, True, True]
    time.now += 29.9
    assert not known.enter(FIVE[0])
    time.now += 0.2
    assert [known.enter(FIVE[0]), known.enter(FIVE[0])] == [True, False]
    known.failed(FIVE[0], time.now, FAILING)
    time.now += 59
    assert not known.is_open(FIVE[0])
    time.now += 1.1
    assert known.enter(FIVE[0])
    known.delivered(FIVE[0], time.now)
    assert [known.enter(FIVE[0]), known.enter(FIVE[0])] == [True, True]


def test_at_most_half_are_ejected_and_when_all_fail_each_is_tried_again_within_seconds() -> None:
    """U23, U24: nobody is asked in vain for long, and nobody is shut out for long when nobody else is there."""
    known, time = health(FIVE)

    for seat in FIVE:
        fail(known, seat, time, times=5)

    assert not any(known.is_open(seat) for seat in FIVE if seat not in FIVE[:2])
    states = [row.state for row in known.snapshot()]
    assert states == ["on trial", "on trial", "paused", "paused", "paused"]  # the ejected were called back
    for seat in FIVE[:2]:
        assert known.enter(seat)
        known.failed(seat, time.now, FAILING)
    assert 0 < known.wait(FIVE) <= 8
    assert isinstance(known.refusal(FIVE), UpstreamUnavailableError)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reason.RATE, RateLimitError),
        (Reason.AUTH, UpstreamAuthError),
        (Reason.EMPTY, UpstreamEmptyError),
        (Reason.DENIED, UpstreamDeniedError),
        (Reason.NO_MODEL, ModelNotFoundError),
    ],
)
def test_while_all_rest_the_answer_is_as_if_they_were_asked(reason: Reason, error: type[Exception]) -> None:
    """With the time after which the first of them is back; of several kinds, 503."""
    known, time = health(FIVE[:2])

    for seat in FIVE[:2]:
        fail(known, seat, time, Signal(reason), times=5)
        assert not known.is_left(seat)
    alike = known.refusal(FIVE[:2])
    fail(known, FIVE[0], time, Signal(Reason.RATE if reason is not Reason.RATE else Reason.AUTH, 7))
    mixed = known.refusal(FIVE[:2])

    assert type(alike) is error
    assert type(mixed) is UpstreamUnavailableError
    assert 0 < (alike.retry_after or 0) <= 120
    assert 0 < (mixed.retry_after or 0) <= 60


def test_who_was_refused_a_few_times_is_asked_when_nobody_else_is_left() -> None:
    """It costs nothing, and whoever mends the credential is served at once; five in a row are believed."""
    known, time = health(FIVE[:1])
    left: list[bool] = []

    for _ in range(7):
        fail(known, FIVE[0], time, Signal(Reason.AUTH))
        left.append(known.enter(FIVE[0], last=True))
    time.now += 4.1
    left.append(known.enter(FIVE[0], last=True))
    known.answered(FIVE[0], time.now)  # about the prompt
    known.answered(FIVE[1], time.now)

    assert left == [True] * 4 + [False] * 3 + [True]
    assert known.snapshot()[0].state == "open"


def test_a_refusal_concerns_the_credential_the_model_or_both() -> None:
    """One bad key, one vendor without a model, one limit of one model: nothing else rests."""
    seats = [("a", key, model) for key in ("x", "y") for model in ("m", "n")]
    closed: list[list[Seat]] = []

    for reason in (Reason.AUTH, Reason.NO_MODEL, Reason.RATE, Reason.DENIED):
        known, time = health(seats[::2], seats[1::2])
        fail(known, seats[0], time, Signal(reason))
        closed.append([seat for seat in seats if not known.is_open(seat)])

    xm, xn, ym, _ = seats
    assert closed == [[xm, xn], [xm, ym], [xm], [xm]]


def test_what_is_known_outlives_a_change_of_the_configuration() -> None:
    """By channel, credential and model; who is gone is forgotten, also when its last ask ends late."""
    known, time = health(FIVE)
    fail(known, FIVE[0], time, Signal(Reason.RATE, 50))
    fail(known, FIVE[1], time, Signal(Reason.RATE, 50))

    known.know([FIVE[1:3]])
    known.failed(FIVE[0], time.now, FAILING)
    known.delivered(FIVE[0], time.now)

    assert [(row.credential, row.state) for row in known.snapshot()] == [("ts-1", "benched"), ("ts-2", "open")]
    assert known.enter(FIVE[0])


def test_a_new_configuration_shuts_nobody_out() -> None:
    """Who was ejected while others could take over is called back when they are gone."""
    known, time = health(FIVE)
    fail(known, FIVE[0], time, times=5)

    known.know([FIVE[:1]])

    assert known.enter(FIVE[0])


def test_the_operator_sees_why_each_rests_and_when_it_is_back() -> None:
    """No credential is shown, nor more than the end of a long one."""
    short: Seat = ("b", "short", "m")
    known, time = health([*FIVE[:2], short])
    fail(known, FIVE[0], time, Signal(Reason.AUTH))
    fail(known, short, time, times=5)
    rows = known.snapshot()
    time.now += 100

    assert [(row.channel, row.credential, row.state, row.reason) for row in rows] == [
        ("a", "ts-0", "benched", "credential refused"),
        ("a", "ts-1", "open", None),
        ("b", "", "ejected", "failures in a row"),
    ]
    assert [row.returns for row in rows] == [pytest.approx(59.95), None, pytest.approx(30)]
    assert [row.state for row in known.snapshot()] == ["on trial", "open", "on trial"]


def test_who_waited_for_a_place_learns_that_others_failed_meanwhile() -> None:
    """A long queue is not sent to an upstream that is down."""
    known, time = health(FIVE)
    before = time.now
    assert not known.rested_since(FIVE[0], before)
    fail(known, FIVE[0], time, times=5)

    assert (known.rested_since(FIVE[0], before), known.rested_since(FIVE[0], time.now)) == (True, False)


def test_how_long_an_answer_usually_takes_is_known() -> None:
    """Once there was one."""
    known, time = health(FIVE)
    assert known.usual(FIVE[0]) == 0
    begun = time.now
    time.now += 12
    known.delivered(FIVE[0], begun)

    assert known.usual(FIVE[0]) == 12


GROUPS = [
    [("a", "k1", "m"), ("a", "k2", "m"), ("a", "k3", "m"), ("b", "k", "m")],
    [("a", "k1", "n"), ("a", "k2", "n"), ("a", "k3", "n")],
    [("b", "k", "m"), ("c", "k", "m")],
    [("d", "", "alone")],
]
SAID = {"dead": FAILING, "rate": Signal(Reason.RATE), "auth": Signal(Reason.AUTH), "model": Signal(Reason.NO_MODEL)}
KINDS = ("good", "good", "good", "flaky", "dead", "dead", "rate", "told", "auth", "model", "blames")


@pytest.mark.parametrize("seed", [1, 2])
def test_25_000_asks_leave_nobody_shut_out_and_ask_nobody_dead_for_long(seed: int) -> None:
    """Against a slow, plain model: the same are open at each step, and what is promised of them holds."""
    random = Random(seed)
    known, time = health(*GROUPS)
    model = Fleet(GROUPS)
    seats = list(model.ways)
    modes = dict.fromkeys(seats, "good")
    under_way: list[tuple[float, int, Seat, float, str]] = []
    hits: Counter[Seat] = Counter()  # since it is dead

    for step in range(25_000):
        time.now += random.expovariate(3)
        while under_way and under_way[0][0] <= time.now:
            ended, _, seat, begun, mode = heapq.heappop(under_way)
            later, time.now = time.now, ended
            if mode == "flaky":
                mode = random.choice(("good", "dead"))
            _end(known, seat, mode, begun, wait := random.choice((0.0, 7.0, 30.0, 100_000.0)))
            _end_slowly(model, seat, mode, begun, wait, now=ended)
            time.now = later
        if random.random() < 0.002:
            seat = random.choice(seats)
            modes[seat] = random.choice(KINDS)
            hits[seat] = 0
        seat = random.choice(random.choice(GROUPS))
        assert known.is_open(seat) == model.is_open(seat, time.now)
        assert known.is_left(seat) == (model.ways[seat].last <= time.now)
        last = not any(model.is_open(one, time.now) for group in GROUPS if seat in group for one in group)
        entered = known.enter(seat, last=last)
        assert entered == model.enter(seat, time.now, last=last)
        if entered:
            hits[seat] += 1
            heapq.heappush(under_way, (time.now + random.expovariate(2), step, seat, time.now, modes[seat]))
        for group in GROUPS:
            ways = [model.ways[one] for one in group]
            assert 2 * sum(way.ejected for way in ways) <= len(group)
            assert not (any(way.ejected for way in ways) and all(way.why for way in ways))
            assert known.wait(group) <= 3600
    rows = {(row.channel, row.credential, row.model): row for row in known.snapshot()}
    assert len(rows) == len({(seat[0], "", seat[2]) for seat in seats})  # short credentials are not shown


def _end(known: Health, seat: Seat, mode: str, begun: float, wait: float) -> None:
    match mode:
        case "good":
            known.delivered(seat, begun)
        case "blames":
            known.answered(seat, begun)
        case "told":
            known.failed(seat, begun, Signal(Reason.RATE, wait))
        case _:
            known.failed(seat, begun, SAID[mode])


def _end_slowly(  # noqa: PLR0913, what is known of an end
    model: Fleet, seat: Seat, mode: str, begun: float, wait: float, *, now: float
) -> None:
    match mode:
        case "good":
            model.delivered(seat, begun, now)
        case "dead":
            model.failed(seat, begun, now)
        case "blames":
            model.answered(seat, begun)
        case "told":
            model.refused(seat, "rate", wait, begun=begun, now=now)
        case _:
            model.refused(seat, mode, None, begun=begun, now=now)


@pytest.mark.parametrize("others", [0, 1, 4])
def test_a_dead_one_is_asked_five_times_then_once_in_a_while_and_is_back_soon_after_it_works(others: int) -> None:
    """A day of asks, one a second, one after the other: bounded hits, bounded time until it is back."""
    group = FIVE[: others + 1]
    known, time = health(group)
    hits = 0

    for second in range(3600):
        time.now = 1000.0 + second
        if known.enter(group[0]):
            hits += 1
            known.failed(group[0], time.now, FAILING)
    well = time.now
    while not known.enter(group[0]):
        time.now += 1
    known.delivered(group[0], time.now)

    assert time.now - well <= (300 if others else 8)
    assert hits <= 5 + (3600 / 300 + 4 if others else 3600 / 8 + 3)
    assert [known.enter(group[0]) for _ in range(3)] == [True] * 3
