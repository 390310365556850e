"""Whether there is another attempt, when, and at whom."""

from random import Random

import pytest

from amux_asgi.adapters import ADAPTERS
from amux_asgi.attempts import ALLOWANCE, EXTRA_ATTEMPTS, Budget, in_turn, is_free, may_go_on, pause
from amux_asgi.errors import (
    End,
    GatewayError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from amux_asgi.routing import Candidate, Channel

STOP = Channel(name="a", adapter=ADAPTERS["openai"], base_url="https://a.example", models={"m": "m"})
RETRY = Channel(
    name="b", adapter=ADAPTERS["openai"], base_url="https://b.example", models={"m": "m"}, on_unknown="retry"
)


@pytest.mark.parametrize(
    ("end", "stop", "retry"),
    [
        (End.NEVER_SENT, True, True),
        (End.REFUSED, True, True),
        (End.UNKNOWN, False, True),
        (End.FINAL, False, False),
        (None, False, False),
    ],
)
def test_what_may_have_been_paid_goes_nowhere_else(end: End | None, *, stop: bool, retry: bool) -> None:
    """Unless the channel says that it is worth it; a fault of the request goes nowhere at all."""
    assert (may_go_on(end, STOP), may_go_on(end, RETRY)) == (stop, retry)


def test_a_quiet_gateway_can_retry() -> None:
    """Twenty at once; then time gives one back in five seconds, and nothing is kept beyond twenty."""
    now = [0.0]
    budget = Budget(lambda: now[0])

    first = [budget.spend(1) for _ in range(22)]
    now[0] = 5.5
    later = [budget.spend(1) for _ in range(2)]
    now[0] = 10_000
    much_later = [budget.spend(1) for _ in range(22)]

    assert first == much_later == [True] * 20 + [False] * 2
    assert later == [True, False]


def test_several_asks_are_retried_all_or_none() -> None:
    """A request that is split costs what it sends."""
    budget = Budget(lambda: 0.0)

    assert [budget.spend(17), budget.spend(4), budget.spend(3)] == [True, False, True]


def test_retries_stay_below_a_fifth_of_a_busy_gateways_asks() -> None:
    """100,000 seeded requests, some quiet, some in a rush: never more than a fifth and the allowance."""
    now, random = [0.0], Random(11)
    budget = Budget(lambda: now[0])
    asks = retries = 0

    for step in range(100_000):
        rush = step // 10_000 % 2
        now[0] += random.expovariate(200 if rush else 5)
        n = random.choice((1, 1, 1, 4))
        asks += n
        budget.earn(n)
        if random.random() < 0.5 and budget.spend(n):
            retries += n
        assert retries <= 0.2 * asks + ALLOWANCE + 0.2 * now[0]
    assert retries > 0.12 * asks  # and those are used

    begun, retries = now[0], 0
    for _ in range(600):  # 200 a second for three seconds, half of them fail
        now[0] += 0.005
        budget.earn(1)
        retries += random.random() < 0.5 and budget.spend(1)
    assert now[0] - begun == pytest.approx(3)
    assert retries <= 120


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (UpstreamUnreachableError("gone"), True),
        (RateLimitError("busy"), True),
        (UpstreamAuthError("no"), True),
        (UpstreamError("failed", end=End.REFUSED), False),
        (UpstreamTimeoutError("slow"), False),
        (UpstreamError("sent elsewhere", retry=False), False),
    ],
)
def test_only_failures_are_retried_at_a_price(error: GatewayError, *, free: bool) -> None:
    """What was never sent, or refused at the door, was no load, and who refused is not asked again."""
    assert is_free(error) == free


def test_the_wait_before_another_attempt_is_short_and_by_chance() -> None:
    """So that many who failed at once do not come back at once."""
    random = Random(3)

    waits = [[pause(extra, random.random) for _ in range(1000)] for extra in range(1, EXTRA_ATTEMPTS + 1)]

    assert [max(some) <= most for some, most in zip(waits, (0.1, 0.2), strict=True)] == [True, True]
    assert min(waits[0]) < 0.01
    assert max(waits[0]) > 0.09


@pytest.mark.parametrize(
    ("error", "extra", "order"),
    [
        (RateLimitError("busy"), 1, "a2 a3 b1 c1"),
        (RateLimitError("busy"), 2, "b1 c1 a2 a3"),
        (UpstreamUnreachableError("gone"), 1, "b1 c1 a2 a3"),
    ],
)
def test_another_credential_is_next_then_another_channel(error: GatewayError, extra: int, order: str) -> None:
    """And another channel at once where nobody answers, whatever the credential."""
    others = [Candidate(_channel(name), "m", credential, "m") for name, credential in ("a2", "a3", "b1", "c1")]

    ordered = in_turn(others, Candidate(_channel("a"), "m", "1", "m"), error, extra=extra)

    assert " ".join(one.channel.name + one.credential for one in ordered) == order


def _channel(name: str) -> Channel:
    return Channel(name=name, adapter=ADAPTERS["openai"], base_url="https://x.example", models={"m": "m"})
