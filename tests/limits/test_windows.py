"""The moving window in memory is exact, all or nothing, forgets, and never costs more for more keys."""

import random
from collections.abc import Sequence
from typing import Final

import anyio
import pytest

from amux_asgi import rules
from amux_asgi.admission import SECOND, Admitted, Hit, Standing
from amux_asgi.errors import RateLimitError
from amux_asgi.windows import LATER, Counters, MemoryLimiter
from tests.limits.clocks import Clock, Reference

STEPS: Final = 12_000
pytestmark = pytest.mark.anyio
MINUTE: Final = rules("60 requests/minute")[0]
PLACES: Final = rules("4 concurrent")[0]


def limiter(nodes: int = 1) -> tuple[MemoryLimiter, Clock, Counters]:
    clock = Clock()
    counters = Counters(clock)
    return MemoryLimiter(counters, nodes=nodes), clock, counters


def test_it_agrees_with_the_simplest_counting_there_is() -> None:
    """In 12,000 steps by chance: what passes, what is left, when more comes, and the first moment all rules admit."""
    chance = random.Random(5)
    memory, clock, _ = limiter()
    reference = Reference()
    told = rules(
        "5 requests/second", "40 requests/minute", "30 images/minute", "60 megapixels/minute", "90 images/hour"
    )
    admitted = 0

    async def steps() -> int:
        passed = 0
        for step in range(STEPS):
            clock.go(chance.choice((0, 1, 1, 999_999, SECOND, chance.randrange(3 * SECOND), chance.randrange(SECOND))))
            if step % 500 == 0:
                clock.go(3600 * SECOND)
            weights = {"requests": 1, "images": chance.randrange(1, 11), "megapixels": chance.randrange(1, 20_000_000)}
            hits = [
                Hit(rule=rule, scope=f"key:{chance.randrange(3)}", weight=weights[rule.unit.value])
                for rule in chance.sample(told, chance.randrange(1, 4))
            ]
            passed += await _step(memory, reference, hits, clock.micro, step)
        return passed

    admitted = anyio.run(steps)

    assert STEPS // 10 < admitted < STEPS


async def _step(memory: MemoryLimiter, reference: Reference, hits: list[Hit], now: int, step: int) -> bool:
    fits = reference.fits(hits, now)
    wait = 0 if fits else reference.wait(hits, now)
    try:
        admitted = await memory.admit(hits)
    except RateLimitError as error:
        assert not fits, step
        assert round((error.retry_after or 0) * SECOND) == wait, step
        return False
    assert fits, step
    reference.take(hits, now)
    for standing in admitted.standings:
        rule, counter = standing.hit.rule, standing.hit.counter
        assert standing.left == rule.limit - reference.used(counter, rule, now), step
        oldest = min(at for at, _ in reference.admitted[counter] if at > now - rule.window)
        assert standing.reset == oldest + rule.window - now, step
    return True


