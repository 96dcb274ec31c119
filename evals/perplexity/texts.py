"""Texts of any size, read as they are needed: plain text, JSON lines and Parquet files, folders of them, hub datasets.

Nothing here holds more than a block of a file, a row, and a piece of text. A document longer than `PIECE` characters
comes in pieces that are tokenised on their own, cut where white space begins: GPT-2's pattern and those made after it
start a new word there too, so that the tokens are the whole document's.
"""

import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow
import pyarrow.parquet

from ...task_configs.local.documents import UNREADABLE, XZ_MEMORY

PIECE = 1 << 20  # characters of a document that are held and tokenised at once
BLOCK = 1 << 18  # bytes read from a file at once
ROWS = 64  # of a Parquet file, decoded at once
KINDS = (".txt", ".jsonl", ".parquet")
PACKED = (".xz", ".gz", ".zst")
LAYOUT = "a .txt or .jsonl file (.xz, .gz or .zst, if you like), a .parquet file, a folder of them or a hub dataset"


class TextsError(ValueError):
    """Texts that can't be read as they are; the message names the file, the row and the remedy."""


class Piece(NamedTuple):
    """Part of a document; `begins` marks a document's first, which is empty where the document is."""

    text: str
    begins: bool


@dataclass(frozen=True)
class Texts:
    """The documents of a source, in its order; every iteration reads them anew.

    Args:
        source: a file or folder, or a hub dataset as `owner/name` or `owner/name:configuration`.
        field: of a row that holds its text; plain text has none.
        split: of a hub dataset.

    Raises:
        TextsError: on iteration; no such source, a file that can't be read or is cut short, a row without the field.
    """

    source: str
    field: str = "text"
    split: str = "validation"

    def identity(self) -> dict[str, str]:
        """What was asked for; only hub datasets have a split."""
        hub = {} if Path(self.source).expanduser().exists() else {"split": self.split}
        return {"source": self.source, "field": self.field, **hub}

    def __iter__(self) -> Iterator[Piece]:
        path = Path(self.source).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and _kind(file) in KINDS)
            if not files:
                raise TextsError(f"{path} holds no texts; give {LAYOUT}")
            for file in files:
                yield from _read_file(file, self.field)
        elif path.exists():
            yield from _read_file(path, self.field)
        elif _kind(path) in KINDS or self.source.startswith((".", "/", "~")) or self.source.count("/") > 1:
            raise TextsError(f"{self.source}: no such file or folder; give {LAYOUT}")
        else:
            yield from read_dataset(self.source, self.field, self.split)


def read_dataset(source: str, field: str, split: str) -> Iterator[Piece]:
    """The rows of a dataset that `datasets` streams: `owner/name`, with `:configuration` where it has several."""
    import datasets

    name, _, configuration = source.partition(":")
    row = 0
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
        for row, columns in enumerate(rows, start=1):
            yield from _row(columns, field, f"{source} ({split})", row)
    except TextsError:
        raise
    except Exception as error:  # the hub, the network and any reader of `datasets` raise what they like
        at = f"after row {row}" if row else "before its first row"
        raise TextsError(
            f"{source} ({split}) can't be read {at}: {type(error).__name__}: {error}. Check the name, --split and the "
            f"network; or give {LAYOUT}"
        ) from error


