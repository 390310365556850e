"""One cell: all contestants side by side on the same machine, asked one after the other, round after round."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import UNSET, Struct

from benchmarks.peers.cells import Cell
from benchmarks.peers.checking import fault
from benchmarks.peers.contestants import Ask, Contestant, Place
from benchmarks.peers.figures import Load, Row, posts_a_call
from benchmarks.peers.load import LoadError, load
from benchmarks.peers.processes import (
    FailedError,
    forget_peak,
    free_port,
    memory,
    processor_seconds,
    running,
    settle,
)
from benchmarks.peers.upstream import Upstream

WARMING: Final = 1  # seconds


class Bench(Struct, frozen=True, kw_only=True, eq=False):
    """What all measurements of a run share; `cores`: of the load and upstream, and of the contestants, in turn."""

    upstream: Upstream
    wrk: Path | None
    folder: Path
    cores: tuple[int, ...]
    seconds: float
    rounds: int


class Running(Struct, frozen=True, kw_only=True):
    """A contestant that has started: `idle` is what it holds before the first request."""

    name: str
    ask: Ask
    pid: int | None
    idle: int | None


@contextmanager
def started(bench: Bench, contestant: Contestant, cell: Cell, upstream: str | None = None) -> Generator[Running]:
    """Run a contestant in front of the upstream until left.

    Raises:
        FailedError: it does not start, or does not do the work.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=bench.folder, ignore_cleanup_errors=True)))
        url = upstream or bench.upstream.url(cell)
        place = Place(upstream=url, port=free_port(), folder=folder, cell=cell)
        pid = None
        if contestant.start is not None:
            command = contestant.start(place)
            cores = {bench.cores[(1 + i) % len(bench.cores)] for i in range(contestant.cores)}
            process = running(command, place.port, folder / "log", cores=cores, variables=contestant.variables)
            pid = stack.enter_context(process)
            settle(pid)
            forget_peak(pid)
        idle = None if pid is None else memory(pid, "VmRSS")
        ask = contestant.ask(place)
        if upstream is None and (reason := fault(ask, cell.body)):
            raise FailedError(reason)
        yield Running(name=contestant.name, ask=ask, pid=pid, idle=idle)


def measure(bench: Bench, cell: Cell, contestants: Sequence[Contestant], skipped: dict[str, str]) -> Iterator[Row]:
    """Measure each in turn, round after round; `skipped` is told who does not do this work, and why."""
    with ExitStack() as stack:
        there: list[Running] = []
        for contestant in contestants:
            try:
                there.append(stack.enter_context(started(bench, contestant, cell)))
            except FailedError as exc:
                skipped[contestant.name] = str(exc)
        for one in there:
            asked(bench, cell, one, max(WARMING, cell.delay * 1.2))
        for number in range(cell.rounds(bench.rounds, bench.seconds)):
            turn = number % len(there) if there else 0
            for one in [*there[turn:], *there[:turn]]:
                try:
                    yield measured(bench, cell, one, number)
                except LoadError as exc:
                    skipped[one.name] = str(exc)


def measured(bench: Bench, cell: Cell, one: Running, number: int = 0) -> Row:
    """Measure one of them once."""
    place = bench.upstream.place(cell)
    seen = bench.upstream.settled(place)
    used = processor_seconds(one.pid) if one.pid else 0
    told = asked(bench, cell, one, cell.seconds(bench.seconds), rest=False)
    used = processor_seconds(one.pid) - used if one.pid else 0
    _rest(one, cell)
    seen = bench.upstream.settled(place) - seen
    return Row(
        cell=cell.name,
        contestant=one.name,
        round=number,
        rate=told.requests / told.seconds,
        p50=told.p50,
        p95=told.p95,
        p99=told.p99,
        first=None if told.first is UNSET else told.first,
        cpu=used / told.requests * 1000 if one.pid and told.requests else None,
        idle=one.idle,
        peak=memory(one.pid, "VmHWM") if one.pid else None,
        in_flight=cell.in_flight,
        posts=posts_a_call(seen, told),
        failed=told.failed,
    )


def asked(bench: Bench, cell: Cell, one: Running, seconds: float, *, rest: bool = True) -> Load:
    """Ask for some seconds."""
    told = load(one.ask, cell.connections, seconds, wrk=bench.wrk, stream=cell.body.stream)
    if rest:
        _rest(one, cell)
    return told


def _rest(one: Running, cell: Cell) -> None:
    """Wait until nobody works for clients that have left; the upstream's answers are still to come."""
    time.sleep(cell.delay)
    if one.pid:
        settle(one.pid)
