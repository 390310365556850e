"""More is asked than can be done: simulated by a clock that the test moves, on the places of one channel."""

import heapq
import random
from typing import Final

import anyio
import pytest

from amux_asgi.errors import OverloadedError
from amux_asgi.places import Places
from tests.test_places import holding

pytestmark = pytest.mark.anyio
PLACES: Final = 20
TAKES: Final = 1.0  # seconds, on average
CAPACITY: Final = PLACES / TAKES  # a second
PATIENCE: Final = 60.0  # seconds that clients wait


by_chance: Final = pytest.mark.parametrize(("anyio_backend", "seed"), [("asyncio", 1), ("asyncio", 2), ("trio", 3)])


class Simulation:
    """Requests that come by chance at the rates of their keys, and what becomes of each."""

    def __init__(self, tasks: anyio.abc.TaskGroup, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.places = Places(PLACES, clock=lambda: self.now)
        self.done: list[tuple[float, str, float]] = []  # when, whose, and after how long
        self.refused: list[tuple[float, str, float]] = []  # when, whose, and when to come again
        self._ends: list[tuple[float, int, anyio.Event]] = []
        self._tasks = tasks
        self._count = 0

    async def run(self, seconds: float, rates: dict[str, float]) -> None:
        """Let so many requests a second of each key come."""
        until = self.now + seconds
        coming = [(self.now + self.chance.expovariate(rate), key) for key, rate in rates.items()]
        heapq.heapify(coming)
        while coming[0][0] < until:
            if self._ends and self._ends[0][0] <= coming[0][0]:
                self.now, _, end = heapq.heappop(self._ends)
                end.set()
            else:
                self.now, key = heapq.heappop(coming)
                heapq.heappush(coming, (self.now + self.chance.expovariate(rates[key]), key))
                self._come(key)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
        self.now = until

    def _come(self, key: str) -> None:
        try:
            self.places.check(key, left=PATIENCE)
        except OverloadedError as error:
            self.refused.append((self.now, key, error.retry_after or 0))
        else:
            self._tasks.start_soon(self._ask, key)

    async def _ask(self, key: str) -> None:
        begun = self.now
        async with holding(self.places, key, PATIENCE):
            end = anyio.Event()
            self._count += 1
            heapq.heappush(self._ends, (self.now + self.chance.uniform(0.5, 1.5) * TAKES, self._count, end))
            await end.wait()
        self.done.append((self.now, key, self.now - begun))


async def simulated(seed: int, *parts: tuple[float, dict[str, float]]) -> Simulation:
    """Let one part after the other happen."""
    tasks = anyio.create_task_group()
    world = Simulation(tasks, seed)
    async with tasks:
        for seconds, rates in parts:
            await world.run(seconds, rates)
        tasks.cancel_scope.cancel()
    return world


@by_chance
async def test_five_times_what_can_be_done_leaves_what_can_be_done(seed: int) -> None:
    """As much is done as ever, the rest is told when to come again, and five seconds later all is as before."""
    calm, many = {"a": CAPACITY * 0.5}, {"a": CAPACITY * 2.5, "b": CAPACITY * 2.5}

    world = await simulated(seed, (60, calm), (60, many), (60, calm))

    before = [took for when, _, took in world.done if when <= 60]
    after = [took for when, _, took in world.done if when - took > 125]
    assert len([when for when, _, _ in world.done if 65 < when <= 120]) >= 0.8 * CAPACITY * 55
    assert len(world.refused) > 1000
    assert all(60 < when < 125 and 1 <= again <= 60 for when, _, again in world.refused)
    assert max(after) <= max(before) + 0.5


@by_chance
async def test_one_noisy_key_does_not_keep_another_from_its_pictures(seed: int) -> None:
    """One asks for ten times what can be done, the other for a tenth: it is never refused, and hardly waits."""
    quiet = {"b": CAPACITY * 0.1}

    world = await simulated(seed, (120, quiet), (120, quiet | {"a": CAPACITY * 10}))

    alone = sorted(took for when, key, took in world.done if key == "b" and when <= 120)
    together = sorted(took for when, key, took in world.done if key == "b" and when > 121)
    assert {key for _, key, _ in world.refused} == {"a"}
    assert len(together) > 100
    assert together[int(len(together) * 0.99)] <= 1.5 * alone[int(len(alone) * 0.99)]
