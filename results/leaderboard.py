"""One line a model: its size, what its state and tokens cost, its scores, each with its error and what it is best at.

A task that was asked under several protocols has a column of each, so that nothing is ranked across them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .published_rows import published_for, shown_with
from .row import Row, main_rows, mismatches, short_names

COSTS = (
    ("parameters", "parameters", None),
    ("training_tokens", "training tokens", None),
    ("state_bytes", "state", "bytes"),
    ("prefill_tokens_per_second", "prefill", "tokens/s"),
    ("decode_tokens_per_second", "decode", "tokens/s"),
)
PERPLEXITIES = {"perplexity": "all", "perplexity_hits": "hits", "perplexity_others": "other"}


@dataclass(frozen=True)
class Column:
    """A heading of one or two lines, and how its values are shown.

    Attributes:
        key: what `--sort` takes.
        scale: 100 for shares, which are shown in percent.
        digits: decimals.
        ranked: whether its best value is marked.
    """

    key: str
    heading: tuple[str, str]
    scale: float = 1.0
    digits: int = 0
    higher_is_better: bool = True
    ranked: bool = False


@dataclass(frozen=True)
class Cell:
    """A value in its metric's own unit, and its standard error; NaN: there is none.

    Attributes:
        mark: "best", "near" (within the best's error) or "".
        delta: difference to the published value; NaN where there is none under this protocol.
        notes: numbers of the footnotes.
    """

    value: float
    error: float = math.nan
    mark: str = ""
    delta: float = math.nan
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A model, or a row of a published table."""

    name: str
    cells: dict[str, Cell]
    published: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """Columns by their keys, in order, lines, numbered footnotes, and rows that failed, a line each."""

    columns: list[Column]
    lines: list[Line]
    footnotes: list[str]
    failures: list[str]

    def sorted_by(self, name: str) -> "Leaderboard":
        """Lines ordered by a column, the best first, those without a value last. ValueError: no such column."""
        column = next((c for c in self.columns if c.key == name), None) or self._ending(name)

        def place(line: Line) -> tuple[bool, float]:
            value = line.cells[column.key].value if column.key in line.cells else math.nan
            return math.isnan(value), 0 if math.isnan(value) else -value if column.higher_is_better else value

        return replace(self, lines=sorted(self.lines, key=place))

    def _ending(self, name: str) -> Column:
        """The column of a task's last part: `fda` of `recall_fda`."""
        found = [c for c in self.columns if c.key.partition(" ")[0].endswith(f"_{name}")]
        if len(found) == 1:
            return found[0]
        many = f"could be {', '.join(c.key for c in found)}" if found else "is no column"
        raise ValueError(f"--sort {name} {many}; give one of {', '.join(c.key for c in self.columns)}")


@dataclass
class _TaskColumn:
    """Rows that may be compared with one another, and the column that shows them."""

    rows: list[Row]
    column: Column = field(default_factory=lambda: Column("", ("", "")))


def leaderboard(rows: Iterable[Row], with_published: bool = False) -> Leaderboard:
    """The table of these rows, one of a kind (`rows.latest`).

    Args:
        with_published: add the published tables of these tasks, and to each score of a published checkpoint the
            difference, or a footnote where the protocols don't match.
    """
    everything = list(rows)
    failed = [row for row in everything if row.failure is not None]
    scored = [row for row in everything if row.failure is None]
    chosen = [row for row in scored if row.task == "ppl"] + main_rows(row for row in scored if row.task != "ppl")
    shown = [*chosen, *shown_with(chosen)] if with_published else chosen
    task_columns = _task_columns(shown)
    systems: dict[str, list[Row]] = {}
    for row in [row for row in everything if not row.published] + [row for row in shown if row.published]:
        systems.setdefault(_line_of(row), []).append(row)
    names = short_names({system: of_it[0] for system, of_it in systems.items()})
    footnotes: list[str] = []
    lines = [
        Line(names[system], _cells(system, of_it, task_columns, with_published, footnotes), of_it[0].published)
        for system, of_it in systems.items()
    ]
    columns = [
        Column(name, (title, unit or ""), higher_is_better=name not in ("parameters", "training_tokens", "state_bytes"))
        for name, title, unit in COSTS
    ]
    columns += [group.column for group in task_columns]
    averaged = [group.column for group in task_columns if group.column.scale == 100 and not group.rows[0].published]
    if len(averaged) > 1:
        columns.append(Column("average", ("average", "%"), 100, 1, ranked=True))
        lines = [replace(line, cells=line.cells | _average(line, averaged)) for line in lines]
    columns = [column for column in columns if any(column.key in line.cells for line in lines)]
    for column in columns:
        if column.ranked:
            lines = _marked(lines, column)
    named = [f"{names[_line_of(row)]}: {row.task} failed: {row.failure}" for row in failed]
    return Leaderboard(columns, lines, footnotes, named)


def _line_of(row: Row) -> str:
    return f"{row.reported.get('table')} {row.model}" if row.published else row.system


def _task_columns(rows: Sequence[Row]) -> list[_TaskColumn]:
    """Columns of tasks, with the perplexities first; headings tell what protocols of one task differ in."""
    order = sorted(rows, key=lambda row: (row.published, row.task != "ppl"))
    groups: list[_TaskColumn] = []
    for row in order:
        for group in groups:
            first = group.rows[0]
            same = first.task == row.task and first.metric == row.metric
            if same and not any(mismatches(other, row) for other in group.rows):
                group.rows.append(row)
                break
        else:
            groups.append(_TaskColumn([row]))
    for group in groups:
        first = group.rows[0]
        rivals = [
            g for g in groups if g is not group and (g.rows[0].task, g.rows[0].metric) == (first.task, first.metric)
        ]
        differing = [line.partition(":")[0] for rival in rivals for line in mismatches(first, rival.rows[0])]
        told = ", ".join(f"{name} {_brief(first.must_match.get(name))}" for name in dict.fromkeys(differing))
        group.column = _task_column(first, told)
    return groups


def _task_column(row: Row, told: str) -> Column:
    unit = "%" if row.percent else row.metric
    if row.task == "ppl":
        key, heading = row.metric, ("perplexity", PERPLEXITIES.get(row.metric, row.metric))
    else:
        key, heading = row.task, (row.task, unit)
    if told:
        key, heading = f"{key} ({told})", (heading[0], f"{heading[1]}; {told}")
    return Column(key, heading, 100 if row.percent else 1, 1 if row.percent else 2, row.higher_is_better, True)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{part}" for part in value.values() if part is not None)
    return "none" if value is None else str(value)[:8]


def _cells(
    system: str, rows: Sequence[Row], groups: Sequence[_TaskColumn], with_published: bool, footnotes: list[str]
) -> dict[str, Cell]:
    cells = {}
    for name, _, _ in COSTS:
        if (value := _cost(rows, name)) is not None:
            cells[name] = Cell(value)
    for group in groups:
        row = next((row for row in group.rows if _line_of(row) == system), None)
        if row is None:
            continue
        delta, notes = math.nan, []
        for other, differing in published_for(row) if with_published and not row.published else []:
            if not differing:
                delta = row.value - other.value
                continue
            said = f"{other.source}: {100 * other.value:.1f}, not comparable ({'; '.join(differing)})"
            if said not in footnotes:
                footnotes.append(said)
            notes.append(footnotes.index(said) + 1)
        if math.isnan(row.value):
            footnotes.append(f"{row.task}: {row.metric} of {row.model} is no number")
            notes.append(len(footnotes))
        cells[group.column.key] = Cell(row.value, row.error, delta=delta, notes=tuple(notes))
    return cells


def _cost(rows: Sequence[Row], name: str) -> float | None:
    """Of several runs the largest state, since it may grow with the prompt, and of anything else the last figure."""
    found = [row.reported[name] for row in rows if isinstance(row.reported.get(name), int | float)]
    if not found:
        return None
    return float(max(found) if name == "state_bytes" else found[-1])


def _average(line: Line, columns: Sequence[Column]) -> dict[str, Cell]:
    """The mean over tasks, each counting the same, for a model that has them all; tasks are taken as independent."""
    cells = [line.cells[column.key] for column in columns if column.key in line.cells]
    if len(cells) < len(columns) or any(math.isnan(cell.value) for cell in cells):
        return {}
    error = math.sqrt(sum(cell.error**2 for cell in cells)) / len(cells)
    return {"average": Cell(sum(cell.value for cell in cells) / len(cells), error)}


def _marked(lines: Sequence[Line], column: Column) -> list[Line]:
    """The best value of the runs, and those within its standard error; nothing where there is one alone."""
    key = column.key
    values = [
        line.cells[key].value
        for line in lines
        if key in line.cells and not line.published and not math.isnan(line.cells[key].value)
    ]
    if len(values) < 2:
        return list(lines)
    best = (max if column.higher_is_better else min)(values)
    errors = [line.cells[key].error for line in lines if key in line.cells and line.cells[key].value == best]
    reach = max((error for error in errors if not math.isnan(error)), default=0.0)

    def mark(cell: Cell) -> Cell:
        near = abs(cell.value - best) <= reach
        return replace(cell, mark="best" if cell.value == best else "near" if near else "")

    return [
        replace(line, cells=line.cells | {key: mark(line.cells[key])})
        if key in line.cells and not line.published
        else line
        for line in lines
    ]
