"""What only we are asked: whether work grows with keys and channels, what a second worker brings, who is held up."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from benchmarks.peers.cells import LARGE, SMALL, Cell
from benchmarks.peers.contestants import FULL, Contestant, amux
from benchmarks.peers.figures import Row
from benchmarks.peers.measure import Bench, asked, measured, started
from benchmarks.peers.ours import Setting

KEYS: Final = (10, 100_000)
CHANNELS: Final = (1, 1_000)
CELL: Final = Cell(body=SMALL, connections=32)
HEAVY: Final = Cell(body=LARGE, connections=32)
IMPORTS: Final = 5
ROUNDS: Final = 7  # at least, where a tenth more or less is what is asked


class Finding(Struct, frozen=True, kw_only=True):
    """Something that was found out, in a number; `text` says it for people."""

    name: str
    value: float
    text: str


def growth(bench: Bench) -> list[Finding]:
    """Compare few with many, interleaved: keys in the database, then channels of one model."""
    few_keys, many_keys = (amux(f"{n:,} keys", Setting(keys=n)) for n in KEYS)
    few, many = (amux(f"{n:,} channels", Setting(channels=n)) for n in CHANNELS)
    keys, channels = compared(bench, (few_keys, many_keys)), compared(bench, (few, many))
    return [_work("keys", KEYS, keys), _work("channels", CHANNELS, channels)]


def workers(bench: Bench) -> list[Finding]:
    """Compare two workers with one: in answers a second, and in work for each answer."""
    one, two = compared(bench, (amux("1 worker", Setting()), amux("2 workers", Setting(workers=2))))
    rates, work = _rates(one), _cpus(one)
    shared = "" if len(bench.cores) > 2 else "; the second shares its core with load and upstream"
    text = f"{rates:,.0f} and {_rates(two):,.0f} answers a second with one and two workers{shared}"
    ratio = _cpus(two) / work
    return [
        Finding(name="two workers", value=_rates(two) / rates, text=text),
        Finding(name="two workers, work", value=ratio, text=f"{ratio:.2f} times the work for each answer with two"),
    ]


def compared(bench: Bench, contestants: Sequence[Contestant]) -> list[list[Row]]:
    """Measure ourselves in several forms, in turn."""
    with started(bench, contestants[0], CELL) as first, started(bench, contestants[1], CELL) as second:
        rows: list[list[Row]] = [[], []]
        for one in (first, second):
            asked(bench, CELL, one, bench.seconds)
        for number in range(max(bench.rounds, ROUNDS)):
            for one, told in zip((first, second), rows, strict=True):
                told.append(measured(bench, CELL, one, number))
        return rows


def held_up(bench: Bench) -> list[Finding]:
    """Tell the longest time that 32 answers of 16 MB hold the event loop up."""
    with started(bench, amux(FULL, Setting(), watched=True), HEAVY) as one:
        asked(bench, HEAVY, one, 1)
        place = urlsplit(one.ask.url)
        url = f"{place.scheme}://{place.netloc}/held-up"
        _told(url)
        done = asked(bench, HEAVY, one, HEAVY.seconds(bench.seconds))
        told = _told(url)
    often = f"{told['often']:.0f} times above 20 ms in {done.requests} answers"
    text = f"{told['longest'] * 1000:.0f} ms at the longest, {told['work'] * 1000:.0f} ms of work at once; {often}"
    return [Finding(name="event loop held up", value=told["longest"], text=text)]


def imports() -> list[Finding]:
    """Tell how long `import amux_asgi` takes once it is compiled, beyond Python itself: the best of some."""
    took = [_took("import amux_asgi") - _took("pass") for _ in range(IMPORTS)]
    return [Finding(name="import", value=min(took), text=f"{min(took):.2f} s")]


def _took(code: str) -> float:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=variables)
    return time.perf_counter() - begun


def _told(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url) as answer:  # noqa: S310, on this machine
        return msgspec.json.decode(answer.read(), type=dict[str, float])


def _work(name: str, numbers: tuple[int, int], rows: list[list[Row]]) -> Finding:
    few, many = (_cpus(told) for told in rows)
    text = f"{few * 1000:.0f} and {many * 1000:.0f} µs of work for each answer with {numbers[0]:,} and {numbers[1]:,}"
    return Finding(name=name, value=many / few, text=text)


def _rates(rows: list[Row]) -> float:
    return median(row.rate for row in rows)


def _cpus(rows: list[Row]) -> float:
    """Give the processor seconds for 1,000 answers."""
    return median(row.cpu or 0 for row in rows)
