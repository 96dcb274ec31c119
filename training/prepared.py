"""The tokenised documents and their lines, as flat arrays that training sequences are cut from."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .corpus import GENERATED, REAL, CorpusError, Document, generated_documents
from .decontaminate import training_documents
from .lines import lines_about

GENERATED_DOCUMENTS = 8000  # of each kind
_BATCH = 64  # documents a process takes at once


@dataclass(frozen=True)
class Source:
    """D documents of one kind.

    Attributes:
        tokens: `[T]` uint16, the documents end to end; document i is `tokens[offsets[i] : offsets[i + 1]]`.
        offsets: `[D + 1]` int64.
        line_tokens: `[U]` uint16, all lines end to end, those of a document together.
        line_offsets: `[N + 1]` int64.
        line_span: `[N, 2]` int32, the tokens of the document that a line asks for, from its beginning.
        line_kind: `[N]` uint8 (lines.py).
        document_lines: `[D + 1]` int64; the lines of document i are `document_lines[i]` to `[i + 1]`.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    line_tokens: NDArray[np.uint16]
    line_offsets: NDArray[np.int64]
    line_span: NDArray[np.int32]
    line_kind: NDArray[np.uint8]
    document_lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def prepare(
    corpus: Path, held_out: Path, tokenizer_file: Path, file: Path, generated: int = GENERATED_DOCUMENTS
) -> None:
    """Tokenise everything with all cores and write it to `file` (.npz), with the hash of what went in."""
    arrays: dict[str, NDArray] = {}
    with ProcessPoolExecutor(os.cpu_count(), initializer=_load, initargs=(str(tokenizer_file),)) as processes:
        for name in (*REAL, *GENERATED):
            if name in REAL:
                size = 1 if name == "books" else _BATCH
                batches: Iterator[Any] = _batches(training_documents(corpus, name, held_out), size)
            else:
                batches = ((name, start, min(_BATCH, generated - start)) for start in range(0, generated, _BATCH))
            source = _join(list(processes.map(_tokenise, batches)))
            arrays |= {f"{name}.{field.name}": getattr(source, field.name) for field in fields(Source)}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(file)


def load_prepared(file: Path) -> dict[str, Source]:
    """The sources by name.

    Raises:
        CorpusError: no such file, or a damaged one.
    """
    try:
        with np.load(file) as arrays:
            return {
                name: Source(**{field.name: arrays[f"{name}.{field.name}"] for field in fields(Source)})
                for name in (*REAL, *GENERATED)
            }
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise CorpusError(f"{file}: no prepared corpus ({error}); run `recall-evals train prepare` again") from error


def prepared_hash(sources: dict[str, Source]) -> str:
    """SHA-256 over every token, line and place: equal hashes give equal training sequences."""
    digest = hashlib.sha256()
    for name, source in sources.items():
        for field in fields(Source):
            array = getattr(source, field.name)
            digest.update(json.dumps([name, field.name, str(array.dtype), array.shape]).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _batches(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    while batch := list(islice(documents, size)):
        yield batch


_tokenizer: Any = None  # of a process of the pool


def _load(tokenizer_file: str) -> None:
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    global _tokenizer
    _tokenizer = Tokenizer.from_file(tokenizer_file)


def _tokenise(batch: list[Document] | tuple[str, int, int]) -> Source:
    """The documents of one batch as a source; the generator's are made here, where they cost no transfer."""
    documents = generated_documents(batch[0], batch[2], batch[1]) if isinstance(batch, tuple) else iter(batch)
    texts: list[list[int]] = []
    lines: list[list[int]] = []
    spans: list[tuple[int, int]] = []
    kinds: list[int] = []
    counts: list[int] = []
    for document in documents:
        encoded = _tokenizer.encode(document.text)
        ends = np.array([end for _, end in encoded.offsets], dtype=np.int64)
        about = list(lines_about(document))
        texts.append(encoded.ids)
        lines += [_tokenizer.encode(line.text).ids for line in about]
        # The token that holds the first character, and the one after that which holds the last.
        spans += [
            (int(np.searchsorted(ends, line.start, "right")), int(np.searchsorted(ends, line.end)) + 1)
            for line in about
        ]
        kinds += [line.kind for line in about]
        counts.append(len(about))
    return Source(
        _flat(texts),
        _offsets(map(len, texts)),
        _flat(lines),
        _offsets(map(len, lines)),
        np.array(spans, dtype=np.int32).reshape(-1, 2),
        np.array(kinds, dtype=np.uint8),
        _offsets(counts),
    )


def _flat(parts: list[list[int]]) -> NDArray[np.uint16]:
    return np.fromiter(chain.from_iterable(parts), dtype=np.uint16)


def _offsets(sizes: object) -> NDArray[np.int64]:
    return np.cumsum([0, *sizes], dtype=np.int64)  # type: ignore[misc]


def _join(parts: list[Source]) -> Source:
    def joined(name: str) -> NDArray:
        arrays = [getattr(part, name) for part in parts]
        if not name.endswith(("offsets", "document_lines")):
            return np.concatenate(arrays)
        ends = np.cumsum([0, *(array[-1] for array in arrays)])
        return np.concatenate([[0], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))])

    return Source(**{field.name: joined(field.name) for field in fields(Source)})
