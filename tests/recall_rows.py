"""Made-up rows of the recall tasks' questions, for tests that ask them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def forms() -> Rows:
    """Four pages of three questions; the third page's second answer has one character."""
    rows = []
    for number in range(12):
        page, key = divmod(number, 3)
        question = ["weight", "colour", "built in"][key]
        value = [f"{page}7 kg", "x" if page == 2 else f"grey {page} ", f"19{page}4"][key]
        text = f" Unit {page} has a weight of {page}7 kg. Its colour is x or grey {page} . It was built in 19{page}4."
        rows.append({"doc_id": f"d{page}", "key": question, "value": value, "text": f"{text}\n{question}: "})
    return rows


def passages() -> Rows:
    rows = []
    for row in forms():
        passage = row["text"].strip().rpartition("\n")[0]
        text = f"{passage}\nIts {row['key']} is "
        rows.append({"question": f"What is its {row['key']}?", "value": row["value"], "text": text})
    return rows


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
