"""Texts of every kind, in bounded memory, and the windows they are cut into."""

import gzip
import json
import lzma
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from recall_evals.adapters.tokenizer import encode, load_tokenizer
from recall_evals.evals.perplexity import texts as texts_module
from recall_evals.evals.perplexity import windows as windows_module
from recall_evals.evals.perplexity.texts import Piece, Texts, TextsError, read_dataset
from recall_evals.evals.perplexity.windows import TokenStream, windows

DOCUMENTS = ["A first page.\n", "", "Zwölf Käse → naïve café, 日本語 🙂", "  ", "the end"]
KINDS = ["jsonl", "jsonl.xz", "jsonl.gz", "jsonl.zst", "parquet"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny.save_byte_tokenizer(file)
    return load_tokenizer(str(file), "")


def write(file: Path, documents: list, field: str = "text") -> Path:
    rows = [{"id": i, field: text} for i, text in enumerate(documents)]
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2)
        return file
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if file.suffix == ".zst":
        with pyarrow.output_stream(str(file), compression="zstd") as out:
            out.write(content)
        return file
    file.write_bytes({".xz": lzma.compress, ".gz": gzip.compress}.get(file.suffix, lambda x: x)(content))
    return file


def texts_of(pieces) -> list[str]:
    documents: list[str] = []
    for piece in pieces:
        if piece.begins:
            documents.append("")
        documents[-1] += piece.text
    return documents


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, kind):
    file = write(tmp_path / f"pages.{kind}", [*DOCUMENTS, None], field="body")
    want = [text if text.strip() else "" for text in DOCUMENTS] + [""]
    assert texts_of(Texts(str(file), "body")) == want
    assert texts_of(Texts(str(tmp_path), "body")) == want, "a folder of one file"
    with pytest.raises(TextsError, match=rf"{file.name}: no field `text`.*there is `id`, `body`: name the one"):
        list(Texts(str(file)))
    with pytest.raises(TextsError, match=rf"{file.name}: row 1: `id` holds a int, not text"):
        list(Texts(str(file), "id"))


def test_a_folder_is_read_in_the_order_of_its_files_and_streamed_datasets_alike(tmp_path):
    write(tmp_path / "b.jsonl", ["third"])
    write(tmp_path / "a.parquet", ["first", "second"])
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"fourth\n"))
    (tmp_path / "notes.md").write_text("not read")
    assert texts_of(Texts(str(tmp_path))) == ["first", "second", "third", "fourth\n"]
    # What reads the hub, on a folder in a hub dataset's layout.
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "validation.jsonl", ["one", "", "two"])
    assert texts_of(read_dataset(str(folder), "text", "validation")) == ["one", "", "two"]
    with pytest.raises(TextsError, match="no field `body` in row 1; there is `id`, `text`"):
        list(read_dataset(str(folder), "body", "validation"))
    with pytest.raises(TextsError, match=r"set \(test\) can't be read before its first row: .*Check the name, --split"):
        list(read_dataset(str(folder), "text", "test"))


@pytest.mark.parametrize("kind", [*KINDS, "txt.xz"])
def test_a_file_that_is_cut_short_names_itself_and_the_place(tmp_path, kind):
    rng = np.random.default_rng(0)
    documents = [bytes(rng.integers(97, 123, 4000, dtype=np.uint8)).decode() for _ in range(200)]
    whole = write(tmp_path / f"pages.{kind}", documents)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    reading = iter(Texts(str(whole)))
    if "jsonl" in kind:
        assert next(reading).text == documents[0]
    place = "(row [0-9,]+ isn't whole JSON|after row [0-9,]+ it|before its first row it|after character [0-9,]+ it)"
    with pytest.raises(TextsError, match=rf"pages\.{kind}: {place}"):
        list(reading)


def test_a_damaged_second_stream_is_no_end(tmp_path):
    first, second = (lzma.compress(json.dumps({"text": t}).encode() + b"\n") for t in ("one", "two"))
    file = tmp_path / "pages.jsonl.xz"
    file.write_bytes(first + b"\0" * 8 + second)
    assert texts_of(Texts(str(file))) == ["one", "two"]
    file.write_bytes(first + second[:30])
    with pytest.raises(TextsError, match=r"after row 1 it can't be read: EOFError"):
        list(Texts(str(file)))
    file.write_bytes(first + b"rubbish")
    with pytest.raises(TextsError, match=r"after row 1 it can't be read: LZMAError"):
        list(Texts(str(file)))


