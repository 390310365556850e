"""What an admission costs, beside the moving window of `limits` itself: in memory by the number of keys, and in Redis.

Times are of our processor, so that other work of the machine does not count. What `limits` keeps in memory is looked
through by a task, key by key, that each hit starts unless one runs: `sweep` is a hit with its own, `hit` one of many.
`--seconds N` says how long each figure is measured. One core: `taskset -c 0 python3 -m benchmarks limiter`.
"""

import argparse
import asyncio  # noqa: TID251, measures on one loop
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from limits import RateLimitItemPerMinute  # noqa: TID251, what is measured beside ours
from limits.aio.storage import MemoryStorage, RedisStorage  # noqa: TID251
from limits.aio.strategies import MovingWindowRateLimiter  # noqa: TID251
from rich.console import Console
from rich.table import Table

from amux_asgi import rules
from amux_asgi.admission import Hit
from amux_asgi.stores.central import Pace, open_central
from amux_asgi.stores.limiter import LocalStorage
from amux_asgi.windows import MemoryLimiter
from tests.limit_stores import store

KEYS: Final = (10, 1_000, 100_000)
RULE: Final = rules("1000000 requests/minute")[0]
ITEM: Final = RateLimitItemPerMinute(1_000_000)
FOUR: Final = rules("1000000 requests/minute", "1000000 images/minute", "1000000 megapixels/minute", "1000 concurrent")
IN_FLIGHT: Final = 64
STRIDE: Final = 7919
Hitting = Callable[[int], Awaitable[object]]


async def alone(hit: Hitting, keys: int, seconds: float) -> float:
    """Hit one key after the other, near and far ones in turn; give the microseconds of each."""
    at = hits = 0
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        at = (at + STRIDE) % keys
        await hit(at)
        hits += 1
    return 1e6 * (time.process_time() - begun) / hits


async def filled(hit: Hitting, keys: int) -> Hitting:
    """Hit every key once."""
    for key in range(keys):
        await hit(key)
    gc.freeze()  # what is there for good is nothing that a collector of a long-lived process looks at again and again
    return hit


async def together(hit: Hitting, seconds: float) -> tuple[float, float]:
    """Hit with many at once; give the microseconds of each, and how many there were in a second."""
    hits = 0
    begun, used = time.perf_counter(), time.process_time()

    async def work(key: int) -> None:
        nonlocal hits
        while time.perf_counter() - begun < seconds:
            await hit(key)
            hits += 1

    await asyncio.gather(*(work(key) for key in range(IN_FLIGHT)))
    return 1e6 * (time.process_time() - used) / hits, hits / (time.perf_counter() - begun)


async def in_memory(console: Console, seconds: float) -> None:
    """Measure by the number of keys."""
    table = Table("keys", "limits: hit, µs", "sweep, µs", "ours: hit, µs", "4 rules, µs", "bytes a key")
    for keys in KEYS:
        ours, four = MemoryLimiter(LocalStorage()), MemoryLimiter(LocalStorage())

        async def hit(key: int, limiter: MemoryLimiter = ours) -> None:
            await limiter.admit([Hit(rule=RULE, scope=f"key:{key}")])

        async def hit_four(key: int, limiter: MemoryLimiter = four) -> None:
            limiter.release((await limiter.admit([Hit(rule=rule, scope=f"key:{key}") for rule in FOUR])).lease)

        theirs = await _theirs(keys, seconds)
        one = await alone(await filled(hit, keys), keys, seconds)
        all_four = await alone(await filled(hit_four, keys), keys, seconds)
        figures = (*theirs, one, all_four, await _size(keys))
        table.add_row(f"{keys:,}", *(f"{figure:,.1f}" for figure in figures))
    console.print(table)


async def _theirs(keys: int, seconds: float) -> tuple[float, float]:
    storage = MemoryStorage()
    limiter = MovingWindowRateLimiter(storage)
    await limiter.hit(ITEM, "0")
    (entries,) = storage.events.values()
    for key in range(keys):  # one by one, it would take a lifetime
        storage.events[ITEM.key_for(str(key))] = list(entries)

    async def hit(key: int) -> None:
        await limiter.hit(ITEM, str(key))

    async def swept(key: int) -> None:
        await hit(key)
        if storage.timer is not None:
            await storage.timer

    return await alone(hit, keys, seconds), await alone(swept, keys, seconds)


async def _size(keys: int) -> float:
    tracemalloc.start()
    limiter = MemoryLimiter(LocalStorage())
    for key in range(keys):
        await limiter.admit([Hit(rule=RULE, scope=f"key:{key}")])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / keys


async def in_redis(console: Console, seconds: float) -> None:
    """Measure many at once."""
    table = Table("in Redis, 64 at once", "our processor, µs", "a second")
    with TemporaryDirectory() as folder, store(Path(folder)) as server:
        theirs = MovingWindowRateLimiter(RedisStorage(f"async+{server.url}", implementation="redispy"))
        table.add_row("limits", *_shown(await together(lambda key: theirs.hit(ITEM, str(key)), seconds)))
        async with open_central(server.url, pace=Pace(patience=5)) as ours:

            async def hit_four(key: int) -> None:
                ours.release((await ours.admit([Hit(rule=rule, scope=f"key:{key}") for rule in FOUR])).lease)

            one = await together(lambda key: ours.admit([Hit(rule=RULE, scope=f"key:{key}")]), seconds)
            table.add_row("ours", *_shown(one))
            table.add_row("ours, 4 rules, a place taken and given back", *_shown(await together(hit_four, seconds)))
    console.print(table)


def _shown(figures: tuple[float, float]) -> tuple[str, str]:
    return f"{figures[0]:,.0f}", f"{figures[1]:,.0f}"


async def main() -> None:
    """Measure all of it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=2)
    seconds: float = options.parse_args().seconds
    console = Console()
    await in_memory(console, seconds)
    await in_redis(console, seconds)


if __name__ == "__main__":
    asyncio.run(main())
