"""Reading documents: every format gives the same rows, and every bad file is refused with its place and remedy."""

import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recall_evals.task_configs.local.documents import (
    FILE_NAMES,
    DocumentsError,
    DocumentsNotFoundError,
    load_documents,
)

ROWS = [
    {"doc_id": "a", "key": "Applicant", "value": "Åcme ", "text": "Åcme makes it.\nApplicant:"},
    {"doc_id": "a", "key": "Date", "value": "2020-01-02", "text": " Cleared on 2020-01-02.\nDate:"},
    {"doc_id": "b", "key": "Number", "value": "K1", "text": "K1 is here.\nNumber:"},
]


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.output_stream(sink, compression="zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "validation.jsonl": bytes,
    "validation.jsonl.xz": lzma.compress,
    "validation.jsonl.gz": gzip.compress,
    "validation.jsonl.zst": zstd,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder `fda` of documents."""
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    (tmp_path / "fda").mkdir()
    return tmp_path / "fda"


def refusal(folder: Path, content: bytes, name: str = "validation.jsonl") -> str:
    """The message with which a file of that content is refused; it always names the file."""
    (folder / name).write_bytes(content)
    with pytest.raises(DocumentsError) as error:
        load_documents("fda")
    assert str(folder / name) in str(error.value)
    return str(error.value)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_bytes(COMPRESS[path.name](jsonl(rows)))


@pytest.mark.parametrize("name", FILE_NAMES)
def test_every_format_gives_the_same_rows(folder: Path, name: str) -> None:
    write_rows(folder / name, ROWS)
    documents = load_documents("fda")
    assert documents.rows.to_list() == ROWS
    assert documents.name == f"fda/{name}"


def test_a_changed_file_is_noticed_though_its_time_did_not_change(folder: Path) -> None:
    path = folder / "validation.jsonl"
    hashes = set()
    for value in ("one", "two"):
        write_rows(path, [{"text": "t", "value": value}])
        os.utime(path, (1_700_000_000, 1_700_000_000))
        documents = load_documents("fda")
        assert documents.rows[0]["value"] == value
        hashes.add(documents.sha256)
    assert len(hashes) == 2


def test_dates_and_numbers_in_strings_stay_strings(folder: Path) -> None:
    rows = [{"text": "2020-01-02", "value": "2020-01-02", "doc_id": "2021-03-04"}, {"text": "1", "value": "1"}]
    write_rows(folder / "validation.jsonl", rows)
    assert load_documents("fda").rows.to_list() == [rows[0], {**rows[1], "doc_id": None}]


def test_byte_order_mark_blank_lines_windows_newlines_and_a_missing_last_newline(folder: Path) -> None:
    content = b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"\n", b"\r\n\r\n").rstrip()
    (folder / "validation.jsonl").write_bytes(content)
    assert load_documents("fda").rows.to_list() == ROWS


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run=1" / "fda").mkdir(parents=True)
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path / "run=1"))
    write_rows(tmp_path / "run=1" / "fda" / "validation.parquet", ROWS)
    assert load_documents("fda").rows.to_list() == ROWS


@pytest.mark.parametrize("value", [None, "", "  "])
def test_unset_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("RECALL_EVALS_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("RECALL_EVALS_DATA", value)
    with pytest.raises(DocumentsNotFoundError, match=r"\$RECALL_EVALS_DATA is not set.*fda/validation\.jsonl"):
        load_documents("fda")


def test_absent_folder_and_file(folder: Path) -> None:
    with pytest.raises(DocumentsNotFoundError, match=r"No folder .*swde.*RECALL_EVALS_DATA.*swde/validation\.jsonl"):
        load_documents("swde")
    with pytest.raises(DocumentsNotFoundError) as error:
        load_documents("fda")
    assert all(name in str(error.value) for name in FILE_NAMES)


def test_several_files(folder: Path) -> None:
    write_rows(folder / "validation.jsonl", ROWS)
    write_rows(folder / "validation.parquet", ROWS)
    with pytest.raises(DocumentsError, match=r"holds validation\.jsonl and validation\.parquet: keep the one"):
        load_documents("fda")


@pytest.mark.parametrize("column", ["text", "value"])
@pytest.mark.parametrize("name", ["validation.jsonl", "validation.parquet"])
def test_missing_column(folder: Path, name: str, column: str) -> None:
    write_rows(folder / name, [{key: content for key, content in row.items() if key != column} for row in ROWS])
    message = refusal(folder, (folder / name).read_bytes(), name)
    assert f"no column `{column}`" in message
    assert "`doc_id`, `key`" in message


@pytest.mark.parametrize("name", ["validation.jsonl", "validation.parquet"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "t", "value": ""}, "row 2: `value` is empty: an empty answer would count as always right"),
        ({"text": "t", "value": " \n"}, "row 2: `value` is empty: an empty answer would count as always right"),
        ({"text": "\t", "value": "v"}, "row 2: `text` is empty: there is no prompt"),
        ({"text": "t", "value": None}, "row 2: `value` is missing"),
        ({"value": "v"}, "row 2: `text` is missing"),
    ],
)
def test_row_without_prompt_or_answer(folder: Path, name: str, row: dict[str, Any], expected: str) -> None:
    write_rows(folder / name, [ROWS[0], row])
    assert expected in refusal(folder, (folder / name).read_bytes(), name)


def test_answers_of_other_types(folder: Path) -> None:
    numbers = jsonl([{"text": "t", "value": 1947}])
    assert "row 1: `value` is of type int, not text. Write it as a string" in refusal(folder, numbers)
    mixed = jsonl([{"text": "t", "value": "v"}, {"text": "t", "value": 3}])
    assert "column `value` don't make one type" in refusal(folder, mixed)
    assert "row 1: `value` is of type float, not text" in refusal(folder, b'{"text": "t", "value": NaN}\n')


@pytest.mark.parametrize("cell", ['"value": "\\ud800"', '"value": "v", "\\udfff": 1', '"value": "v", "\\udfff": {}'])
def test_half_a_surrogate_pair(folder: Path, cell: str) -> None:
    message = refusal(folder, f'{{"text": "t", {cell}}}\n'.encode())
    assert "holds half a surrogate pair" in message and "Write it as UTF-8" in message
    assert message.encode(), "the message itself can be printed"


def test_a_key_given_twice(folder: Path) -> None:
    message = refusal(folder, b'{"text": "t", "value": "v"}\n{"text": "t", "value": "right", "value": "wrong"}\n')
    assert "line 2 gives 'value' twice. Keep one of the two" in message
    assert "line 1 gives 'a' twice" in refusal(folder, b'{"text": "t", "value": "v", "key": {"a": 1, "a": 1}}\n')


def test_columns_that_no_row_can_be_made_of(folder: Path) -> None:
    for cell, place in (
        ("9" * 30, "column `doc_id`"),
        ("9" * 5000, "line 1"),
        ("[" * 300 + "]" * 300, "can't be read"),
    ):
        content = f'{{"text": "t", "value": "v", "doc_id": {cell}}}\n'.encode()
        message = refusal(folder, content)
        assert place in message and ("leave it" in message or "leave them out" in message or "one row" in message)


def parquet(table: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def test_parquet_columns_twice_or_not_utf8(folder: Path) -> None:
    one, two = pyarrow.array(["one"]), pyarrow.array(["two"])
    twice = pyarrow.Table.from_arrays([one, one, two], names=["text", "value", "value"])
    assert "has two columns `value`" in refusal(folder, parquet(twice), "validation.parquet")
    offsets, content = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")
    no_utf8 = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, content])
    for column in ("value", "key"):
        table = pyarrow.table({"text": one, "value": one, column: no_utf8})
        assert f"column `{column}` is damaged" in refusal(folder, parquet(table), "validation.parquet")


def test_no_column_is_an_image_because_it_says_so(folder: Path) -> None:
    cell = {"bytes": None, "path": "/nowhere.png"}  # `datasets` would open it when the row is read
    columns = {name: {"dtype": "string", "_type": "Value"} for name in ("text", "value")} | {"key": {"_type": "Image"}}
    table = pyarrow.table({"text": ["t"], "value": ["v"], "key": [cell]})
    metadata = {"huggingface": json.dumps({"info": {"features": columns}})}
    (folder / "validation.parquet").write_bytes(parquet(table.replace_schema_metadata(metadata)))
    assert load_documents("fda").rows.to_list() == [{"text": "t", "value": "v", "key": cell}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (jsonl(ROWS)[:-30], "line 3 isn't whole JSON"),
        (b'{"text": "t", "value": "v"}\nnonsense\n', "line 2 isn't whole JSON"),
        (b'{"text": "t", "value": "v"}\n{"text": "\xff"}\n', "line 2 isn't UTF-8"),
        (b'["t", "v"]\n', "line 1 holds a JSON list"),
        (b"null\n", "line 1 holds a JSON NoneType"),
        (b"[" * 100_000, "line 1 isn't whole JSON"),
        (b'{"text": "t", "value": "v"}{"text": "t", "value": "v"}\n', "line 1 isn't whole JSON"),
        ('{"text": "t", "value": "v"}\n'.encode("utf-16"), "line 1 isn't UTF-8"),
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (b"{}\n{}\n", "holds no rows, or only empty ones"),
    ],
)
def test_bad_lines(folder: Path, content: bytes, expected: str) -> None:
    assert expected in refusal(folder, content)


@pytest.mark.parametrize("name", [name for name in COMPRESS if name != "validation.jsonl"])
def test_cut_or_damaged_compressed_file(folder: Path, name: str) -> None:
    content = COMPRESS[name](jsonl(ROWS * 1000))
    assert "copy it again" in refusal(folder, content[:-5], name)
    assert "copy it again" in refusal(folder, b"garbage" * 20, name)


@pytest.mark.parametrize("name", [name for name in COMPRESS if name != "validation.jsonl"])
def test_several_compressed_parts(folder: Path, name: str) -> None:
    parts = [COMPRESS[name](jsonl([row])) for row in ROWS]
    (folder / name).write_bytes(b"".join(parts))
    assert load_documents("fda").rows.to_list() == ROWS
    for wrong in (b"", b"\0\0\0\1", b"garbage"):  # what `lzma.open` takes for the end, losing two rows of three
        assert "copy it again" in refusal(folder, parts[0] + wrong + parts[1][4:] + parts[2], name)
    assert "copy it again" in refusal(folder, b"".join(parts)[:-1], name)


def test_an_xz_header_that_asks_for_too_much_memory(folder: Path) -> None:
    content = bytearray(lzma.compress(jsonl(ROWS)))
    end = 12 + 4 * content[12]  # of the block's header, which its checksum follows
    content[16] = 40  # a dictionary of 4 GiB
    content[end : end + 4] = zlib.crc32(content[12:end]).to_bytes(4, "little")
    assert "Memory usage limit exceeded" in refusal(folder, bytes(content), "validation.jsonl.xz")


def test_damaged_parquet(folder: Path) -> None:
    write_rows(folder / "validation.parquet", ROWS)
    content = (folder / "validation.parquet").read_bytes()
    assert "copy it again" in refusal(folder, content[:-10], "validation.parquet")
    assert "copy it again" in refusal(folder, b"", "validation.parquet")
