"""Recall against what it costs: memory of the state and speed of decoding, with the Pareto front drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .leaderboard import Leaderboard
from .loss_curves import STYLES
from .slices import MARKERS

PLOTS = (".png", ".svg")


@dataclass(frozen=True)
class Point:
    """A model: cost (bytes or tokens a second, positive), score and its standard error (NaN: unknown)."""

    name: str
    cost: float
    score: float
    error: float


def points(board: Leaderboard, cost: str, column: str) -> list[Point]:
    """The runs that have both a cost (`state_bytes`, `decode_tokens_per_second`) and a score, in percent for shares."""
    scale = next(c.scale for c in board.columns if c.key == column)
    found = []
    for line in board.lines:
        if line.published or cost not in line.cells or column not in line.cells:
            continue
        score = line.cells[column]
        if line.cells[cost].value > 0 and not math.isnan(score.value):
            found.append(Point(line.name, line.cells[cost].value, scale * score.value, scale * score.error))
    return found


def pareto(found: Sequence[Point], less_is_better: bool) -> list[Point]:
    """Those that none beats in both, by rising cost: no other scores as high or higher for less."""
    front: list[Point] = []
    for point in sorted(found, key=lambda p: (p.cost if less_is_better else -p.cost, -p.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return sorted(front, key=lambda p: p.cost)


def staircase(front: Sequence[Point], less_is_better: bool) -> list[tuple[float, float]]:
    """Corners of the best score to be had for each cost, by rising cost: between two points of the front it is that of
    the cheaper one, of less memory or more speed."""
    corners = [(p.cost, p.score) for p in front]
    turns = [(b.cost, a.score) if less_is_better else (a.cost, b.score) for a, b in pairwise(front)]
    return [corner for pair in zip(corners, turns, strict=False) for corner in pair] + corners[-1:]


def plot_frontier(board: Leaderboard, column: str, outputs: Sequence[Path]) -> None:
    """Write one plot in the format of each output's suffix: score against the state's bytes, and against the tokens
    decoded a second where any run has a speed. At a column's width; a marker a model, labelled where it stands, filled
    on the front.

    ValueError: no run has both a score and the size of its state.
    """
    panels = [("state_bytes", "state of one sequence (bytes)", True)]
    if points(board, "decode_tokens_per_second", column):
        panels.append(("decode_tokens_per_second", "decoding (tokens/s)", False))
    if not points(board, "state_bytes", column):
        raise ValueError(
            f"no run has both a score of {column} and state_bytes, which the models of recall-evals report"
        )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heading = next(c.heading for c in board.columns if c.key == column)
    with pyplot.rc_context({"font.size": 7, "svg.fonttype": "none"}):
        size = (3.4, 2.3 * len(panels))
        figure, grid = pyplot.subplots(len(panels), 1, figsize=size, layout="constrained", squeeze=False)
        for axes, (cost, label, less) in zip(grid.flat, panels, strict=True):
            _panel(axes, points(board, cost, column), less, [line.name for line in board.lines])
            axes.set_xlabel(label)
            axes.set_ylabel(" ".join(heading).strip())
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(output, dpi=300)
        pyplot.close(figure)


def _panel(axes: Any, found: Sequence[Point], less_is_better: bool, names: Sequence[str]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    front = pareto(found, less_is_better)
    steps = staircase(front, less_is_better)
    axes.plot([cost for cost, _ in steps], [score for _, score in steps], color="0.6", linewidth=0.8, zorder=1)
    for point in found:
        place = names.index(point.name)
        axes.errorbar(
            point.cost,
            point.score,
            None if math.isnan(point.error) else point.error,
            color=STYLES[place % len(STYLES)][0],
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            markerfacecolor="white" if point not in front else None,
        )
    axes.margins(x=0.12, y=0.15)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    # Within a decade or so there may be no power of ten.
    axes.xaxis.set_minor_formatter(EngFormatter(sep="") if high < 60 * low else NullFormatter())
    _label(axes, found, steps)


def _label(axes: Any, found: Sequence[Point], steps: Sequence[tuple[float, float]]) -> None:
    """Names beside their points, where they cover neither a point, the front nor a name that stands already."""
    axes.figure.canvas.draw()
    renderer = axes.figure.canvas.get_renderer()
    # The boxes of markers with their bars, in pixels.
    taken = []
    for point in found:
        error = 0.0 if math.isnan(point.error) else point.error
        (x, low), (_, high) = axes.transData.transform(
            [(point.cost, point.score - error), (point.cost, point.score + error)]
        )
        taken.append((x - 5, low - 5, x + 5, high + 5))
    for (x0, y0), (x1, y1) in pairwise(axes.transData.transform(step) for step in steps):
        taken.append((x0 - 1, min(y0, y1) - 1, x1 + 1, max(y0, y1) + 1))
    frame = axes.get_window_extent(renderer)
    places = [
        (6, 0, "left", "center"),
        (-6, 0, "right", "center"),
        (0, 7, "center", "bottom"),
        (0, -7, "center", "top"),
    ]
    places += [(6, 7, "left", "bottom"), (-6, 7, "right", "bottom"), (6, -8, "left", "top"), (-6, -8, "right", "top")]
    places += [
        (12, 16, "left", "bottom"),
        (-12, 16, "right", "bottom"),
        (12, -17, "left", "top"),
        (-12, -17, "right", "top"),
    ]
    for point in sorted(found, key=lambda p: -p.cost):
        best = None
        for dx, dy, align, base in places:
            text = axes.annotate(
                point.name,
                (point.cost, point.score),
                (dx, dy),
                textcoords="offset points",
                ha=align,
                va=base,
                fontsize=6,
            )
            text.set_parse_math(False)  # a name with dollar signs is no formula
            box = text.get_window_extent(renderer)
            covered = sum(
                max(0.0, min(box.x1, x1) - max(box.x0, x0)) * max(0.0, min(box.y1, y1) - max(box.y0, y0))
                for x0, y0, x1, y1 in taken
            )
            outside = max(0.0, frame.x0 - box.x0) + max(0.0, box.x1 - frame.x1 - 4)
            outside += max(0.0, frame.y0 - box.y0) + max(0.0, box.y1 - frame.y1)
            cost = covered + 20 * outside
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        if best is not None:
            taken.append((best[2].x0, best[2].y0, best[2].x1, best[2].y1))
