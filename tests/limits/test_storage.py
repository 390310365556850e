"""The storage in memory works with the strategies of `limits` too."""

from typing import Any, cast

import pytest
from limits import RateLimitItemPerMinute  # noqa: TID251, as a host app would
from limits.aio.strategies import MovingWindowRateLimiter  # noqa: TID251
from limits.storage import storage_from_string  # noqa: TID251

from amux_asgi.stores.limiter import LocalStorage
from tests.limits.clocks import Clock

pytestmark = pytest.mark.anyio


async def test_a_host_can_use_it_with_its_own_strategy() -> None:
    """Exact where the library's own clock is the wall's."""
    clock = Clock()
    limiter = MovingWindowRateLimiter(LocalStorage(clock=clock))
    item = RateLimitItemPerMinute(3)

    passed = [await limiter.hit(item, "me", cost=cost) for cost in (1, 2, 1)]
    stats = await limiter.get_window_stats(item, "me")
    clock.go(60_000_000)

    assert passed == [True, True, False]
    assert stats.remaining == 0
    assert stats.reset_time == pytest.approx(1_000_060)
    assert (await limiter.get_window_stats(item, "me")).remaining == 3


async def test_it_counts_and_forgets() -> None:
    """What else the library wants of a storage."""
    clock = Clock()
    storage = LocalStorage(clock=clock)

    counts = [await storage.incr("a", 60), await storage.incr("a", 60, 2), await storage.incr("a", 1)]
    expiry = await storage.get_expiry("a")
    known = [await storage.get("a"), await storage.get("b")]
    await storage.clear("a")

    assert (counts, known, await storage.get("a")) == ([1, 3, 1], [3, 0], 0)
    assert (expiry, await storage.get_expiry("a")) == (pytest.approx(1_000_060), pytest.approx(1_000_000))
    assert await storage.check()
    await storage.incr("c", 60)
    assert (await storage.reset(), await storage.get("c")) == (1, 0)
    assert storage.base_exceptions is ValueError


def test_the_library_finds_it_by_its_scheme() -> None:
    """Once it is loaded."""
    found = cast("Any", storage_from_string("async+amux+memory://"))

    assert isinstance(found, LocalStorage)
