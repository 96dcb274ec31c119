"""The leaderboard as text: for a terminal, Markdown, LaTeX and CSV. Every foreign text is escaped."""

import csv
import io
import math
from collections.abc import Callable

from tabulate import tabulate

from .leaderboard import Cell, Column, Leaderboard, Line
from .text import csv_text, latex, markdown, one_line

LEGEND = "{best}: the best value of a column, {near}: within its standard error."
ERRORS = "±: the standard error, clustered by document where a run tells its documents."


def shown(cell: Cell, column: Column) -> str:
    """`78.1 ± 3.9`, with the difference to the published value where there is one: `25.2 ± 1.0 (Δ -0.4)`."""
    if math.isnan(cell.value):
        return "NaN"
    value = column.scale * cell.value
    text = f"{value:,.{column.digits}f}" if abs(value) < 1e6 or not column.digits else f"{value:.1e}"
    if not math.isnan(cell.error):
        text += f" ± {column.scale * cell.error:,.{column.digits}f}"
    if not math.isnan(cell.delta):
        text += f" (Δ {column.scale * cell.delta:+.{column.digits}f})"
    return text


def as_table(board: Leaderboard) -> str:
    """For a terminal: `**` marks the best, `*` what lies within its error."""
    marks = {"best": " **", "near": " *", "": ""}

    def cell(found: Cell, column: Column) -> str:
        return shown(found, column) + _notes(found, " [{}]") + marks[found.mark]

    heads = ["model", *("\n".join(map(one_line, column.heading)).rstrip() for column in board.columns)]
    table = _tabulated(board, heads, "simple", one_line, cell)
    return "\n".join([table, *_below(board, "**", "*", "[{}] ", one_line)])


def as_markdown(board: Leaderboard) -> str:
    """A pipe table: **bold** is the best, *italic* lies within its error."""
    marks = {"best": "**{}**", "near": "*{}*", "": "{}"}

    def cell(found: Cell, column: Column) -> str:
        return marks[found.mark].format(markdown(shown(found, column))) + _notes(found, "<sup>{}</sup>")

    heads = ["model", *(markdown(", ".join(filter(None, column.heading))) for column in board.columns)]
    table = _tabulated(board, heads, "pipe", markdown, cell)
    below = _below(board, "**bold**", "*italic*", "<sup>{}</sup> ", markdown)
    return "\n".join([table, *(f"\n{line}" for line in below if line)])


def as_latex(board: Leaderboard) -> str:
    """A tabular of booktabs: bold is the best, underlined lies within its error."""
    marks = {"best": r"\textbf{{{}}}", "near": r"\underline{{{}}}", "": "{}"}

    def cell(found: Cell, column: Column) -> str:
        return marks[found.mark].format(latex(shown(found, column))) + _notes(found, "$^{{{}}}$")

    lines = [r"\begin{tabular}{l" + "r" * len(board.columns) + "}", r"\toprule"]
    for part in (0, 1):
        heads = ["model" if not part else "", *(latex(column.heading[part]) for column in board.columns)]
        lines.append(" & ".join(heads) + r" \\")
    lines.append(r"\midrule")
    for name, cells in _rows(board, latex, cell):
        lines.append(" & ".join([name, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = _below(board, r"\textbf{bold}", r"\underline{underlined}", "$^{{{}}}$ ", latex)
    return "\n".join([*lines, *(rf"\par\noindent {line}" for line in below if line)])


def as_csv(board: Leaderboard) -> str:
    """Numbers as they are, shares from 0 to 1: a column a value, one its error, and one its difference to what was
    published, where there is any."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads, getters = ["model", "published"], []
    for column in board.columns:
        for suffix, get in (("", _value), (" error", _error), (" delta", _delta)):
            if any(not math.isnan(get(line.cells[column.key])) for line in board.lines if column.key in line.cells):
                heads.append(csv_text(column.key + suffix))
                getters.append((column.key, get))
    writer.writerow(heads)
    for line in board.lines:
        numbers = [get(line.cells[key]) if key in line.cells else math.nan for key, get in getters]
        writer.writerow([csv_text(line.name), int(line.published), *map(_plain, numbers)])
    return text.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "table": as_table,
    "md": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}


def _plain(number: float) -> str:
    if math.isnan(number):
        return ""
    return str(int(number)) if number.is_integer() and abs(number) > 1 else repr(number)


def _value(cell: Cell) -> float:
    return cell.value


def _error(cell: Cell) -> float:
    return cell.error


def _delta(cell: Cell) -> float:
    return cell.delta


def _notes(cell: Cell, form: str) -> str:
    return form.format(",".join(map(str, cell.notes))) if cell.notes else ""


def _rows(
    board: Leaderboard, escape: Callable[[str], str], cell: Callable[[Cell, Column], str]
) -> list[tuple[str, list[str]]]:
    def cells(line: Line) -> list[str]:
        return [cell(line.cells[c.key], c) if c.key in line.cells else "" for c in board.columns]

    return [(escape(line.name), cells(line)) for line in board.lines]


def _tabulated(
    board: Leaderboard,
    heads: list[str],
    form: str,
    escape: Callable[[str], str],
    cell: Callable[[Cell, Column], str],
) -> str:
    rows = [[name, *cells] for name, cells in _rows(board, escape, cell)]
    align = ("left", *["right"] * len(board.columns))
    return tabulate(rows, heads, form, disable_numparse=True, colalign=align)


def _below(board: Leaderboard, best: str, near: str, number: str, escape: Callable[[str], str]) -> list[str]:
    """The legend, footnotes and remarks."""
    marks = {cell.mark for line in board.lines for cell in line.cells.values()}
    lines = [""]
    if any(not math.isnan(cell.error) for line in board.lines for cell in line.cells.values()):
        lines.append(escape(ERRORS))
    if "best" in marks:
        lines.append(LEGEND.format(best=best, near=near))
    lines += [number.format(i) + escape(note) for i, note in enumerate(board.footnotes, start=1)]
    return [*lines, *map(escape, board.remarks)] if len(lines) > 1 or board.remarks else []
