"""Recall over the checkpoints of one training run: `step-*` folders, or revisions of one hub id."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from .leaderboard import task_columns
from .loss_curves import STYLES
from .row import STEP, Row, main_rows
from .slices import MARKERS


def curves(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Of each task the main metric, where it is a share (`contains`, `acc` ...), of models whose name says a training
    step: by run and column of the leaderboard, so that protocols stay apart, by rising step.

    A run is the model's name without its step.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    stepped = (row for row in main_rows(rows) if row.step is not None and row.percent and not math.isnan(row.value))
    for group in task_columns(stepped):
        for row in group.rows:
            name = STEP.sub("", row.model).removeprefix("bundled:")
            found.setdefault((name, group.column.key), []).append(row)
    return {place: sorted(of_it, key=lambda row: row.step or 0) for place, of_it in found.items()}


def plot_training(rows: Iterable[Row], outputs: Sequence[Path]) -> None:
    """Write one plot in the format of each output's suffix: a panel a task, a line a run, bars of one standard error.

    ValueError: no row's model says its step.
    """
    found = curves(rows)
    if not found:
        raise ValueError("no model's name says its training step (step-1000, checkpoint-1000), so there is no curve")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import StrMethodFormatter

    runs = list(dict.fromkeys(run for run, _ in found))
    tasks = list(dict.fromkeys(task for _, task in found))
    with pyplot.rc_context({"font.size": 7, "axes.titlesize": 7, "svg.fonttype": "none"}):
        size = (3.4, 0.4 + 1.7 * len(tasks))
        figure, grid = pyplot.subplots(len(tasks), 1, figsize=size, sharex=True, layout="constrained", squeeze=False)
        for axes, task in zip(grid.flat, tasks, strict=True):
            for i, run in enumerate(runs):
                line = found.get((run, task), [])
                colour, dash = STYLES[i % len(STYLES)]
                axes.errorbar(
                    [row.step for row in line],
                    [100 * row.value for row in line],
                    [0.0 if math.isnan(row.error) else 100 * row.error for row in line],
                    color=colour,
                    linestyle=dash,
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=2.5,
                    linewidth=0.9,
                    elinewidth=0.6,
                    label=Path(run).name or run,
                )
            axes.set_title(task, parse_math=False)
            axes.set_ylabel(f"{found[next(place for place in found if place[1] == task)][0].metric} (%)")
            axes.grid(alpha=0.3, linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        legend = grid.flat[0].legend(frameon=False, handlelength=3.5)
        for text in legend.get_texts():
            text.set_parse_math(False)
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(output, dpi=300)
        pyplot.close(figure)
