"""Reads a user's own documents: the rows of `<folder>/validation.jsonl[.xz|.gz|.zst]` or `.parquet`.

The schema is that of the published sets (`hazyresearch/based-fda` and its kin): `text` is the prompt, `value` the
answer; `key`, `doc_id` and any other column are optional and kept as they are.

The rows don't go through `datasets.load_dataset`, which reads such files in ways that break a task or change a score
without a word: when every answer is a date they come back as `datetime`, a `.zst` file cut short loses its last rows,
and a file rewritten with the same modification time is answered from the cache.
"""

import gzip
import hashlib
import io
import json
import lzma
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow
import pyarrow.parquet

ROOT_VARIABLE = "RECALL_EVALS_DATA"
FILE_NAMES = tuple(f"validation.{suffix}" for suffix in ("jsonl", "jsonl.xz", "jsonl.gz", "jsonl.zst", "parquet"))
UNREADABLE: tuple[type[Exception], ...] = (OSError, EOFError, KeyError, ValueError, TypeError, OverflowError)
UNREADABLE += (RecursionError, MemoryError, lzma.LZMAError, zlib.error, pyarrow.ArrowException)
XZ_MEMORY = 1 << 30  # bytes; what xz writes needs 65 MB to be read, a damaged header may ask for any amount
REQUIRED_COLUMNS = {"text": "prompt", "value": "answer"}  # and what each holds


class DocumentsNotFoundError(FileNotFoundError):
    """No documents where they were looked for; the message names the places and the layout."""


class DocumentsError(ValueError):
    """The documents can't be evaluated as they are; the message names the file, the field and the remedy."""


@dataclass(frozen=True)
class Documents:
    """The rows of one file, and what identifies it: its path below the root and the SHA-256 of its bytes."""

    rows: datasets.Dataset
    name: str
    sha256: str


def load_documents(folder: str, required: Mapping[str, str] = REQUIRED_COLUMNS) -> Documents:
    """The checked rows of the one documents file in `$RECALL_EVALS_DATA/<folder>`.

    Args:
        required: columns that each row must have, and what each holds.

    Raises:
        DocumentsNotFoundError: the variable is unset, or the folder or the file is absent.
        DocumentsError: several files, an unreadable one, no rows, a column that is missing or there twice, or a row
            in which a required one is absent, empty or no text.
    """
    path = find_documents(folder)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
        _check_columns(table, path, required)
        # Without its metadata, by which a column may claim to be images that are fetched when a row is read.
        rows = datasets.Dataset(table.replace_schema_metadata(None))
        _check_rows(rows, path, required)
    except DocumentsError:
        raise
    except UNREADABLE as error:
        raise DocumentsError(
            f"{path} can't be read: {type(error).__name__}: {error}. If it is damaged or cut short, copy it again; if "
            "columns other than `text`, `value`, `key` and `doc_id` are unusual, leave them out."
        ) from error
    return Documents(rows, f"{folder}/{path.name}", sha256)


def find_documents(folder: str) -> Path:
    """The path of the one documents file in `$RECALL_EVALS_DATA/<folder>`. Raises as `load_documents` does."""
    root = os.environ.get(ROOT_VARIABLE, "").strip()
    if not root:
        raise DocumentsNotFoundError(f"${ROOT_VARIABLE} is not set. Set it to the folder that holds {_layout(folder)}.")
    directory = Path(root).expanduser() / folder
    if not directory.is_dir():
        raise DocumentsNotFoundError(f"No folder {directory}. ${ROOT_VARIABLE} must hold {_layout(folder)}.")
    found = [name for name in FILE_NAMES if (directory / name).is_file()]
    if not found:
        raise DocumentsNotFoundError(
            f"No documents in {directory}: looked for {', '.join(FILE_NAMES)}. Add one of them."
        )
    if len(found) > 1:
        raise DocumentsError(f"{directory} holds {' and '.join(found)}: keep the one to evaluate and move the others.")
    return directory / found[0]


def _layout(folder: str) -> str:
    return f"{folder}/{FILE_NAMES[0]} (or {', '.join(name.removeprefix('validation') for name in FILE_NAMES[1:])})"