def test_sources_that_are_none(tmp_path):
    (tmp_path / "page.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "list.jsonl").write_text('{"text": "a"}\n["b"]\n')
    for name, message in (
        ("page.pdf", "of what kind is this"),
        ("empty", "holds no texts"),
        ("absent.jsonl.xz", "no such file or folder"),
        ("latin.txt", "UnicodeDecodeError"),
        ("list.jsonl", "row 2 holds a list"),
    ):
        with pytest.raises(TextsError, match=message):
            list(Texts(str(tmp_path / name)))


@pytest.mark.parametrize("kind", ["txt", "jsonl.xz", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, tokenizer, kind):
    size, file = 24_000_000, tmp_path / f"large.{kind}"
    line = "A line of text that stands here often, é, and is no end of the text. " * 20
    if kind == "txt":
        file.write_text(line * (size // len(line)))
    elif kind == "parquet":
        schema = pyarrow.schema([("text", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(file, schema) as out:
            for _ in range(40):
                out.write_table(pyarrow.table({"text": [f"{i} {line}" for i in range(size // len(line) // 40)]}))
    else:
        with lzma.open(file, "wt", preset=0) as out:
            for i in range(size // len(line)):
                out.write(json.dumps({"text": f"{i} {line}"}) + "\n")
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        read = sum(len(piece.text) for piece in Texts(str(file)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read > 0.9 * size
    assert peak < 9_000_000, "a piece, what is left of it and what is read next"
    assert pyarrow.total_allocated_bytes() - before < 9_000_000


def test_documents_are_read_as_they_are_needed(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(windows_module, "BATCH", 5000)
    (tmp_path / "pages.jsonl").write_text(json.dumps({"text": "x" * 5000}) + "\n" + "no JSON\n")
    stream = TokenStream(Texts(str(tmp_path / "pages.jsonl")), tokenizer, limit=1000)
    assert sum(len(run.ids) for run in stream) == 1000
    assert (stream.tally.tokens, stream.tally.documents) == (1000, 1)


def test_a_long_document_comes_in_pieces_of_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(texts_module, "PIECE", 50)
    monkeypatch.setattr(texts_module, "BLOCK", 17)
    text = "One  two,\n\n\tthree   and 4,000 fives; it's naïve:\r\n - café  " * 9 + "x" * 120 + " end"
    (tmp_path / "page.txt").write_bytes(text.encode())
    pieces = list(Texts(str(tmp_path / "page.txt")))
    assert len(pieces) > 10 and [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces) == text
    assert max(len(piece.text) for piece in pieces) <= 50
    bundled = Path(__file__).parents[2] / "checkpoints" / "attention" / "tokenizer.json"
    if not bundled.is_file():
        pytest.skip("no bundled checkpoint: would have compared the tokens of the pieces with the whole text's")
    known = load_tokenizer(str(bundled), "")
    short = text[: text.index("xx")].rstrip()  # only words are never cut
    pieces = list(texts_module._pieces([short]))
    assert [i for piece in pieces for i in known.encode(piece.text)] == known.encode(short)


def test_windows_put_together_are_the_text(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(windows_module, "BATCH", 20)
    file = write(tmp_path / "pages.jsonl", DOCUMENTS * 3)
    kept = [text for text in DOCUMENTS if text.strip()] * 3
    want = [i for ids in encode(tokenizer, kept) for i in (256, *ids)]
    for length, batch in ((7, 1), (7, 3), (40, 2), (1000, 2)):
        stream = TokenStream(Texts(str(file)), tokenizer)
        parts = list(windows(stream, length, batch))
        got = [int(i) for part in parts for i in part.ids.ravel()]
        assert got == want[: len(got)] and len(want) - len(got) <= 1
        assert all(part.ids.shape == part.sizes.shape for part in parts)
        assert all(part.ids.shape[1] == length + 1 and len(part.ids) <= batch for part in parts[:-1])
        text = tokenizer.decode(got, clean_up_tokenization_spaces=False)
        assert text == "".join(f"<|endoftext|>{one}" for one in kept)
        assert sum(int(part.sizes.sum()) for part in parts) == len("".join(kept).encode())
        assert (stream.tally.documents, stream.tally.empty, stream.tally.tokens) == (9, 6, len(want))


@pytest.mark.parametrize(("limit", "sizes"), [(16, [8, 8]), (17, [8, 8]), (18, [8, 8, 2]), (2, [2]), (1, [])])
def test_the_last_window_is_used_from_two_tokens_on(tokenizer, limit, sizes):
    stream = TokenStream([Piece("a document of many bytes", True)], tokenizer, limit)
    assert [len(row) for part in windows(stream, 7, 2) for row in part.ids] == sizes
    assert stream.tally.tokens == limit


def test_the_hash_is_of_the_texts_that_were_used(tmp_path, tokenizer):
    def hashed(pieces, limit=None) -> str:
        stream = TokenStream(pieces, tokenizer, limit)
        list(stream)
        return stream.tally.sha256

    one = hashed([Piece("ab", True), Piece("c", True)])
    assert hashed([Piece("ab", True), Piece("", True), Piece("c", True)]) == one
    assert hashed([Piece("ab", True), Piece("c", False)]) != one
    assert hashed([Piece("ab", True), Piece("c", True), Piece("d", True)], limit=5) == one


def test_bytes_of_tokens_that_are_no_bytes():
    vocabulary = {"<eos>": 0, "Käse": 1, "naïve": 2, "→": 3, "[UNK]": 4}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    known = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    (run,) = TokenStream([Piece("Käse  → naïve 日本 ", True)], known)
    assert run.ids.tolist() == [0, 1, 3, 2, 4]
    # Spaces belong to the token after them, those at the end to the last.
    assert run.sizes.tolist() == [0, 5, 2 + 3, 1 + 6, 1 + 6 + 1]


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="no end token"):
        TokenStream([], PreTrainedTokenizerFast(tokenizer_object=words))


def test_only_what_is_asked_for_is_read_from_an_endless_source(tokenizer, monkeypatch):
    monkeypatch.setattr(windows_module, "BATCH", 1000)
    endless = (Piece(f"document {i}", True) for i in iter(int, 1))
    assert sum(1 for _ in islice(windows(TokenStream(endless, tokenizer), 64, 2), 5)) == 5
