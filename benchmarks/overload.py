"""What the gateway does when more is asked than can be done: over sockets, against an upstream that takes its time.

Compared are parts of one run: the machine's own speed does not count.
"""

import asyncio  # noqa: TID251, the load's own loop
import logging
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import cycle
from typing import Final

import aiohttp  # noqa: TID251, the load
from rich.console import Console
from rich.table import Table

from amux_asgi import ChannelConfig, Config, KeyConfig, images_app
from tests.serve import serve
from tests.stub import Reader, Stub, Writer, upstream, whole

PLACES: Final = 10
TAKES: Final = 0.5  # seconds on average; a half more or less
CAPACITY: Final = PLACES / TAKES  # a second
SECONDS: Final = 10  # of each part
TIMES: Final = cycle(TAKES * (0.5 + i * 7 % 20 / 20) for i in range(20))  # seconds of each, mixed
KEYS: Final = {"a": "key-of-tenant-a-0123", "b": "key-of-tenant-b-0123"}
Answers = list[tuple[str, int, float, float]]  # whose, status, when it was asked (seconds), for how long


async def slow(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Paint for a while."""
    await asyncio.sleep(next(TIMES))
    writer.write(whole())
    await writer.drain()


async def load(url: str, seconds: float, rates: Mapping[str, float]) -> Answers:
    """Ask so often a second for each tenant, by chance, whatever comes of it."""
    answers: Answers = []
    chance = random.Random(1)  # noqa: S311, it is no secret
    begun = time.perf_counter()

    async def one(session: aiohttp.ClientSession, name: str) -> None:
        asked = time.perf_counter()
        headers = {"authorization": f"Bearer {KEYS[name]}"}
        async with session.post(url, json={"model": "m", "prompt": "a lantern"}, headers=headers) as answer:
            await answer.read()
            answers.append((name, answer.status, asked - begun, time.perf_counter() - asked))

    async def tenant(tasks: asyncio.TaskGroup, session: aiohttp.ClientSession, name: str, rate: float) -> None:
        at = chance.expovariate(rate)
        while at < seconds:
            await asyncio.sleep(max(0, begun + at - time.perf_counter()))
            tasks.create_task(one(session, name))
            at += chance.expovariate(rate)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for name, rate in rates.items():
            tasks.create_task(tenant(tasks, session, name, rate))
    return answers


async def measure(url: str) -> list[tuple[str, str, str]]:
    """Run the parts one after the other; each waits for its answers."""
    await load(url, 1, {"a": CAPACITY})
    peak = await load(url, SECONDS, {"a": CAPACITY})
    many = await load(url, SECONDS, {"a": CAPACITY * 2.5, "b": CAPACITY * 2.5})
    after = await load(url, SECONDS, {"a": CAPACITY / 2})
    alone = await load(url, SECONDS * 2, {"b": CAPACITY / 10})
    noisy = await load(url, SECONDS * 2, {"a": CAPACITY * 10, "b": CAPACITY / 10})
    quiet = [answer for answer in noisy if answer[0] == "b"]
    refused = [took for _, status, _, took in many if status == 503]
    return [
        ("5 x: done, of what is done at the peak", f"{len(done(many)) / len(done(peak)):.0%}", ">= 80 %"),
        ("5 x: refused within, 50 of 100", f"{at(refused, 0.5) * 1000:.0f} ms", "<= 50 ms"),
        ("5 x: refused within, 99 of 100", f"{at(refused, 0.99) * 1000:.0f} ms", "(the load shares the cores)"),
        ("then half of it: answered", f"{len(done(after)) / len(after):.1%}", "100 %"),
        ("one key at 10 x: the other's answered", f"{len(done(quiet)) / len(quiet):.1%}", ">= 99.9 %"),
        ("and its time, 99 of 100, of that alone", f"{at(done(quiet), 0.99) / at(done(alone), 0.99):.2f}", "<= 1.5"),
    ]


def done(answers: Answers) -> list[float]:
    """Give for how long those took that were answered with a picture."""
    return [took for _, status, _, took in answers if status == 200]


def at(values: Iterable[float], share: float) -> float:
    """Give the value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def main() -> None:
    """Measure, and show it."""
    logging.getLogger("amux_asgi").setLevel(logging.ERROR)
    table = Table("what", "measured", "goal", title=f"{PLACES} places, {TAKES} s a picture: {CAPACITY:g} a second")
    with ExitStack() as stack:
        stub = stack.enter_context(upstream(scripts={"/slow": slow}))
        channel = ChannelConfig(
            name="c", adapter="openai-compatible", base_url=f"{stub.url}/slow", models=("m",), concurrency=PLACES
        )
        keys = tuple(KeyConfig(name=name, key=key) for name, key in KEYS.items())
        url = stack.enter_context(serve(images_app(Config(channels=(channel,), keys=keys))))
        for row in asyncio.run(measure(f"{url}/v1/images/generations")):
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
