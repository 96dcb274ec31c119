"""Published numbers as rows, from `published/PUBLISHED.json`, and which of ours they may be compared with."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .row import SHARES, Row, mismatches

FILE = Path(__file__).parent / "published" / "PUBLISHED.json"
SPEED = ("prefill_tokens_per_second", "decode_tokens_per_second")


@cache
def published_rows() -> tuple[Row, ...]:
    """All of them, marked as published, in the order of the file; they have neither n nor an error.

    A column that a task of ours asks the same way has its name; `reported` has the `data_set` of every column.
    """
    said: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    rows = []
    for table in said["tables"]:
        for line in table["rows"]:
            about = {
                name: line[name] for name in ("parameters", "training_tokens", *SPEED) if line.get(name) is not None
            }
            about |= {"table": table["name"], "url": table["url"]}
            about |= {
                name: said
                for name, said in (("hardware", table.get("hardware")), ("checkpoint", line.get("checkpoint")))
                if said
            }
            for name, column in table["columns"].items():
                if (value := line["scores"].get(name)) is None:
                    continue
                metric, task = column["metric"], column.get("task", f"{table['name']}:{name}")
                rows.append(
                    Row(
                        model=line["model"],
                        task=task,
                        metric=metric,
                        value=value / 100 if metric in SHARES else float(value),
                        higher_is_better=metric in SHARES,
                        must_match={**table["protocol"], "task": task, "metric": metric},
                        reported={**about, "data_set": column["data_set"]},
                        published=True,
                        source=table["source"],
                    )
                )
    return tuple(rows)


def published_for(row: Row) -> list[tuple[Row, list[str]]]:
    """Published scores of this row's checkpoint on its data set, each with what keeps the two from being compared.

    The checkpoint is known by the last part of its name, so that a copy in a folder is one too.
    """
    found = [] if row.published else _on_its_data(row)
    return [(other, _differing(row, other)) for other in found if _checkpoint(other) == _checkpoint(row)]


def shown_with(rows: Sequence[Row]) -> list[Row]:
    """The published rows that may be compared with each of these, which are the rows of one column."""
    return [other for other in _on_its_data(rows[0]) if not any(mismatches(row, other) for row in rows)]


def not_shown(columns: Iterable[Sequence[Row]]) -> dict[str, str]:
    """Of each table with scores on the data of these columns but under none of their protocols, by its source, what
    differs from the first column on such data."""
    found: dict[str, str] = {}
    shown = set()
    for rows in columns:
        for other in _on_its_data(rows[0]):
            differing = [line for row in rows for line in _differing(row, other)]
            if differing:
                found.setdefault(other.source, "; ".join(dict.fromkeys(differing)))
            else:
                shown.add(other.source)
    return {source: differing for source, differing in found.items() if source not in shown}


def _on_its_data(row: Row) -> list[Row]:
    place = (_data_set(row), row.metric)
    return [other for other in published_rows() if (_data_set(other), other.metric) == place]


def _differing(row: Row, other: Row) -> list[str]:
    """What they mismatch in; the task, which goes with its protocol, only where it is all there is."""
    found = mismatches(row, other)
    return [line for line in found if not line.startswith("task: ")] or found


def _checkpoint(row: Row) -> str:
    name = str(row.reported.get("checkpoint") or row.model) if row.published else row.model
    return Path(name.partition("@")[0].removeprefix("bundled:")).name


def _data_set(row: Row) -> str | None:
    """`fda` of lm-eval's `fda` and of our `recall_fda`, under any protocol; None: no published one."""
    if row.published:
        return str(row.reported["data_set"])
    if row.task.startswith("recall_"):
        return row.must_match.get("questions")
    return {"swde": "swde", "fda": "fda", "squad_completion": "squad"}.get(row.task)
