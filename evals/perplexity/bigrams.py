"""How often each pair of neighbouring tokens occurs in a corpus of any size.

A pair (a, b) is the key a V + b. Keys are counted a chunk at a time into sorted runs on the disk, which are merged a
block at a time: memory is bounded by the chunk, whatever the corpus and however many pairs it has. A counts file keeps
all pairs; who reads it for one threshold holds only the pairs that reach it.
"""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Block = tuple[Keys, Keys]  # sorted keys, none twice, and their counts
CHUNK = 1 << 22  # keys that are sorted at once, 32 MiB
RUNS = 32  # on the disk before they become one
MERGED = 1 << 20  # keys of all runs that are held while they are merged


class CountsError(ValueError):
    """A counts file that can't be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Counted:
    """Where counts come from.

    Attributes:
        vocabulary: V of the keys.
        tokenizer_hash: SHA-256 of the tokenizer (adapters/tokenizer.py).
        tokens, documents: of the corpus.
        data: what was counted, in words.
    """

    vocabulary: int
    tokenizer_hash: str
    tokens: int = 0
    documents: int = 0
    data: tuple[str, ...] = ()


def pair_keys(tokens: Keys, vocabulary: int) -> Keys:
    """`[..., n] -> [..., n - 1]`: the keys of neighbouring tokens."""
    return tokens[..., :-1] * vocabulary + tokens[..., 1:]


class BigramCounter:
    """Counts pairs along one stream of tokens after another; leaving its `with` removes what is on the disk.

    Args:
        vocabulary: V of the keys.
        folder: where the runs lie meanwhile; None: the system's temporary folder.
        chunk: keys that are sorted at once.
    """

    def __init__(self, vocabulary: int, folder: Path | None = None, chunk: int = CHUNK):
        self.vocabulary, self.chunk = vocabulary, chunk
        self._folder = tempfile.TemporaryDirectory(prefix=".bigrams-", dir=folder)
        self._runs: list[tuple[Path, Path]] = []
        self._made = 0
        self._waiting: list[Keys] = []
        self._held = 0

    def __enter__(self) -> "BigramCounter":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def count(self, stream: Iterable[Keys]) -> None:
        """Take up a stream in runs of ids `[n]`; a pair may lie across two of them."""
        last = np.zeros(0, np.int64)
        for ids in stream:
            for start in range(0, len(ids), self.chunk):
                joined = np.concatenate([last, ids[start : start + self.chunk]])
                self._waiting.append(pair_keys(joined, self.vocabulary))
                self._held += len(self._waiting[-1])
                last = joined[-1:]
                if self._held >= self.chunk:
                    self._write_waiting()

    def add(self, blocks: Iterable[Block]) -> None:
        """Take up counts made before, sorted."""
        files = self._new_run()
        with files[0].open("wb") as keys, files[1].open("wb") as counts:
            for block in blocks:
                keys.write(block[0].tobytes())
                counts.write(block[1].tobytes())
        self._runs.append(files)
        if len(self._runs) == RUNS:
            before, self._runs = self._runs, []
            self.add(_merged(before))
            for file in (file for run in before for file in run):
                file.unlink()

    def merged(self) -> Iterator[Block]:
        """All pairs and their counts in the order of their keys, a block at a time."""
        self._write_waiting()
        yield from _merged(self._runs)

    def frequent(self, least: int) -> Keys:
        """The sorted keys of pairs that occur at least so often."""
        return _frequent(self.merged(), least)

    def save(self, file: Path, counted: Counted) -> int:
        """Write a counts file, whole or not at all: an .npz of `keys`, `counts` and `about`; how many pairs it has."""
        pairs = 0
        folder = Path(self._folder.name)
        with (folder / "keys").open("wb") as keys, (folder / "counts").open("wb") as counts:
            for block in self.merged():
                keys.write(block[0].tobytes())
                counts.write(block[1].tobytes())
                pairs += len(block[0])
        unfinished = file.with_name(f"{file.name}.unfinished")
        try:
            with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                with archive.open("about.npy", "w") as member:
                    npy.write_array(member, np.array(json.dumps(asdict(counted))))
                for name in ("keys", "counts"):
                    with (
                        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
                        (folder / name).open("rb") as raw,
                    ):
                        header = {"descr": "<i8", "fortran_order": False, "shape": (pairs,)}
                        npy.write_array_header_2_0(member, header)
                        while part := raw.read(1 << 20):
                            member.write(part)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        return pairs

    def _write_waiting(self) -> None:
        if self._held:
            keys = np.concatenate(self._waiting)
            self._waiting, self._held = [], 0
            self.add([_summed(keys, None)])

    def _new_run(self) -> tuple[Path, Path]:
        self._made += 1
        return Path(self._folder.name, f"{self._made}.keys"), Path(self._folder.name, f"{self._made}.counts")


class CountsFile:
    """A file that `BigramCounter.save` wrote.

    Raises:
        CountsError: no such file, or none that can be read.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive, archive.open("about.npy") as member:
                about = json.loads(str(npy.read_array(member)))
            self.counted = Counted(**about | {"data": tuple(about["data"])})
        except FileNotFoundError as error:
            raise CountsError(f"{path}: no such counts file; `recall-evals bigrams` makes one") from error
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
            raise self._unreadable(error) from error

    def demand(self, tokenizer_hash: str, source: str) -> None:
        """Refuse counts of other tokens.

        Raises:
            CountsError: another tokenizer counted than the one of this hash, which is `source`'s.
        """
        if self.counted.tokenizer_hash != tokenizer_hash:
            raise CountsError(
                f"{self.path} counts the tokens of another tokenizer (hash {self.counted.tokenizer_hash[:16]}) than "
                f"{source}'s (hash {tokenizer_hash[:16]}): make one with `recall-evals bigrams`, --tokenizer {source}"
            )

    def blocks(self) -> Iterator[Block]:
        """All pairs and counts, a block at a time."""
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open("keys.npy") as keys,
                archive.open("counts.npy") as counts,
            ):
                pairs = _pairs(keys)
                if _pairs(counts) != pairs:
                    raise ValueError("it has other numbers of keys and counts")
                for start in range(0, pairs, MERGED):
                    size = 8 * min(MERGED, pairs - start)
                    yield _int64(keys, size), _int64(counts, size)
                if keys.read(1) or counts.read(1):  # which also compares the checksums
                    raise ValueError("it goes on after its arrays")
        except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
            raise self._unreadable(error) from error

    def frequent(self, least: int) -> Keys:
        """The sorted keys of pairs that occur at least so often."""
        return _frequent(self.blocks(), least)

    def _unreadable(self, error: Exception) -> CountsError:
        return CountsError(
            f"{self.path} is no whole counts file ({type(error).__name__}: {error}); make it again with "
            "`recall-evals bigrams`"
        )


