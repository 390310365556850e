"""What the gateway wants to reach, beside what it reached in this run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from benchmarks.peers.alone import Finding
from benchmarks.peers.cells import KB, LARGE, MB, MIDDLE, SMALL, Cell
from benchmarks.peers.contestants import FULL, LITELLM, PORTKEY, UNBUFFERED
from benchmarks.peers.figures import Summary
from benchmarks.peers.tables import table

ONE: Final = Cell(body=SMALL, connections=1)
BUSY: Final = Cell(body=SMALL, connections=32)
BIG: Final = Cell(body=MIDDLE, connections=32)
HUGE: Final = Cell(body=LARGE, connections=32)
WAITING: Final = Cell(body=SMALL, connections=2000, delay=5)
RATIOS: Final = (
    (BUSY, LITELLM, 45.0),
    (BUSY, PORTKEY, 4.0),
    (BIG, LITELLM, 7.0),
    (BIG, PORTKEY, 10.0),
    (BIG, UNBUFFERED, 1.3),
)


class Goal(Struct, frozen=True, kw_only=True):
    """One of them: `limit` is the least, or the most where less is better.

    `work` is the same ratio by processor time, which says more than rates on a machine that does other work.
    """

    name: str
    reached: float
    limit: float
    unit: str = ""
    least: bool = True
    work: float | None = None

    @property
    def met(self) -> bool:
        """Tell whether it was reached."""
        return self.reached >= self.limit if self.least else self.reached <= self.limit


Found = Mapping[tuple[Cell, str], Summary]


def goals(summaries: Iterable[Summary], findings: Iterable[Finding]) -> list[Goal]:
    """Give those that this run can tell about."""
    found = {(one.cell, one.contestant): one for one in summaries}
    values = {finding.name: finding.value for finding in findings}
    return [*_ratios(found), *_costs(found), *_alone(values)]


def goals_table(told: Sequence[Goal]) -> str:
    """Show them."""
    rows = [
        (
            goal.name,
            f"{goal.reached:.3g}{goal.unit}",
            f"{'>=' if goal.least else '<='} {goal.limit:g}{goal.unit}",
            "yes" if goal.met else "no",
            "" if goal.work is None else f"{goal.work:.3g}x",
        )
        for goal in told
    ]
    return table(("goal, everything on", "reached", "wanted", "met", "by processor time"), rows)


def _ratios(found: Found) -> Iterator[Goal]:
    for cell, other, limit in RATIOS:
        ours, theirs = found.get((cell, FULL)), found.get((cell, other))
        if ours and theirs and theirs.rate:
            work = theirs.cpu / ours.cpu if ours.cpu and theirs.cpu else None
            name = f"{cell.body.name}: times {other}"
            yield Goal(name=name, reached=ours.rate / theirs.rate, limit=limit, unit="x", work=work)


def _costs(found: Found) -> Iterator[Goal]:
    if one := found.get((ONE, FULL)):
        yield Goal(name="added p50, 1 connection", reached=one.added50 * 1000, limit=0.5, unit=" ms", least=False)
        yield Goal(name="resident when idle", reached=(one.idle or 0) / MB, limit=80, unit=" MB", least=False)
    for cell in (BIG, HUGE):
        if one := found.get((cell, FULL)):
            grown = _grown(one) / cell.in_flight
            yield Goal(
                name=f"{cell.name}: grown by, of bytes in flight", reached=grown, limit=1.3, unit="x", least=False
            )
    if one := found.get((WAITING, FULL)):
        each = _grown(one) / WAITING.connections / KB
        yield Goal(name=f"{WAITING.connections:,} that wait: each", reached=each, limit=40, unit=" KB", least=False)


def _alone(values: Mapping[str, float]) -> Iterator[Goal]:
    for name, limit, scale, unit in (
        ("event loop held up", 20, 1000, " ms"),
        ("import", 0.25, 1, " s"),
        ("keys", 1.1, 1, "x"),
        ("channels", 1.1, 1, "x"),
    ):
        if name in values:
            yield Goal(name=NAMES[name], reached=values[name] * scale, limit=limit, unit=unit, least=False)
    if "two workers" in values:
        yield Goal(name="two workers, times one", reached=values["two workers"], limit=1.7, unit="x")


NAMES: Final = {
    "event loop held up": "event loop held up by 32 x 16 MB",
    "import": "import amux_asgi",
    "keys": "work with 100,000 keys, of that with 10",
    "channels": "work with 1,000 channels, of that with 1",
}


def _grown(one: Summary) -> int:
    return (one.peak or 0) - (one.idle or 0)
