"""The rows a task asks about: the published data sets on the hub, checked against what a protocol reads of them."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow

from ..local.documents import Documents, DocumentsError, DocumentsNotFoundError
from .answers import contains
from .cutting import is_dropped
from .protocols import Form, document_of

SPLIT = "validation"
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Prepared:
    """The rows that are asked, and how many are out of the ordinary.

    Attributes:
        dropped: rows that the protocol leaves out; not among `rows`, and in none of the other counts.
        answers_absent: rows none of whose answers stands in its document, cut or not.
        answers_empty: rows with an empty answer, which always counts as found.
        documents_empty: rows without any document.
    """

    rows: datasets.Dataset
    dropped: int
    answers_absent: int
    answers_empty: int
    documents_empty: int


def load_published(path: str, name: str | None, revision: str | None) -> Documents:
    """The validation split of a data set on the hub, or in its cache.

    The name holds the commit where the hub told it, else the revision asked for; the SHA-256 is that of the rows.

    Raises:
        DocumentsNotFoundError: the data set or the revision is absent, or the hub can't be reached.
        DocumentsError: it holds no such split or configuration, or files that can't be read.
    """
    asked = f"{path}@{revision or 'main'}"
    try:
        builder = datasets.load_dataset_builder(path, name, revision=revision)
        builder.download_and_prepare()
        rows = builder.as_dataset(SPLIT)
    except OSError as error:
        raise DocumentsNotFoundError(
            f"Data set {asked} can't be had: {_line(error)}. Check its name and revision (`dataset_path` and "
            "`dataset_kwargs`), and the network: once downloaded it is read from the hub's cache."
        ) from error
    except (ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError, pyarrow.ArrowException) as error:
        raise DocumentsError(
            f"Data set {asked} can't be read: {_line(error)}. It must have a split `{SPLIT}`"
            + (f" of a configuration `{name}`." if name else ".")
            + " If it has changed, name an earlier commit as `revision` under `dataset_kwargs`."
        ) from error
    # `datasets` caches what comes from the hub by its commit, online and offline.
    commit = builder.hash if _COMMIT.fullmatch(builder.hash or "") else revision or "main"
    return Documents(rows, f"{path}@{commit}", rows_sha256(rows))


def rows_sha256(rows: Iterable[dict[str, Any]]) -> str:
    """SHA-256 of the rows as JSON, one a line, keys sorted."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def prepare(documents: Documents, form: Form) -> Prepared:
    """The rows that the protocol asks, in order.

    Raises:
        DocumentsError: a column is missing, a row holds no text or no answers where the protocol reads them, or nothing
            is left to ask; names the file or the data set with its revision.
    """
    columns = dict.fromkeys((*form.columns, form.document, form.answers))
    if missing := [column for column in columns if column not in documents.rows.column_names]:
        raise DocumentsError(
            f"{documents.name} has no column {_listed(missing)}: it has {_listed(documents.rows.column_names)}. "
            "The protocol reads it from every row; a data set that has changed can be had at an earlier `revision`."
        )
    kept, absent, empty_answers, empty_documents = [], 0, 0, 0
    for index, row in enumerate(documents.rows):
        _check(row, form, list(columns), f"{documents.name}: row {index + 1}")
        if is_dropped(row, form):
            continue
        kept.append(index)
        labels = [label.strip() for label in form.labels(row)]
        document = document_of(row, form)
        empty_answers += not all(labels)
        empty_documents += not document.strip()
        absent += not contains(document, labels)
    if not kept:
        raise DocumentsError(
            f"{documents.name}: nothing to ask: there is no row, or each has a key or an answer of at most one "
            "character, which the protocol leaves out."
        )
    dropped = len(documents.rows) - len(kept)
    rows = documents.rows.select(kept) if dropped else documents.rows
    return Prepared(rows, dropped, absent, empty_answers, empty_documents)


def _check(row: dict[str, Any], form: Form, columns: list[str], place: str) -> None:
    for column in columns:
        content = row[column]
        if column == "answers":
            if not isinstance(content, list) or not content or not all(isinstance(answer, str) for answer in content):
                raise DocumentsError(f"{place}: `answers` is {content!r}: it must be a list of one or more texts.")
        elif not isinstance(content, str):
            raise DocumentsError(f"{place}: `{column}` is of type {type(content).__name__}, not text.")
    # The forks take an empty question off the context's end for ever, and an empty text would be the whole prompt.
    asked = "question" if "question" in columns else "text"
    if not row[asked].strip() and (asked == "question" or form.anchors is None):
        raise DocumentsError(f"{place}: `{asked}` is empty: there is nothing to ask. Leave the row out.")


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f"`{column}`" for column in columns)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
