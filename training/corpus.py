"""The documents that the small checkpoints are trained on: three corpora of real text, and what is generated.

A corpus is a file of JSON lines (`.jsonl` or `.jsonl.xz`) with `doc_id`, `text` and, where facts were extracted from
the text, `attributes`: a list of [key, value]. Their folder is named by `--corpus` or `$RECALL_EVALS_CORPUS`.
"""

import hashlib
import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT_VARIABLE = "RECALL_EVALS_CORPUS"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus"
REAL = ("fda", "pages", "books")  # decision summaries, web pages with an infobox, books
GENERATED: dict[str, Literal["fda", "swde"]] = {"mini_fda": "fda", "mini_swde": "swde"}  # source -> generator's kind


class CorpusError(ValueError):
    """A corpus is absent or damaged; the message names the file and the remedy."""


@dataclass(frozen=True)
class Document:
    """One text and the facts that are known to stand in it."""

    doc_id: str
    text: str
    attributes: tuple[tuple[str, str], ...]


def corpus_folder(given: str | Path | None) -> Path:
    """The folder named by `given`, else by the environment, else the shared one.

    Raises:
        CorpusError: it does not exist, or one of the corpora is missing there.
    """
    folder = Path(given or os.environ.get(ROOT_VARIABLE) or SHARED)
    missing = [f"{name}.jsonl[.xz]" for name in REAL if _file(folder, name) is None]
    if missing:
        raise CorpusError(
            f"{folder}: missing {', '.join(missing)}; name the folder that holds the corpora with --corpus or "
            f"${ROOT_VARIABLE} (one JSON object a line with doc_id, text and, if known, attributes)"
        )
    return folder


def _file(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.xz") if f.is_file()), None)


def read_corpus(folder: Path, name: str) -> Iterator[Document]:
    """The documents of a corpus in the file's order.

    Raises:
        CorpusError: a file that can't be read, or a row without a text.
    """
    file = _file(folder, name)
    if file is None:
        raise CorpusError(f"{folder}: missing {name}.jsonl[.xz]")
    number = 0
    try:
        with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 (the message below names the row)
                row = json.loads(line)
                attributes = tuple((str(key), str(value)) for key, value in row.get("attributes") or ())
                if not isinstance(row["text"], str):
                    raise TypeError("its text is no string")
                yield Document(str(row["doc_id"]), row["text"], attributes)
    except (OSError, EOFError, lzma.LZMAError, ValueError, TypeError, KeyError) as error:
        raise CorpusError(
            f"{file}: row {number}: {type(error).__name__} {error}; take the file again from where it came"
        ) from error


def generated_documents(name: str, count: int, start: int = 0) -> Iterator[Document]:
    """Documents of the generator's training split, which shares no value with what `mini_fda` and `mini_swde` ask."""
    from ..task_configs.mini.documents import documents

    for document in documents(GENERATED[name], "train", count, start):
        yield Document(document.doc_id, document.text, tuple((f.key, f.value) for f in document.facts))


def corpus_hash(folder: Path) -> str:
    """SHA-256 over the decompressed corpora, so that packing them otherwise does not change it."""
    digest = hashlib.sha256()
    for name in REAL:
        file = _file(folder, name)
        assert file is not None
        with lzma.open(file) if file.suffix == ".xz" else file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