async def test_of_a_thousand_in_ten_seconds_exactly_sixty_pass() -> None:
    """R01: and each refusal says when to come back; a microsecond earlier it is too early."""
    memory, clock, _ = limiter()
    hit = [Hit(rule=MINUTE, scope="key:a")]
    begun = clock.micro
    passed: list[int] = []
    for _ in range(1000):
        clock.go(SECOND // 100)
        try:
            await memory.admit(hit)
            passed.append(clock.micro)
        except RateLimitError as error:
            assert (error.retry_after or 0) * SECOND == pytest.approx(passed[0] + 60 * SECOND - clock.micro)
    assert len(passed) == 60

    clock.go(passed[0] + 60 * SECOND - clock.micro - 1)
    with pytest.raises(RateLimitError):
        await memory.admit(hit)
    clock.go(1)

    assert (await memory.admit(hit)).standings[0].left == 0
    assert clock.micro - begun < 61 * SECOND


async def test_bursts_across_an_edge_never_make_two_limits() -> None:
    """R02: wherever the sixty seconds are taken, there are at most sixty in them."""
    memory, clock, _ = limiter()
    passed: list[int] = []
    clock.go(59 * SECOND + 900_000)
    for _ in range(8):
        for _ in range(100):
            clock.go(1000)
            try:
                await memory.admit([Hit(rule=MINUTE, scope="key:a")])
                passed.append(clock.micro)
            except RateLimitError:
                pass
        clock.go(29 * SECOND)

    most = max(sum(at <= other < at + 60 * SECOND for other in passed) for at in passed)
    assert most == 60
    assert len(passed) == 180


async def test_all_rules_are_taken_or_none() -> None:
    """What one rule refuses is counted by no other."""
    memory, _, counters = limiter()
    many, few = (Hit(rule=rule, scope="key:a") for rule in rules("60 requests/minute", "1 requests/hour"))
    await memory.admit([many, few])

    with pytest.raises(RateLimitError):
        await memory.admit([many, few, Hit(rule=PLACES, scope="key:a")])

    assert counters.look([many])[0].left == 58
    assert counters.leases() == {}


async def test_places_come_back_when_they_are_released() -> None:
    """R03: never more than four at once; given back twice is given back once."""
    memory, _, counters = limiter()
    hit = [Hit(rule=PLACES, scope="key:a")]
    held = [await memory.admit(hit) for _ in range(4)]
    with pytest.raises(RateLimitError) as caught:
        await memory.admit(hit)
    assert caught.value.retry_after == 1

    memory.release(held[0].lease)
    memory.release(held[0].lease)
    memory.release(None)
    await memory.admit(hit)

    assert counters.look(hit)[0] == Standing(hit=hit[0], wait=SECOND, left=0, reset=0)
    for one in held:
        memory.release(one.lease)
    assert len(counters.leases()["key:a:concurrent:0"]) == 1


async def test_each_of_several_nodes_has_its_share() -> None:
    """What counts in memory counts alone."""
    memory, _, _ = limiter(nodes=4)
    hit = [Hit(rule=MINUTE, scope="key:a"), Hit(rule=PLACES, scope="key:a")]

    await memory.admit(hit)

    with pytest.raises(RateLimitError, match="4 concurrent"):
        await memory.admit(hit)
    with pytest.raises(RateLimitError, match="more than this API key's limit") as caught:
        await memory.admit([Hit(rule=MINUTE, scope="key:a", weight=16)])
    assert caught.value.retry is False


async def test_what_was_counted_further_out_must_hold_all_the_same() -> None:
    """A weight of zero adds nothing, and is refused where the rule is broken already."""
    memory, _, counters = limiter()
    place = Hit(rule=PLACES, scope="key:a", weight=0)
    stricter = Hit(rule=rules("1 requests/minute")[0], scope="key:a", weight=0)
    hit = Hit(rule=MINUTE, scope="key:a")
    admitted = await memory.admit([stricter, place])
    assert admitted == Admitted(
        standings=(Standing(hit=stricter, wait=0, left=1, reset=0), Standing(hit=place, wait=0, left=4, reset=0))
    )
    await memory.admit([hit])
    await memory.admit([stricter])
    await memory.admit([hit])

    with pytest.raises(RateLimitError):
        await memory.admit([stricter])

    assert counters.look([hit])[0].left == 57


async def test_idle_keys_vanish() -> None:
    """A hundred thousand keys that nobody uses any more take no room, also where few others come."""
    memory, clock, counters = limiter()

    async def hit(names: Sequence[str]) -> None:
        for name in names:
            await memory.admit([Hit(rule=MINUTE, scope=name)])

    await hit([f"key:{i}" for i in range(1000)])
    clock.go(61 * SECOND)
    await hit(["key:new"] * 40 + [f"key:{i}" for i in range(2000, 2700)])
    clock.go(SECOND)
    await hit(["key:other"] * 10)

    assert counters.forget_all() == 702
    assert counters.forget_all() == 0


def test_more_than_a_share_can_wait_for_the_others() -> None:
    """A request that is heavier than one node's share is told to come back when the nodes count together."""
    _, _, counters = limiter()
    hit = Hit(rule=MINUTE, scope="key:a", weight=31)

    (standing,) = counters.look([hit], nodes=2)

    assert standing == Standing(hit=hit, wait=LATER, left=30, reset=60 * SECOND)
