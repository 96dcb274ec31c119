"""`recall-evals plot`: the frontier of recall against cost, slices of the context, checkpoints of a training run."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..results.frontier import PLOTS, plot_frontier
from ..results.leaderboard import Leaderboard, leaderboard
from ..results.training_plot import plot_training
from .report import read_latest


class PlotError(ValueError):
    """What can't be drawn; the message says why."""


def plot(what: str, runs: Sequence[Path], task: str | None, output: Path) -> tuple[list[Path], list[str]]:
    """Write the plot as PNG and SVG, or in the one format of the output's suffix; returns what was written, and notes
    as of `report`.

    Args:
        what: frontier, slices or training.
        task: of the frontier, the column of the leaderboard, as `report --sort` takes it, default the average over
            shares; of slices and training the only tasks, by comma.

    Raises:
        PlotError: nothing to draw, no such plot, or an output of another format.
        ValueError: a path that isn't there, or no rows.
    """
    if output.suffix and output.suffix not in PLOTS:
        raise PlotError(f"--output {output}: its suffix must be one of {', '.join(PLOTS)}, or none for both")
    outputs = [output] if output.suffix else [output.with_name(output.name + suffix) for suffix in PLOTS]
    notes: list[str] = []
    if what == "slices":
        _plot_slices(runs, task, outputs)
    elif what == "training":
        rows, notes = read_latest(runs)
        wanted = task.split(",") if task else None
        plot_training([row for row in rows if wanted is None or row.task in wanted], outputs)
    elif what == "frontier":
        rows, notes = read_latest(runs)
        board = leaderboard(rows)
        plot_frontier(board, _column(board, task), outputs)
    else:
        raise PlotError(f"{what} is no plot; give frontier, slices or training")
    return outputs, notes


def _column(board: Leaderboard, task: str | None) -> str:
    """The average, or without one the only score; or the task's."""
    shares = [column for column in board.columns if column.scale == 100]
    if not shares:
        raise PlotError("no run has a share right (contains, acc ...), which the frontier is about")
    if task is not None:
        return board.column(task, "--task", shares).key
    averaged = any("average" in line.cells for line in board.lines)
    if not averaged and len(shares) > 1:
        raise PlotError(f"no model has all tasks; give --task, one of {', '.join(column.key for column in shares)}")
    return "average" if averaged else shares[0].key


def _plot_slices(runs: Sequence[Path], tasks: str | None, outputs: Sequence[Path]) -> None:
    """What `recall-evals slices` prints, and its plot in each format."""
    from ..results.slices import Record, plot_slices
    from .slices import slices

    with tempfile.TemporaryDirectory(prefix="recall-evals-slices-") as folder:
        kept = Path(folder, "records.jsonl")
        slices(runs, tasks.split(",") if tasks else None, records=kept)
        models: dict[str, list[Record]] = {}
        for line in kept.read_text(encoding="utf-8").splitlines():
            record = Record(**json.loads(line))
            models.setdefault(record.model, []).append(record)
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        plot_slices(models, output)
