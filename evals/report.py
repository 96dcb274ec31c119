"""`recall-evals report`: the leaderboard of runs, as text for several readers or as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from ..results.leaderboard import leaderboard
from ..results.leaderboard_text import FORMATS
from ..results.rows import Reading, Row, latest, read_runs
from ..results.text import one_line

SHOWN = 5  # of unknown files, by name


class ReportError(ValueError):
    """Runs of which there is nothing to report; the message says why."""


def report(
    runs: Sequence[Path], form: str = "table", sort: str | None = None, published: bool = False
) -> tuple[str, list[str]]:
    """The report, and notes: what could not be read, and scores that later runs changed.

    Args:
        form: table, md, latex, csv or html.
        sort: a column, its best first; None: in the order of the runs.
        published: with the published rows of the same tasks, and the differences to them.

    Raises:
        ReportError: an unknown format, or no rows.
        ValueError: a path that isn't there, or no such column.
    """
    known = [*FORMATS, "html"]
    if form not in known:
        raise ReportError(f"--format {form} is unknown; give one of {', '.join(known)}")
    rows, notes = read_latest(runs)
    board = leaderboard(rows, published)
    if sort is not None:
        board = board.sorted_by(sort)
    if form == "html":
        from ..results.page import page  # with what it takes to draw plots

        return page(board, rows), notes
    return FORMATS[form](board), notes


def read_latest(runs: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The rows of runs, of several of one kind the last, and notes. ReportError: there are none."""
    reading = read_runs(runs)
    notes = [*reading.problems, *_unknown(reading)]
    if not reading.rows:
        where = ", ".join(map(str, runs)) or "no folder"
        raise ReportError("\n".join([f"{where}: no results of lm-eval; give what its --output_path named", *notes]))
    rows, changed = latest(reading.rows)
    return rows, [one_line(note) for note in (*notes, *changed)]


def _unknown(reading: Reading) -> list[str]:
    if not reading.unknown:
        return []
    names = ", ".join(map(str, reading.unknown[:SHOWN]))
    more = f" and {len(reading.unknown) - SHOWN} more" if len(reading.unknown) > SHOWN else ""
    return [f"nothing of lm-eval's, passed by: {names}{more}"]
