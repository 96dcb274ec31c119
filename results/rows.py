"""Rows from files: what lm-eval and `recall-evals ppl` wrote, and rows kept as JSON lines.

    reading = read_runs([Path("out")])
    reading.rows[0].value, reading.rows[0].error, reading.rows[0].n
    append_rows(Path("rows.jsonl"), reading.rows)

What a row is, and what must match for two to be compared: `row.py`.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonlines

from .lm_eval_rows import is_lm_eval, is_perplexity, lm_eval_rows, perplexity_rows
from .row import IDENTITY, Row, main_rows, mismatches, short_names

__all__ = [
    "IDENTITY",
    "Reading",
    "Row",
    "RowsError",
    "append_rows",
    "latest",
    "main_rows",
    "mismatches",
    "read_rows",
    "read_runs",
    "short_names",
]


class RowsError(ValueError):
    """Runs that can't be read at all; the message names the path and the remedy."""


@dataclass(frozen=True)
class Reading:
    """What was found.

    Attributes:
        rows: each once, in the order their runs began.
        problems: of files that are corrupt or whose content is no whole result, a line each with the remedy.
        unknown: files that are nothing of lm-eval's or ours.
    """

    rows: list[Row]
    problems: list[str]
    unknown: list[Path]

    @property
    def samples(self) -> list[Path]:
        """The samples files of the rows, each once."""
        return [Path(file) for file in dict.fromkeys(row.samples for row in self.rows) if file is not None]


def read_runs(paths: Sequence[Path]) -> Reading:
    """Rows of output folders of lm-eval (`--output_path`; any depth), of results files, and of files of rows (.jsonl).

    Reading the same run twice, or a run and the rows that were made of it, gives its rows once. Hidden files and
    folders are passed by. RowsError: a path that isn't there.
    """
    rows: dict[str, Row] = {}
    problems: list[str] = []
    unknown: list[Path] = []
    read: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise RowsError(
                f"{path}: no such file or folder; give what lm-eval's --output_path named, or a file of rows"
            )
        files = _files(path) if path.is_dir() else [path]
        for file in files:
            if file.resolve() in read:
                continue
            read.add(file.resolve())
            for row in _rows_of(file, problems, unknown):
                if row.key not in rows or rows[row.key].samples is None:
                    rows[row.key] = row
    ordered = sorted(rows.values(), key=lambda row: row.date)
    return Reading(ordered, problems, unknown)


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _rows_of(file: Path, problems: list[str], unknown: list[Path]) -> list[Row]:
    if file.suffix == ".jsonl":
        if file.name.startswith("samples_"):  # read with the results file of its moment
            if not _results_of(file):
                problems.append(f"{file} has no results file of its moment beside it, so its run was interrupted")
            return []
        kept = read_rows(file)
        if kept.rows:
            problems.extend(kept.problems)
        else:
            unknown.append(file)  # JSON lines of something else
        return kept.rows
    if file.suffix != ".json":
        unknown.append(file)
        return []
    try:
        said: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(f"{file} isn't whole JSON ({error}); remove it, or run its tasks again")
        return []
    if not is_lm_eval(said) and not is_perplexity(said):
        unknown.append(file)
        return []
    found: list[str] = []
    try:
        rows = list(lm_eval_rows(said, file, found) if is_lm_eval(said) else perplexity_rows(said, file))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"{file} is no results file of lm-eval 0.4.13 ({type(error).__name__}: {error})")
        return []
    problems.extend(found)
    return rows


def _results_of(samples: Path) -> list[Path]:
    date = samples.stem.rpartition("_")[2]
    return list(samples.parent.glob(f"*_{date}.json"))


def read_rows(file: Path) -> Reading:
    """Rows kept by `append_rows`. A line that is no row, or was cut short, is a problem and no more than that."""
    rows: dict[str, Row] = {}
    problems: list[str] = []
    number = 0
    with file.open("rb") as lines, jsonlines.Reader(lines) as reader:
        while True:
            number += 1
            try:
                row = _beside(file, Row.from_json(reader.read(type=dict)))
            except EOFError:
                return Reading(list(rows.values()), problems, [])
            except (ValueError, TypeError) as error:  # jsonlines.InvalidLineError is a ValueError
                problems.append(f"{file}: line {number} is no row ({error}); it is left out")
            else:
                rows.setdefault(row.key, row)


def _beside(file: Path, row: Row) -> Row:
    """With the row's paths, which are kept relative to the file's folder, as they are from here; without samples that
    are gone."""
    if row.published:
        return row
    samples = None if row.samples is None else os.path.normpath(file.parent / row.samples)
    if samples is not None and not Path(samples).is_file():
        samples = None
    source = os.path.normpath(file.parent / row.source) if row.source else ""
    return replace(row, source=source, samples=samples)


def append_rows(file: Path, rows: Iterable[Row]) -> int:
    """Append the rows that the file doesn't have, a JSON object a line; returns how many. Twice is as good as once.

    A last line that a crash cut short stays, and ends where it was cut.
    """
    known = {row.key for row in read_rows(file).rows} if file.exists() else set()
    new = []
    for row in rows:
        if row.key not in known:
            known.add(row.key)
            new.append(row)
    cut = file.exists() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
    with file.open("a", encoding="utf-8") as lines, jsonlines.Writer(lines, sort_keys=True) as writer:
        if cut:
            lines.write("\n")
        for row in new:
            said = row.to_json()
            if not row.published:
                for name in ("source", "samples"):
                    if said[name]:
                        said[name] = os.path.relpath(said[name], file.parent)
            writer.write(said)
    return len(new)


def latest(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Of rows of the same model that may be compared, the last; and a note for each score that changed.

    One without a number gives way to a score, whenever either was made.
    """
    kept: dict[tuple[str, ...], list[Row]] = {}
    notes = []
    for row in rows:
        runs = kept.setdefault((row.system, row.task, row.metric, row.filter), [])
        place = next((i for i, other in enumerate(runs) if not mismatches(other, row)), None)
        if place is None:
            runs.append(row)
            continue
        before = runs[place]
        if math.isnan(row.value) and not math.isnan(before.value):
            continue
        if before.value != row.value and not math.isnan(before.value):
            notes.append(
                f"{row.model}: {row.task} {row.metric} was {before.value:.4g} in {before.source} and is "
                f"{row.value:.4g} in {row.source}, the later run, which is shown"
            )
        runs[place] = row
    return [row for runs in kept.values() for row in runs], notes
