"""The picture of a run: answers a second, and work for each, contestant by contestant."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cells import Cell
from benchmarks.peers.contestants import BARE, BUFFERED, FULL, LITELLM, PORTKEY, UNBUFFERED
from benchmarks.peers.figures import Summary
from benchmarks.peers.tables import number

COLOURS: Final[Mapping[str, str]] = {
    FULL: "#0b6e4f",
    BARE: "#6bbf9c",
    PORTKEY: "#7a7f87",
    LITELLM: "#a9adb3",
    UNBUFFERED: "#c9ccd1",
    BUFFERED: "#dcdee1",
}
WIDE: Final = 3  # panels side by side
PANEL: Final = (4.2, 2.3)  # inches
FORMATS: Final = ("png", "svg")


def plot(summaries: Sequence[Summary], folder: Path, head: str) -> list[Path]:
    """Draw a panel for each cell, bars from fast to slow on a scale of powers of ten; the direct line is left out."""
    figures: Any = import_module("matplotlib.figure")  # only the benchmarks' own environment has it
    cells = list(dict.fromkeys(one.cell for one in summaries))
    high = -(-len(cells) // WIDE)
    figure = figures.Figure(figsize=(PANEL[0] * WIDE, PANEL[1] * high + 0.7), layout="constrained")
    figure.suptitle(f"answers a second, one worker on one core (more is better)\n{head}", fontsize=9)
    axes = list(figure.subplots(high, WIDE, squeeze=False).flat)
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    for axis, cell in zip(axes, cells, strict=False):
        _panel(axis, cell, [one for one in summaries if one.cell == cell and one.contestant in COLOURS])
    files = [folder / f"peers.{kind}" for kind in FORMATS]
    for file in files:
        figure.savefig(file, dpi=130, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _panel(axis: Any, cell: Cell, told: Sequence[Summary]) -> None:  # noqa: ANN401, matplotlib's
    ordered = sorted(told, key=lambda one: one.rate)
    names = [one.contestant for one in ordered]
    bars = axis.barh(names, [one.rate for one in ordered], color=[COLOURS[name] for name in names])
    axis.bar_label(bars, [number(one.rate) for one in ordered], padding=3, fontsize=8)
    axis.set_title(cell.name, fontsize=9, loc="left")
    axis.set_xscale("log")
    axis.margins(x=0.25)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
