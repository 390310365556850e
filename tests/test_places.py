"""The places of a channel: never more than there are, in turns by key, and none is ever lost."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from amux_asgi.errors import End, OverloadedError
from amux_asgi.places import LONGEST, OLDEST, SHORTEST, WAITING, Places

pytestmark = pytest.mark.anyio
STEPS = 10_000
LONG = 3600.0


@asynccontextmanager
async def holding(places: Places, key: str, left: float) -> AsyncGenerator[None]:
    """Hold a place while inside."""
    taken = await places.take(key, left)
    try:
        yield
    finally:
        places.leave(taken)


class World:
    """Many tasks at one channel's places; each is known by a number, and says when it holds one."""

    def __init__(self, tasks: anyio.abc.TaskGroup, places: int) -> None:
        self.now = 0.0
        self.places = Places(places, clock=lambda: self.now)
        self.scopes: dict[int, anyio.CancelScope] = {}
        self.holding: dict[int, anyio.Event] = {}  # set to let go
        self.order: list[int] = []
        self.refused = 0
        self._tasks = tasks
        self._count = 0

    def start(self, key: str, *, left: float = LONG) -> int:
        """Begin to want a place."""
        self._count += 1
        self.scopes[self._count] = anyio.CancelScope()
        self._tasks.start_soon(self._want, self._count, key, left)
        return self._count

    async def _want(self, number: int, key: str, left: float) -> None:
        try:
            with self.scopes[number]:
                async with holding(self.places, key, left):
                    self.order.append(number)
                    self.holding[number] = anyio.Event()
                    await self.holding[number].wait()
        except OverloadedError:
            self.refused += 1
        finally:
            self.holding.pop(number, None)
            del self.scopes[number]


@asynccontextmanager
async def world(places: int) -> AsyncGenerator[World]:
    async with anyio.create_task_group() as tasks:
        yield World(tasks, places)
        tasks.cancel_scope.cancel()


async def settled() -> None:
    await anyio.wait_all_tasks_blocked()


async def filled(there: World, key: str = "a", number: int = 1) -> list[int]:
    """Begin to want several places, one after the other."""
    numbers: list[int] = []
    for _ in range(number):
        numbers.append(there.start(key))
        await settled()
    return numbers


async def drained(there: World) -> list[int]:
    """Let one after the other go, and tell in which order they came."""
    there.order.clear()
    while there.holding:
        next(iter(there.holding.values())).set()
        await settled()
    return there.order


async def test_keys_take_turns_and_each_keeps_its_own_order() -> None:
    """Who comes late with one request is next but one, whoever has a hundred in the line."""
    async with world(1) as there:
        await filled(there)
        a = await filled(there, "a", 4)
        b, c = *await filled(there, "b"), *await filled(there, "c")

        assert await drained(there) == [a[0], b, c, *a[1:]]


async def test_nobody_overtakes_who_waits() -> None:
    """A place that becomes free belongs to the first of the line, also when a newcomer asks in that moment."""
    async with world(1) as there:
        first, second = await filled(there, "a", 2)
        there.holding[first].set()
        late = there.start("b")
        await settled()

        assert there.order == [first, second]
        assert await drained(there) == [late]


async def test_a_place_that_is_free_is_taken_without_waiting() -> None:
    """No turn of the event loop is lost."""
    places = Places(1, clock=lambda: 0.0)
    places.check("a", left=0)

    with pytest.raises(StopIteration) as when:  # the coroutine ends at once
        places.take("a", 0).send(None)
    taken = places.snapshot().taken
    places.leave(when.value.value)

    assert (taken, places.snapshot().taken) == (1, 0)