def _read_file(path: Path, field: str) -> Iterator[Piece]:
    kind = _kind(path)
    if kind not in KINDS:
        raise TextsError(f"{path}: of what kind is this? Give {LAYOUT}")
    read = {".txt": _read_text, ".jsonl": _read_lines, ".parquet": _read_parquet}[kind]
    yield from read(path, field)


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _read_text(path: Path, field: str) -> Iterator[Piece]:
    """The whole file is one document."""
    at = 0

    def blocks() -> Iterator[str]:
        nonlocal at
        with _open(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            while block := text.read(BLOCK):
                at += len(block)
                yield block

    try:
        yield from _pieces(blocks())
    except UNREADABLE as error:
        raise TextsError(
            f"{path}: after character {at:,} it can't be read: {type(error).__name__}: {error}. It must be whole and "
            "UTF-8; copy it again, or save it as UTF-8"
        ) from error


def _read_lines(path: Path, field: str) -> Iterator[Piece]:
    row = 0
    try:
        with _open(path) as file:
            for row, line in enumerate(file, start=1):
                if line.strip():
                    yield from _row(json.loads(line.decode("utf-8-sig")), field, str(path), row)
    except TextsError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TextsError(
            f"{path}: row {row} isn't whole JSON in UTF-8 ({error}). Each line must hold one row; was the file cut?"
        ) from error
    except UNREADABLE as error:
        raise _damaged(path, row, error) from error


def _read_parquet(path: Path, field: str) -> Iterator[Piece]:
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BLOCK) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise _no_field(str(path), field, columns, None)
            for batch in file.iter_batches(batch_size=ROWS, columns=[field]):
                for text in batch.column(0):
                    row += 1
                    yield from _row({field: text.as_py()}, field, str(path), row)
    except TextsError:
        raise
    except UNREADABLE as error:
        raise _damaged(path, row, error) from error


def _damaged(path: Path, row: int, error: Exception) -> TextsError:
    at = f"after row {row:,}" if row else "before its first row"
    return TextsError(
        f"{path}: {at} it can't be read: {type(error).__name__}: {error}. It is damaged or cut short; copy it again"
    )


def _row(columns: Any, field: str, place: str, row: int) -> Iterator[Piece]:
    if not isinstance(columns, dict):
        raise TextsError(f"{place}: row {row} holds a {type(columns).__name__}; it must be an object with `{field}`")
    if field not in columns:
        raise _no_field(place, field, columns, row)
    text = columns[field]
    if text is not None and not isinstance(text, str):
        raise TextsError(
            f"{place}: row {row}: `{field}` holds a {type(text).__name__}, not text; name another field with --field"
        )
    yield from _pieces([text or ""])


def _no_field(place: str, field: str, columns: Iterable[str], row: int | None) -> TextsError:
    names = ", ".join(f"`{name}`" for name in columns) or "none"
    at = "" if row is None else f" in row {row}"
    return TextsError(f"{place}: no field `{field}`{at}; there is {names}: name the one to read with --field")


def _pieces(blocks: Iterable[str]) -> Iterator[Piece]:
    """One document, whose text comes in blocks; one piece, where it is no longer than `PIECE`."""
    held, begins = "", True
    for block in blocks:
        held += block
        while len(held) > PIECE:
            cut = _last_cut(held)
            yield Piece(held[:cut], begins)
            held, begins = held[cut:], False
    if held or begins:
        yield Piece(held if held.strip() or not begins else "", begins)


def _last_cut(text: str) -> int:
    """Where the last white space begins in the first `PIECE` characters; `PIECE` where there is none."""
    for at in range(PIECE, 0, -1):
        if text[at].isspace() and not text[at - 1].isspace():
            return at
    return PIECE


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file as it is unpacked; reading raises where what is packed is damaged or cut short."""
    if path.suffix == ".xz":
        return io.BufferedReader(_Xz(path), BLOCK)
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix == ".zst":
        # python-zstandard takes the end of a cut file for the end of the data; Arrow refuses it.
        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd", buffer_size=BLOCK), BLOCK)
    return path.open("rb")


class _Xz(io.RawIOBase):
    """All streams of an .xz file; lzma.open takes a second one that is damaged for the end of the data."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # streams may be padded
                while not packed:
                    if not (block := self._file.read(BLOCK)):
                        return 0
                    packed = block.lstrip(b"\0")
                self._stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            elif self._stream.needs_input and not (packed := self._file.read(BLOCK)):
                raise EOFError("the compressed data end before their end mark")
            if content := self._stream.decompress(packed, max_length=len(buffer)):
                buffer[: len(content)] = content
                return len(content)
