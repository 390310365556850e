"""We, other gateways and nginx on the same work, in one run, side by side: tables, a plot, and every figure as CSV.

Some minutes; `--quick` is done in three, `--all` measures every combination in hours. On a machine that does other
work, only the processor time says much.
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from msgspec import Struct, field

from benchmarks.peers import alone, cells
from benchmarks.peers.contestants import DIRECT, Contestant, contestants
from benchmarks.peers.figures import Row, Summary, summaries
from benchmarks.peers.goals import goals, goals_table
from benchmarks.peers.machine import machine
from benchmarks.peers.measure import Bench, measure
from benchmarks.peers.plot import plot
from benchmarks.peers.posts import posts
from benchmarks.peers.processes import FailedError
from benchmarks.peers.tables import cell_table, csv_text, findings_table, posts_table
from benchmarks.peers.tools import CACHE, tools
from benchmarks.peers.upstream import upstream

FILES: Final = 65_536  # descriptors that thousands of connections need
NOTE: Final = (
    "Times are what is added to the direct line's, whose own are shown whole; all is the median of the rounds, "
    "but the peak, POSTs and failures are the worst of them."
)


class Report(Struct):
    """What a run has found so far."""

    rows: list[Row] = field(default_factory=list[Row])
    summaries: list[Summary] = field(default_factory=list[Summary])
    findings: list[alone.Finding] = field(default_factory=list[alone.Finding])
    text: list[str] = field(default_factory=list[str])

    def say(self, text: str) -> None:
        """Show it now, and keep it."""
        self.text.append(text)
        sys.stdout.write(f"{text}\n\n")
        sys.stdout.flush()


def main() -> int:
    """Set up, measure, show."""
    told = _options()
    if not sys.platform.startswith("linux"):
        sys.stderr.write("what a process takes is read from /proc, which only Linux has\n")
        return 2
    signal.signal(signal.SIGTERM, _end)
    there = tools()
    cores = _cores()
    os.sched_setaffinity(0, {cores[0]})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < FILES and hard > 0 else FILES, hard))
    into = Path(told.into)
    into.mkdir(parents=True, exist_ok=True)
    report = Report()
    with TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        head = machine(there.versions, folder, cores)
        report.say("\n".join(head + [f"missing: {reason}" for reason in there.missing]))
        report.say(NOTE)
        with upstream(folder, there.nginx, cores[0]) as answers:
            bench = Bench(
                upstream=answers,
                wrk=there.wrk,
                folder=folder,
                cores=cores,
                seconds=told.seconds,
                rounds=told.rounds or (2 if told.cells == cells.quick() else 3),
            )
            chosen = [one for one in contestants(there) if not told.only or one.name in (DIRECT, *told.only)]
            _run(bench, chosen, told.cells, report, more=told.alone)
    _keep(report, into, head[0])
    return 0


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave all that was entered, so that what was started is ended."""
    sys.exit(128 + number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks peers", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const=cells.quick(), dest="cells", help="three cells")
    size.add_argument("--all", action="store_const", const=cells.whole(), dest="cells", help="every combination")
    parser.set_defaults(cells=cells.usual())
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement, at least")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="contestants beside the direct line")
    parser.add_argument(
        "--cell", metavar="WORD", default="", help="only cells whose name has it, and no more than them"
    )
    parser.add_argument("--into", default=CACHE / "latest", help="the folder for tables, plot and CSV")
    told = parser.parse_args()
    told.alone = told.cells != cells.quick() and not told.cell
    told.cells = [cell for cell in told.cells if told.cell in cell.name]
    return told


def _cores() -> tuple[int, ...]:
    """Give the cores that may be used, at least two of them; a single one counts twice."""
    found = sorted(os.sched_getaffinity(0))
    return tuple(found) if len(found) > 1 else (found[0], found[0])


def _run(bench: Bench, chosen: Sequence[Contestant], told: Sequence[cells.Cell], report: Report, *, more: bool) -> None:
    for cell in told:
        skipped: dict[str, str] = {}
        report.rows += measure(bench, cell, chosen, skipped)
        found = summaries(cell, report.rows, DIRECT)
        report.summaries += found
        report.say(cell_table(cell, found, skipped))
    for finding in _alone(bench, more=more):
        report.findings.append(finding)
    report.say(findings_table(report.findings))
    if more:
        report.say(posts_table(posts(bench, chosen)))
    report.say(goals_table(goals(report.summaries, report.findings)))


def _alone(bench: Bench, *, more: bool) -> Iterator[alone.Finding]:
    yield from alone.imports()
    parts: tuple[Callable[[Bench], list[alone.Finding]], ...] = (alone.held_up, alone.growth, alone.workers)
    for part in parts if more else ():
        try:
            yield from part(bench)
        except FailedError as exc:
            sys.stderr.write(f"{part.__name__}: {exc}\n")


def _keep(report: Report, into: Path, head: str) -> None:
    (into / "peers.md").write_text("\n\n".join(report.text) + "\n")
    (into / "peers.csv").write_text(csv_text(report.rows))
    files = plot(report.summaries, into, head)
    sys.stdout.write("\n".join(map(str, [into / "peers.md", into / "peers.csv", *files])) + "\n")


if __name__ == "__main__":
    sys.exit(main())
