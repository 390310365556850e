"""Guessing is slow, and nobody else notices."""

from amux_asgi.throttle import CLIENTS, FAILURES, WINDOW, Throttle


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failing(throttle: Throttle, clock: Clock, times: int = FAILURES) -> None:
    """Fail once a second."""
    for _ in range(times):
        throttle.failed("mallory")
        clock.now += 1


def test_the_twentieth_failure_in_a_minute_is_the_last() -> None:
    """Nineteen are forgiven; another client has all of its own left."""
    clock = Clock()
    throttle = Throttle(clock)

    failing(throttle, clock, FAILURES - 1)
    assert (throttle.refusal("mallory"), throttle.left("mallory")) == (None, 1)
    failing(throttle, clock, 1)

    refused = throttle.refusal("mallory")
    assert refused is not None
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert (throttle.refusal("alice"), throttle.left("alice")) == (None, FAILURES)


def test_the_wait_that_is_told_is_the_true_one() -> None:
    """A moment earlier is too early; then one more may fail, and no more."""
    clock = Clock()
    throttle = Throttle(clock)
    failing(throttle, clock)
    refused = throttle.refusal("mallory")
    assert refused is not None
    wait = refused.retry_after or 0
    assert wait == WINDOW - FAILURES  # the first of twenty was twenty seconds ago

    clock.now += wait - 0.001
    early = throttle.refusal("mallory")
    clock.now += 0.001

    assert early is not None
    assert (throttle.refusal("mallory"), throttle.left("mallory")) == (None, 1)


def test_failures_that_were_refused_do_not_count() -> None:
    """More failures at once than are allowed keep no more of them than that."""
    clock = Clock()
    throttle = Throttle(clock)

    for _ in range(3 * FAILURES):
        throttle.failed("mallory")
    clock.now += WINDOW

    assert throttle.left("mallory") == FAILURES


def test_whoever_failed_longest_ago_is_forgotten() -> None:
    """However many addresses somebody has, they take no more room."""
    clock = Clock()
    throttle = Throttle(clock)
    for i in range(CLIENTS):
        throttle.failed(f"bot {i}")
    throttle.failed("bot 0")

    throttle.failed("one more")

    assert [throttle.left(client) for client in ("bot 0", "bot 1", "one more")] == [
        FAILURES - 2,
        FAILURES,
        FAILURES - 1,
    ]
