"""What `recall-evals bench` prints and keeps."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tabulate import tabulate

Row = dict[str, Any]
HEADERS = {
    "microseconds": "µs",
    "gigabytes_per_second": "GB/s",
    "of_copy_rate": "of copy rate",
    "tokens_per_ms": "tok/ms",
    "ms_per_step": "ms/step",
    "of_bytes_ceiling": "of bytes ceiling",
}
SHARES = ("of_copy_rate", "of_bytes_ceiling")


def table(rows: Iterable[Row], form: str = "simple") -> str:
    """One line a row, one column a field that any row has."""
    rows = list(rows)
    fields = list(dict.fromkeys(name for row in rows for name in row if name != "in_graph"))
    lines = [[_shown(name, row) for name in fields] for row in rows]
    return tabulate(lines, [HEADERS.get(name, name.replace("_", " ")) for name in fields], form, disable_numparse=True)


def _shown(name: str, row: Row) -> str:
    value = row.get(name, "")
    if name == "shape" and row.get("in_graph"):
        return f"{value}, in a graph"
    if name in SHARES and value != "":
        return f"{100 * value:.0f} %"
    if name.startswith("error"):
        return f"{value:.1e}" if value != "" else ""
    if isinstance(value, float):
        return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def keep(file: Path, part: str, result: dict[str, Any]) -> None:
    """Put the result of one part (kernels, decode, ...) into the file, beside those of other parts."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept[part] = result
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def kept_rows(file: Path | None, part: str, machine: dict[str, Any]) -> list[Row]:
    """The rows of a part that were measured before on such a machine; those of another commit name it."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
    before = kept.get(part, {"machine": {}, "rows": []})
    if {**before["machine"], "commit": None} != {**machine, "commit": None}:
        return []
    commit = before["machine"].get("commit")
    return [row if commit == machine["commit"] else {"commit": commit} | row for row in before["rows"]]