def _merged(files: Sequence[tuple[Path, Path]]) -> Iterator[Block]:
    """Runs as one, at most `MERGED` keys of all of them together at a time."""
    runs = [_mapped(run) for run in files if run[0].stat().st_size]
    at = [0] * len(runs)
    each = max(1, MERGED // max(1, len(runs)))
    while left := [i for i, (keys, _) in enumerate(runs) if at[i] < len(keys)]:
        # No run may be read past the first key that another has not shown yet.
        limit = min(int(runs[i][0][min(at[i] + each, len(runs[i][0])) - 1]) for i in left)
        parts = []
        for i in left:
            ahead = runs[i][0][at[i] : at[i] + each]
            end = at[i] + int(np.searchsorted(ahead, limit, "right"))
            parts.append((runs[i][0][at[i] : end], runs[i][1][at[i] : end]))
            at[i] = end
        yield _summed(np.concatenate([keys for keys, _ in parts]), np.concatenate([counts for _, counts in parts]))


def _summed(keys: Keys, counts: Keys | None) -> Block:
    """Sorted keys, none twice, and how often each occurs, or the sums of its counts."""
    if counts is None:
        found, occurrences = np.unique(keys, return_counts=True)
        return found, occurrences.astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts, first)


def _mapped(files: tuple[Path, Path]) -> Block:
    return np.memmap(files[0], np.int64, "r"), np.memmap(files[1], np.int64, "r")


def _frequent(blocks: Iterable[Block], least: int) -> Keys:
    return np.concatenate([np.zeros(0, np.int64), *(keys[counts >= least] for keys, counts in blocks)])


def _pairs(member: IO[bytes]) -> int:
    """Reads the header of an array of the file."""
    if npy.read_magic(member) != (2, 0):
        raise ValueError("an array of another version")
    shape, _, dtype = npy.read_array_header_2_0(member)
    if dtype != np.int64 or len(shape) != 1:
        raise ValueError("an array of another kind")
    return int(shape[0])


def _int64(member: IO[bytes], size: int) -> Any:
    content = member.read(size)
    if len(content) != size:
        raise EOFError("an array ends early")
    return np.frombuffer(content, np.int64)
