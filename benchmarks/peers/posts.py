"""How often an upstream that fails is asked for one call, by each contestant as it comes."""

import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from benchmarks.peers.cells import SMALL, Cell
from benchmarks.peers.contestants import DIRECT, Ask, Contestant
from benchmarks.peers.measure import Bench, started
from benchmarks.peers.processes import FailedError

STATUSES: Final = (500, 429)
CALLS: Final = 5
CELL: Final = Cell(body=SMALL, connections=1)
PATIENCE: Final = 60  # seconds


def posts(bench: Bench, contestants: Sequence[Contestant]) -> dict[str, list[float]]:
    """Give the POSTs a call, by contestant and status."""
    told: dict[str, list[float]] = {}
    for contestant in contestants:
        if contestant.name != DIRECT:
            with suppress(FailedError):
                told[contestant.name] = [_posts(bench, contestant, status) for status in STATUSES]
    return told


def _posts(bench: Bench, contestant: Contestant, status: int) -> float:
    with started(bench, contestant, CELL, bench.upstream.failing(status)) as one:
        before = bench.upstream.count()
        for _ in range(CALLS):
            _call(one.ask)
        return (bench.upstream.count() - before) / CALLS


def _call(ask: Ask) -> None:
    headers = {**ask.headers, "content-type": "application/json"}
    request = urllib.request.Request(ask.url, ask.body.encode(), headers)  # noqa: S310, on this machine
    with suppress(OSError), urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        answer.read()
