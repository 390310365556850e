"""What was measured, for people and for programs: Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import asdict

from benchmarks.peers.alone import Finding
from benchmarks.peers.cells import MB, Cell
from benchmarks.peers.figures import Row, Summary
from benchmarks.peers.posts import STATUSES

HEAD = (
    "",
    "answers/s",
    "p50, ms",
    "p95, ms",
    "p99, ms",
    "CPU s/1,000",
    "idle, MB",
    "peak, MB",
    "POSTs/call",
    "failed",
)


def cell_table(cell: Cell, told: Sequence[Summary], skipped: Mapping[str, str]) -> str:
    """Show a cell: times are added to the direct line's, which are whole."""
    streamed = any(one.first is not None for one in told)
    head = (*HEAD, "first event, ms") if streamed else HEAD
    rows = [_cells(one, streamed=streamed) for one in told]
    notes = [f"\n{name}: {reason}." for name, reason in skipped.items()]
    title = f"**{cell.name}**, {cell.in_flight / MB:,.1f} MB in flight"
    return "\n".join([title, "", table(head, rows), *notes])


def findings_table(findings: Iterable[Finding]) -> str:
    """Show what only we were asked."""
    return table(("amux-asgi alone", ""), [(one.name, one.text) for one in findings])


def posts_table(told: Mapping[str, Sequence[float]]) -> str:
    """Show how often failing upstreams were asked."""
    head = ("POSTs a call, upstream fails with", *map(str, STATUSES))
    return table(head, [(name, *(f"{figure:.1f}" for figure in figures)) for name, figures in told.items()])


def csv_text(rows: Iterable[Row]) -> str:
    """Give every round of every contestant: seconds and bytes."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=Row.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        fields = {name: round(v, 6) if isinstance(v, float) else v for name, v in asdict(row).items()}
        writer.writerow(fields)
    return out.getvalue()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write Markdown that is a table in a terminal too: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (head, rule, *rows))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])} |"


def _cells(one: Summary, *, streamed: bool) -> list[str]:
    shown = [
        one.contestant,
        number(one.rate),
        *(f"{seconds * 1000:,.2f}" if one.rate else "" for seconds in (one.added50, one.added95, one.added99)),
        "" if one.cpu is None else f"{one.cpu:.3f}",
        *("" if size is None else f"{size / MB:,.0f}" for size in (one.idle, one.peak)),
        f"{one.posts:.2f}",
        f"{one.failed:,}",
    ]
    return [*shown, "" if one.first is None else f"{one.first * 1000:,.2f}"] if streamed else shown


def number(value: float) -> str:
    """Show three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
