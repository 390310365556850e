"""The picture of a run: answers a second, contestant by contestant, on a scale of powers of ten."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cells import Cell
from benchmarks.peers.contestants import BARE, BUFFERED, FULL, LITELLM, PORTKEY, UNBUFFERED
from benchmarks.peers.figures import Summary
from benchmarks.peers.tables import number

NAMES: Final = (BUFFERED, UNBUFFERED, LITELLM, PORTKEY, BARE, FULL)  # from the bottom to the top
OURS: Final = "#0b6e4f"
OTHERS: Final = "#868b93"
WIDE: Final = 3  # panels side by side
PANEL: Final = (3.4, 1.9)  # inches
FORMATS: Final = ("png", "svg")


def plot(summaries: Sequence[Summary], folder: Path, head: str) -> list[Path]:
    """Draw a panel for each cell, and give the files; the direct line is left out."""
    import_module("matplotlib").rcParams["svg.fonttype"] = "none"  # only the benchmarks' own environment has it
    figures: Any = import_module("matplotlib.figure")
    cells = list(dict.fromkeys(one.cell for one in summaries))
    high = -(-len(cells) // WIDE)
    size = (PANEL[0] * WIDE + 0.8, PANEL[1] * high + 0.7)
    figure = figures.Figure(figsize=size, layout="constrained")
    figure.suptitle(
        f"answers a second, one worker on one core: more is better, scales are logarithmic\n{head}", fontsize=9
    )
    axes = list(figure.subplots(high, WIDE, squeeze=False, sharey=True).flat)
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    for axis, cell in zip(axes, cells, strict=False):
        _panel(axis, cell, {one.contestant: one.rate for one in summaries if one.cell == cell and one.rate})
    files = [folder / f"peers.{kind}" for kind in FORMATS]
    for file in files:
        figure.savefig(file, dpi=130)
    return files


def _panel(axis: Any, cell: Cell, rates: dict[str, float]) -> None:  # noqa: ANN401, matplotlib's
    there = {name: rates[name] for name in NAMES if name in rates}
    places = [NAMES.index(name) for name in there]
    colours = [OURS if name in (FULL, BARE) else OTHERS for name in there]
    axis.scatter(there.values(), places, c=colours, s=36, zorder=3)
    for place, (name, rate) in zip(places, there.items(), strict=True):
        weight = "bold" if name == FULL else "normal"
        axis.annotate(number(rate), (rate, place), (7, -3), textcoords="offset points", fontsize=8, weight=weight)
    axis.set_title(cell.name, fontsize=9, loc="left")
    axis.set_xscale("log")
    axis.set_yticks(range(len(NAMES)), NAMES)
    axis.set_ylim(-0.6, len(NAMES) - 0.4)
    axis.margins(x=0.3)
    axis.tick_params(which="both", labelsize=8, length=0)
    axis.tick_params(axis="x", which="both", labelbottom=False)
    axis.grid(axis="both", which="major", color="#e4e6e8", linewidth=0.8)
    axis.spines[:].set_visible(False)
