"""What is measured, as values: of one load, of one contestant in one round, and of all its rounds."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from msgspec import UNSET, Struct, UnsetType, convert
from msgspec.structs import asdict

from benchmarks.peers.cells import Cell

FIGURES: Final = ("rate", "p50", "p95", "p99", "first", "cpu", "peak", "posts", "failed")
WORST: Final = ("peak", "posts", "failed")


class Load(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a load saw; times in seconds. `first` is when the first of a body came, by the middle of all."""

    requests: int  # answered
    sent: int
    seconds: float
    bytes: int
    p50: float
    p95: float
    p99: float
    failed: int  # refused, cut or too late
    first: float | UnsetType = UNSET


class Row(Struct, frozen=True, kw_only=True):
    """One contestant in one round of one cell: seconds and bytes; `None` where it cannot be told."""

    cell: str
    contestant: str
    round: int
    rate: float  # answers a second
    p50: float
    p95: float
    p99: float
    first: float | None
    cpu: float | None  # of the contestant, for 1,000 answers
    idle: int | None  # resident before the first request
    peak: int | None  # at the worst moment
    in_flight: int
    posts: float  # that the upstream saw for each call
    failed: int


class Summary(Struct, frozen=True, kw_only=True):
    """One contestant in one cell, by the middle of its rounds; times are beyond the direct line's, in seconds."""

    cell: Cell
    contestant: str
    rate: float
    added50: float
    added95: float
    added99: float
    first: float | None
    cpu: float | None
    idle: int | None
    peak: int | None
    posts: float
    failed: int


def share(values: Sequence[float], part: float) -> float:
    """Give the value that this part of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0


def posts_a_call(seen: int, load: Load) -> float:
    """Tell how often the upstream was asked for one call.

    The load's end cuts off what is under way, which the upstream may have seen or not: between those answered and those
    sent, each call is one.
    """
    if seen > load.sent:
        return seen / max(load.sent, 1)
    return min(1.0, seen / max(load.requests, 1))


def summaries(cell: Cell, rows: Iterable[Row], direct: str) -> list[Summary]:
    """Take the rounds of a cell together; the direct line's own times are as they are."""
    by: dict[str, list[Row]] = {}
    for row in rows:
        if row.cell == cell.name:
            by.setdefault(row.contestant, []).append(row)
    base = _middle(by[direct]) if direct in by else None
    return [_summary(cell, _middle(told), base if name != direct else None) for name, told in by.items()]


def _summary(cell: Cell, row: Row, base: Row | None) -> Summary:
    return Summary(
        cell=cell,
        contestant=row.contestant,
        rate=row.rate,
        added50=row.p50 - (base.p50 if base else 0),
        added95=row.p95 - (base.p95 if base else 0),
        added99=row.p99 - (base.p99 if base else 0),
        first=None if row.first is None else row.first - ((base.first or 0) if base else 0),
        cpu=row.cpu,
        idle=row.idle,
        peak=row.peak,
        posts=row.posts,
        failed=row.failed,
    )


def _middle(rows: Sequence[Row]) -> Row:
    """Give the median of each figure, but the worst of what should not be."""
    told = [asdict(row) for row in rows]
    known = {name: [row[name] for row in told if row[name] is not None] for name in FIGURES}
    figures = {name: (max if name in WORST else median)(values) for name, values in known.items() if values}
    return convert({**told[0], **figures}, Row)