def _read_parquet(path: Path) -> pyarrow.Table:
    # Not read_table(), which makes a column of every `name=value` among the path's folders.
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read()


def _read_jsonl(path: Path) -> pyarrow.Table:
    """One column for each key that any row has; a row without that key has null there."""
    rows = list(_parse(path))
    columns = dict.fromkeys(key for row in rows for key in row)
    arrays = []
    for column in columns:
        try:
            column.encode()
            arrays.append(pyarrow.array([row.get(column) for row in rows]))
        except UnicodeEncodeError as error:
            raise DocumentsError(
                f"{path}: column {column!r} or a value in it holds half a surrogate pair ({error}). Write it as UTF-8."
            ) from error
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DocumentsError(
                f"{path}: the values of column `{column}` don't make one type ({error}). "
                "Give it one type in every row, or leave it out."
            ) from error
    return pyarrow.table(arrays, names=list(columns))


def _parse(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique) if line.strip() else None
            except _RepeatedError as error:
                raise DocumentsError(f"{path}: line {number} gives {error} twice. Keep one of the two.") from error
            except UnicodeDecodeError as error:
                raise DocumentsError(f"{path}: line {number} isn't UTF-8 ({error}). Save the file as UTF-8.") from error
            except (ValueError, RecursionError) as error:
                raise DocumentsError(
                    f"{path}: line {number} isn't whole JSON ({error}). Each line must hold one row; was the file cut?"
                ) from error
            if isinstance(row, dict):
                yield row
            elif line.strip():
                raise DocumentsError(
                    f"{path}: line {number} holds a JSON {type(row).__name__}. Each line must hold one row, "
                    'as an object: {"text": ..., "value": ...}.'
                )


class _RepeatedError(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values; of a repeated key, json would quietly keep the last value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedError(repr(next(key for key in row if keys.count(key) > 1)))
    return row


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".xz":
        return _open_xz(path)
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        # python-zstandard takes the end of a cut file for the end of the data; Arrow refuses it.
        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return path.open("rb")


def _open_xz(path: Path) -> IO[bytes]:
    """All streams of the file; lzma.open takes a second one that is damaged for the end of the data."""
    compressed, content = path.read_bytes(), io.BytesIO()
    while True:
        stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        content.write(stream.decompress(compressed))
        if not stream.eof:
            raise EOFError("the compressed data end before their end mark")
        compressed = stream.unused_data.lstrip(b"\0")  # streams may be padded
        if not compressed:
            content.seek(0)
            return content


def _check_columns(table: pyarrow.Table, path: Path, required: Mapping[str, str]) -> None:
    if table.num_rows == 0:
        raise DocumentsError(f"{path} holds no rows, or only empty ones. Add some.")
    for column in table.column_names:
        if table.column_names.count(column) > 1:
            raise DocumentsError(f"{path} has two columns `{column}`. Rename or drop one.")
        try:
            table[column].validate(full=True)  # Parquet may hold texts that are no UTF-8
        except pyarrow.ArrowException as error:
            raise DocumentsError(f"{path}: column `{column}` is damaged ({error}). Write the file again.") from error
    for column in required:
        if column not in table.column_names:
            raise DocumentsError(
                f"{path} has no column `{column}`: it has {', '.join(f'`{name}`' for name in table.column_names)}. "
                f"Each row needs {' and '.join(f'`{name}` (the {content})' for name, content in required.items())}."
            )


def _check_rows(rows: datasets.Dataset, path: Path, required: Mapping[str, str]) -> None:
    """Reads every row as lm-eval will."""
    for number, row in enumerate(rows, start=1):
        for column, held in required.items():
            content, place = row[column], f"{path}: row {number}: `{column}`"
            if content is None:
                raise DocumentsError(f"{place} is missing. Fill it in or leave the row out.")
            if not isinstance(content, str):
                raise DocumentsError(f"{place} is of type {type(content).__name__}, not text. Write it as a string.")
            if not content.strip():
                # lm-eval looks for the answer anywhere in the output, where an empty one always stands.
                harm = "an empty answer would count as always right" if held == "answer" else f"there is no {held}"
                raise DocumentsError(f"{place} is empty: {harm}. Fill it in or leave the row out.")
