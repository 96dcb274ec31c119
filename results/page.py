"""The report as one HTML file that needs no network: a table to sort and filter, the plots, each task's prompts.

Names, answers and prompts are foreign text. Jinja escapes all of them, and the script puts them in as text alone.
"""

import base64
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .frontier import plot_frontier, points
from .leaderboard import Leaderboard
from .leaderboard_text import ERRORS, shown
from .row import Row, main_rows, short_names
from .samples import Sample, read_samples
from .text import one_line
from .training_plot import curves, plot_training

PROMPTS_A_TASK = 500  # of up to 8 KB each


def page(board: Leaderboard, rows: Sequence[Row]) -> str:
    """The page of a leaderboard and of the rows it was made of, whose samples files are read where there are any."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        columns=board.columns,
        lines=[(line, [_cell(board, line.cells, i) for i in range(len(board.columns))]) for line in board.lines],
        errors=ERRORS,
        footnotes=board.footnotes,
        remarks=board.remarks,
        plots=_plots(board, rows),
        tasks=_tasks(rows),
    )


def _cell(board: Leaderboard, cells: dict[str, Any], i: int) -> dict[str, Any]:
    column = board.columns[i]
    if (cell := cells.get(column.key)) is None:
        return {"text": "", "value": "", "mark": "", "notes": ()}
    value = "" if math.isnan(cell.value) else repr(cell.value)
    return {"text": shown(cell, column), "value": value, "mark": cell.mark, "notes": cell.notes}


def _plots(board: Leaderboard, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Title and data address of each plot there is something for."""
    found = []
    for column in board.columns:
        if column.scale != 100 or not column.ranked:
            continue
        if len(points(board, "state_bytes", column.key)) > 1:
            title = f"{column.heading[0]}: recall against memory and speed"
            found.append((title, _svg(partial(plot_frontier, board, column.key))))
    if any(len(line) > 1 for line in curves(rows).values()):
        found.append(("Training", _svg(partial(plot_training, rows))))
    return found


def _svg(draw: Callable[[Sequence[Path]], None]) -> str:
    with tempfile.TemporaryDirectory(prefix="recall-evals-page-") as folder:
        output = Path(folder, "plot.svg")
        draw([output])
        return "data:image/svg+xml;base64," + base64.b64encode(output.read_bytes()).decode()


def _tasks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each task the models asked, and its prompts with what each answered; first those on which they disagree."""
    asked = [
        row
        for row in main_rows(row for row in rows if row.failure is None)
        if row.samples is not None and row.must_match.get("output_type") != "loglikelihood_rolling"
    ]
    names = short_names({row.system: row for row in asked})
    tasks: dict[str, list[Row]] = {}
    for row in asked:
        tasks.setdefault(row.task, []).append(row)
    return [_task(name, of_it, names) for name, of_it in tasks.items()]


def _task(name: str, rows: Sequence[Row], names: dict[str, str]) -> dict[str, Any]:
    models = list(dict.fromkeys(one_line(names[row.system]) for row in rows))
    prompts: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        assert row.samples is not None
        place = models.index(one_line(names[row.system]))
        for sample in read_samples(Path(row.samples)).samples:
            if sample.filter != row.filter:
                continue
            entry = prompts.setdefault(
                (str(sample.id), *sample.hashes),
                {
                    "id": sample.id,
                    "document": sample.document or "",
                    "key": _key(sample),
                    "expected": sample.target,
                    "prompt": sample.prompt,
                    "answers": [None] * len(models),
                },
            )
            entry["answers"][place] = [sample.answer, sample.scores.get(row.metric)]

    def disagreement(entry: dict[str, Any]) -> tuple[bool, int]:
        scores = {answer[1] for answer in entry["answers"] if answer is not None}
        return len(scores) < 2, entry["id"]

    chosen = sorted(prompts.values(), key=disagreement)[:PROMPTS_A_TASK]
    return {
        "name": name,
        "metric": rows[0].metric,
        "models": models,
        "total": len(prompts),
        "prompts": sorted(chosen, key=lambda entry: entry["id"]),
    }


def _key(sample: Sample) -> str:
    key = sample.doc.get("key") if isinstance(sample.doc, dict) else None
    return "" if key is None else str(key)
