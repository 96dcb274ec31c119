"""A corpus of a few made-up documents, in the layout that training reads, with its tokenizer and prepared arrays."""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from recall_evals.training.prepared import Source, load_prepared, prepare
from recall_evals.training.tokenizer import train_tokenizer

TEXT = "the of a report on samples and their values was made in spring by two sites with care where none had been"
WORDS = TEXT.split()


@dataclass(frozen=True)
class SmallCorpus:
    corpus: Path
    held_out: Path
    tokenizer: Path
    prepared: Path

    @property
    def sources(self) -> dict[str, Source]:
        return load_prepared(self.prepared)


def document(number: int, words: int = 120) -> dict[str, object]:
    draw = Random(f"document {number}")
    prose = " ".join(WORDS[int(draw.random() * len(WORDS))] for _ in range(words))
    code = f"K{number:06d}"
    return {
        "doc_id": f"d{number}",
        "text": f"Report Number: {code} Site: North {number} {prose[0].upper()}{prose[1:]}. End of it.",
        "attributes": [["Number", code], ["Place", f"North {number}"], ["Absent", "nowhere to be found"]],
    }


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_corpora(root: Path) -> None:
    """`root/corpus/*.jsonl` and the validation sets beside it."""
    for i, name in enumerate(("fda", "pages", "books")):
        write(root / "corpus" / f"{name}.jsonl", [document(100 * i + j) for j in range(12)])
    for i, name in enumerate(("fda", "swde", "squad", "books")):
        rows = [document(1000 + 100 * i + j) for j in range(3)]
        if name != "books":
            rows = [row | {"text": f"{row['text']}\nNumber:", "value": "x"} for row in rows]
        write(root / name / "validation.jsonl", rows)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    root = tmp_path_factory.mktemp("training")
    write_corpora(root)
    small = SmallCorpus(root / "corpus", root, root / "tokenizer.json", root / "prepared.npz")
    train_tokenizer(small.corpus, small.held_out, small.tokenizer, vocabulary=600)
    prepare(small.corpus, small.held_out, small.tokenizer, small.prepared, generated=8)
    return small
