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


def published(questions: str) -> Rows:
    """Made-up rows with the columns of a published set."""
    if questions in ("swde", "fda"):
        summary = "Summary of information above...\n" if questions == "swde" else ""
        rows = [{**row, "file_name": ""} for row in forms()]
        return [{**row, "text": row["text"].replace("\n", f"\n\n{summary}", 1)} for row in rows]
    if questions == "squad":
        return [
            {**row, "doc_id": f"p{n}", "context": row["text"].partition("\n")[0]} for n, row in enumerate(passages())
        ]
    marks = "[DOC] [TLE] " if questions == "triviaqa" else ""
    return [
        {
            "doc_id": str(number),
            "context": f"{marks}{row['text'].strip().rpartition(chr(10))[0]} {row['key']}?",
            "question": f"{row['key']}?",
            "orig_question": f"Which {row['key']}?",
            "answers": [row["value"], "another"],
        }
        for number, row in enumerate(forms())
    ]


def publish(folder: Path, rows: Rows) -> Path:
    """As one file, with a card that names it."""
    write(folder, rows)
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: validation.jsonl\n---\n"
    )
    (folder / "README.md").write_text(card)
    return folder
