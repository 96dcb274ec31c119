"""One line a model: its size, what its state and tokens cost, its scores, each with its error and what it is best at.

A task that was asked under several protocols has a column of each, so that nothing is ranked across them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .published_rows import not_shown, published_for, shown_with
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
    """Columns by their keys, in order, lines, numbered footnotes, and remarks: published tables that aren't shown, and
    rows that failed, a line each."""

    columns: list[Column]
    lines: list[Line]
    footnotes: list[str]
    remarks: list[str]

    def sorted_by(self, name: str) -> "Leaderboard":
        """Lines ordered by a column, the best first, those without a value last. ValueError: no such column."""
        column = self.column(name, "--sort", self.columns)

        def place(line: Line) -> tuple[bool, float]:
            value = line.cells[column.key].value if column.key in line.cells else math.nan
            return math.isnan(value), 0 if math.isnan(value) else -value if column.higher_is_better else value

        return replace(self, lines=sorted(self.lines, key=place))

    @staticmethod
    def column(name: str, flag: str, among: Sequence[Column]) -> Column:
        """The column of a key, a task, or a task's last part: `fda` of `recall_fda`.

        ValueError: none or several of them; names the flag that asked.
        """
        for found in (
            [c for c in among if c.key == name],
            [c for c in among if c.key.partition(" (")[0] == name or c.key.partition(" (")[0].endswith(f"_{name}")],
        ):
            if len(found) == 1:
                return found[0]
        many = f"could be {', '.join(c.key for c in found)}" if found else "is no column"
        raise ValueError(f"{flag} {name} {many}; give one of {', '.join(c.key for c in among)}")


@dataclass
class TaskColumn:
    """Rows that may be compared with one another, and the column that shows them."""

    rows: list[Row]
    column: Column = field(default_factory=lambda: Column("", ("", "")))


def leaderboard(rows: Iterable[Row], with_published: bool = False) -> Leaderboard:
    """The table of these rows, one of a kind (`rows.latest`).

    Args:
        with_published: add the published rows that were asked the same as a column, and to each score of a published
            checkpoint the difference, or a footnote where no protocol matches; other tables on the same data are named.
    """
    everything = list(rows)
    failed = [row for row in everything if row.failure is not None]
    scored = [row for row in everything if row.failure is None]
    chosen = [row for row in scored if row.task == "ppl"] + main_rows(row for row in scored if row.task != "ppl")
    groups = task_columns(chosen)
    remarks = []
    if with_published:
        asked = [list(group.rows) for group in groups]
        for group in groups:
            group.rows += shown_with(group.rows)
        remarks = [f"{source}: asked otherwise, not shown ({why})" for source, why in not_shown(asked).items()]
    systems: dict[str, list[Row]] = {}
    published = [row for group in groups for row in group.rows if row.published]
    for row in [*(row for row in scored if not row.published), *published]:
        systems.setdefault(_line_of(row), []).append(row)
    names = short_names({system: of_it[0] for system, of_it in systems.items()})
    footnotes: dict[str, list[str]] = {}
    lines = [
        Line(names[system], _cells(system, of_it, groups, with_published, footnotes), of_it[0].published)
        for system, of_it in systems.items()
    ]
    known = {*names.values(), *(of_it[0].model for of_it in systems.values())}
    lines += [Line(model, {}) for model in dict.fromkeys(row.model for row in failed) if model not in known]
    columns = [
        Column(name, (title, unit or ""), higher_is_better=name not in ("parameters", "training_tokens", "state_bytes"))
        for name, title, unit in COSTS
    ]
    columns += [group.column for group in groups]
    averaged = [group.column for group in groups if group.column.scale == 100 and not group.rows[0].published]
    # A task that was asked in two ways would count twice.
    if len(averaged) > 1 and len({column.heading[0] for column in averaged}) == len(averaged):
        columns.append(Column("average", ("average", "%"), 100, 1, ranked=True))
        lines = [replace(line, cells=line.cells | _average(line, averaged)) for line in lines]
    columns = [column for column in columns if any(column.key in line.cells for line in lines)]
    for column in columns:
        if column.ranked:
            lines = _marked(lines, column)
    notes = [f"{note}: {', '.join(scores)}" if scores else note for note, scores in footnotes.items()]
    return Leaderboard(columns, lines, notes, [*remarks, *map(_failed, failed)])


def _failed(row: Row) -> str:
    """With the reason, and the last of the lines below it."""
    reason, *lines = (row.failure or "").splitlines() or [""]
    return f"{row.model}: {row.task} failed: {reason}" + (f" ... {lines[-1]}" if lines else "")


def _line_of(row: Row) -> str:
    return f"{row.reported.get('table')} {row.model}" if row.published else row.system


def task_columns(rows: Iterable[Row]) -> list[TaskColumn]:
    """Columns of tasks, with the perplexities first; headings tell what protocols of one task differ in."""
    order = sorted(rows, key=lambda row: (row.published, row.task != "ppl"))
    groups: list[TaskColumn] = []
    for row in order:
        for group in groups:
            first = group.rows[0]
            same = first.task == row.task and first.metric == row.metric
            if same and not any(mismatches(other, row) for other in group.rows):
                group.rows.append(row)
                break
        else:
            groups.append(TaskColumn([row]))
    keys: set[str] = set()
    for group in groups:
        first, told = group.rows[0], _told(group, groups)
        group.column = _task_column(first, told)
        if group.column.key in keys:  # what differs begins alike
            group.column = _task_column(first, f"{told}, {len(keys)}")
        keys.add(group.column.key)
    return groups


def _told(group: TaskColumn, groups: Sequence[TaskColumn]) -> str:
    """What the rows of a column differ in from those of the same task and metric in other columns."""
    place = group.rows[0].task, group.rows[0].metric
    rivals = [row for g in groups if g is not group for row in g.rows if (row.task, row.metric) == place]
    names: dict[str, None] = {}
    for row in group.rows:
        for rival in rivals:
            fields = [line.partition(":")[0] for line in mismatches(row, rival)]
            follow = ("n", "samples") if "limit" in fields else ()
            names |= dict.fromkeys(name for name in fields if name not in follow)
    values = {name: value for row in reversed(group.rows) for name, value in row.must_match.items()}
    return ", ".join(f"{name} {_brief(values[name])}" for name in names)


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
    system: str,
    rows: Sequence[Row],
    groups: Sequence[TaskColumn],
    with_published: bool,
    footnotes: dict[str, list[str]],
) -> dict[str, Cell]:
    cells = {}
    for name, _, _ in COSTS:
        if (value := _cost(rows, name)) is not None:
            cells[name] = Cell(value)
    for group in groups:
        row = next((row for row in reversed(group.rows) if _line_of(row) == system), None)
        if row is None:
            continue
        others = published_for(row) if with_published else []
        delta = next((row.value - other.value for other, differing in others if not differing), math.nan)
        notes: dict[str, str] = {}
        if not any(not differing for _, differing in others):
            for other, differing in others:
                note = f"{other.source}, not comparable ({'; '.join(differing)})"
                notes[note] = f"{Path(row.model).name} {other.value * group.column.scale:.{group.column.digits}f}"
        if math.isnan(row.value):
            notes[f"{row.task}: {row.metric} of {row.model} is no number"] = ""
        for note, score in notes.items():
            footnotes.setdefault(note, []).extend([score] if score else [])
        numbers = tuple(list(footnotes).index(note) + 1 for note in notes)
        cells[group.column.key] = Cell(row.value, row.error, delta=delta, notes=numbers)
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