async def test_a_line_that_is_too_long_takes_nobody_else_but_other_keys() -> None:
    """One key leaves as much of the line free as it takes; the refusal says when to come again."""
    async with world(2) as there:
        await filled(there, "a", 2)
        for _ in range(WAITING):
            there.places.check("a", left=LONG)
            await filled(there, "a")
        with pytest.raises(OverloadedError, match="too many") as caught:
            there.places.check("a", left=LONG)
        there.places.check("b", left=LONG)
        await filled(there, "b")
        state = there.places.snapshot()

    assert (caught.value.status, caught.value.code, caught.value.end) == (503, "overloaded", End.NEVER_SENT)
    assert caught.value.retry_after == SHORTEST
    assert (state.places, state.taken, state.waiting) == (2, 2, WAITING + 1)


async def test_a_line_never_grows_beyond_its_bound_however_many_keys_there_are() -> None:
    """Each of many keys gets less of it."""
    async with world(2) as there:
        await filled(there, "a", 2)
        for number in range(100):
            for key in (f"k{number}", "noisy"):
                try:
                    there.places.check(key, left=LONG)
                except OverloadedError:
                    continue
                await filled(there, key)

        assert there.places.snapshot().waiting <= 2 * WAITING


async def test_who_waits_too_long_keeps_the_next_of_its_key_away() -> None:
    """But no other key."""
    async with world(2) as there:
        await filled(there, "a", 3)
        there.now += OLDEST + 1
        with pytest.raises(OverloadedError, match="too long"):
            there.places.check("a", left=LONG)
        there.places.check("b", left=LONG)

        assert there.places.snapshot().oldest == OLDEST + 1


async def test_who_could_not_be_served_in_time_is_told_at_once() -> None:
    """It is known how long an ask takes; a refusal says when the line will be half as long."""
    async with world(2) as there:
        (first,) = await filled(there)
        there.now += 80
        there.holding[first].set()
        second, *_ = await filled(there, "a", 3)
        with pytest.raises(OverloadedError, match="time that is left") as caught:
            there.places.check("a", left=50)
        there.places.check("a", left=100)
        there.now += 10_000
        there.holding[second].set()
        await filled(there)
        with pytest.raises(OverloadedError) as later:
            there.places.check("b", left=100)

    assert (caught.value.retry_after, later.value.retry_after) == (20, LONGEST)


async def test_who_waits_until_its_time_is_over_was_never_sent() -> None:
    """503, and it may be asked elsewhere."""
    async with world(1) as there:
        await filled(there)
        with pytest.raises(OverloadedError, match="stayed taken"):
            async with holding(there.places, "b", 0):
                raise AssertionError

        assert there.places.snapshot().waiting == 0


async def test_more_places_are_given_to_those_who_wait_and_fewer_take_none_away() -> None:
    """A reload changes the number."""
    async with world(1) as there:
        await filled(there, "a", 3)
        there.places.resize(2)
        await settled()
        assert there.places.snapshot().taken == 2
        there.places.resize(1)
        next(iter(there.holding.values())).set()
        await settled()
        state = there.places.snapshot()

    assert (state.taken, state.waiting) == (1, 1)


async def test_no_place_is_ever_lost_in_ten_thousand_steps() -> None:
    """Begin, leave, run out of time, be cancelled: in any order, several in one moment."""
    chance = random.Random(5)
    async with world(3) as there:
        for _ in range(STEPS):
            match chance.randrange(6):
                case 0 | 1 if len(there.scopes) < 30:
                    there.start(chance.choice("abcd"), left=chance.choice([LONG, LONG, 0.0, 1e-6]))
                case 2 | 3 if there.holding:
                    chance.choice(list(there.holding.values())).set()
                case 4 if there.scopes:
                    chance.choice(list(there.scopes.values())).cancel()
                case _:
                    there.now += 1
                    await anyio.lowlevel.checkpoint()
            state = there.places.snapshot()
            assert state.taken <= 3
            assert not state.waiting or state.taken == 3
        for scope in list(there.scopes.values()):
            scope.cancel()
        while there.scopes:  # on asyncio, who began last is blocked before it hears that it is cancelled
            await anyio.lowlevel.checkpoint()
        state = there.places.snapshot()

    assert (state.taken, state.waiting, state.oldest) == (0, 0, 0.0)
    assert len(there.order) > 500
    assert there.refused > 50
