"""Counts of pairs against collections.Counter, hits against a loop."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from recall_evals.adapters.tokenizer import load_tokenizer
from recall_evals.evals.cli import app
from recall_evals.evals.perplexity import bigrams
from recall_evals.evals.perplexity.bigrams import BigramCounter, Counted, CountsError, CountsFile, pair_keys
from recall_evals.evals.perplexity.hits import rare_hits

V = 30


@pytest.fixture
def streams() -> list[list[np.ndarray]]:
    """Two streams of 6,000 ids, in runs of 1 to 400."""
    rng = np.random.default_rng(1)
    ids = np.minimum(rng.geometric(0.15, (2, 6000)), V) - 1
    cuts = np.cumsum(rng.integers(1, 400, 60))
    return [np.split(row, cuts[cuts < 6000]) for row in ids]


def counted(streams) -> Counter:
    return Counter(int(a) * V + int(b) for runs in streams for a, b in pairwise(np.concatenate(runs)))


@pytest.fixture(params=[(700, 3, 60), (1 << 20, 32, 1 << 20)], ids=["many runs", "one run"])
def counter(request, monkeypatch, streams):
    chunk, runs, block = request.param
    monkeypatch.setattr(bigrams, "RUNS", runs)
    monkeypatch.setattr(bigrams, "MERGED", block)
    with BigramCounter(V, chunk=chunk) as counter:
        for stream in streams:
            counter.count(stream)
        yield counter


def test_counts_equal_a_counter(counter, streams):
    want = counted(streams)
    for _ in range(2):
        blocks = list(counter.merged())
        keys, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        assert (np.diff(keys) > 0).all()
        assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == want
    assert counter.frequent(40).tolist() == sorted(key for key, n in want.items() if n >= 40)
    assert not counter.frequent(10**6).size


def test_a_counts_file_keeps_them_and_can_be_added_to(counter, streams, tmp_path):
    want = counted(streams)
    file = tmp_path / "all.npz"
    assert counter.save(file, Counted(V, "h" * 64, 12000, 2, ("a", "b"))) == len(want)
    with np.load(file) as arrays:  # as anyone reads it
        assert dict(zip(arrays["keys"].tolist(), arrays["counts"].tolist(), strict=True)) == want
    read = CountsFile(file)
    assert read.counted == Counted(V, "h" * 64, 12000, 2, ("a", "b"))
    assert read.frequent(40).tolist() == counter.frequent(40).tolist()
    with BigramCounter(V) as twice:
        twice.add(read.blocks())
        twice.add(read.blocks())
        assert twice.frequent(80).tolist() == read.frequent(40).tolist()
    assert [f.name for f in tmp_path.iterdir()] == ["all.npz"]


def test_memory_does_not_grow_with_the_pairs(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(bigrams, "MERGED", 1 << 15)
    rng = np.random.default_rng(0)
    with BigramCounter(50_000, chunk=1 << 15) as counter:
        tracemalloc.start()
        try:
            counter.count(rng.integers(0, 50_000, 1 << 15) for _ in range(20))
            pairs = counter.save(tmp_path / "counts.npz", Counted(50_000, ""))
            CountsFile(tmp_path / "counts.npz").frequent(2)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert pairs > 650_000  # 10 MB of keys and counts
    assert peak < 4_000_000


def test_damaged_counts_are_refused(tmp_path):
    file = tmp_path / "counts.npz"
    with pytest.raises(CountsError, match="no such counts file; `recall-evals bigrams` makes one"):
        CountsFile(file)
    with BigramCounter(1000) as counter:
        counter.count([np.random.default_rng(0).integers(0, 1000, 50_000)])
        counter.save(file, Counted(1000, ""))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CountsError, match=r"counts\.npz is no whole counts file"):
        CountsFile(file)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    file.write_bytes(damaged)
    with pytest.raises(CountsError, match=r"counts\.npz is no whole counts file"):
        CountsFile(file).frequent(1)
    np.savez(file, keys=np.arange(3), counts=np.arange(3))
    with pytest.raises(CountsError, match="no whole counts file"):
        CountsFile(file)


@pytest.mark.parametrize("most", [1, 3, 20, 1000])
def test_hits_equal_a_loop(most):
    rng = np.random.default_rng(2)
    windows = rng.integers(0, V, (5, 61))
    windows[0, 10:20] = windows[0, 30:40]
    windows[1, 5:9] = 7  # a pair that overlaps itself
    training = Counter(pair_keys(rng.integers(0, V, 4000), V).tolist())
    frequent = np.array(sorted(key for key, n in training.items() if n >= most), dtype=np.int64)
    want = np.zeros((5, 60), dtype=bool)
    for row, window in enumerate(windows.tolist()):
        for t in range(1, len(window)):
            seen = any((window[s - 1], window[s]) == (window[t - 1], window[t]) for s in range(1, t))
            want[row, t - 1] = seen and training[window[t - 1] * V + window[t]] < most
    got = rare_hits(windows, V, frequent)
    assert np.array_equal(got, want)
    if most > 1:
        assert want.any()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    tiny.save_byte_tokenizer(root / "tokenizer.json")
    for name, texts in (("a", ["abab cab", "", "é"]), ("b", ["ab"])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return root


def invoke(*arguments):
    return CliRunner().invoke(app, ["bigrams", *map(str, arguments)])


def test_the_command_counts_files_and_adds_counts(corpus, tmp_path):
    whole, half, added = (tmp_path / f"{name}.npz" for name in ("whole", "half", "added"))
    with_tokenizer = ["--tokenizer", corpus / "tokenizer.json"]
    result = invoke(corpus / "a.jsonl", corpus / "b.jsonl", *with_tokenizer, "--output", whole)
    assert result.exit_code == 0, result.output
    # Each of the two is a stream of its own: 12 + 2 bytes and 3 end tokens.
    assert "3 documents (1 empty ones skipped), 15 tokens, " in result.output
    tokenizer = load_tokenizer(str(corpus / "tokenizer.json"), "")
    streams = [[256, *tokenizer.encode("abab cab"), 256, *tokenizer.encode("é")], [256, *tokenizer.encode("ab")]]
    want = Counter(a * 257 + b for ids in streams for a, b in pairwise(ids))
    for least in (1, 2, 3, 4):
        assert CountsFile(whole).frequent(least).tolist() == sorted(k for k, n in want.items() if n >= least)
    assert invoke(corpus / "b.jsonl", *with_tokenizer, "--output", half).exit_code == 0
    assert invoke(half, corpus / "a.jsonl", *with_tokenizer, "--output", added).exit_code == 0
    with np.load(whole) as a, np.load(added) as b:
        assert all(np.array_equal(a[name], b[name]) for name in ("keys", "counts"))
    assert CountsFile(added).counted.tokens == CountsFile(whole).counted.tokens == 15


def test_the_command_refuses_what_it_can_not_count(corpus, tmp_path):
    output = tmp_path / "counts.npz"
    with_tokenizer = ["--tokenizer", corpus / "tokenizer.json"]
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    result = invoke(tmp_path / "empty.jsonl", *with_tokenizer, "--output", output)
    assert result.exit_code == 2 and "2 empty documents and no pair of tokens" in result.output
    result = invoke(corpus / "a.jsonl", *with_tokenizer, "--output", tmp_path / "counts.json")
    assert result.exit_code == 2 and "must be an .npz file in a folder that exists" in result.output
    with BigramCounter(257) as counter:
        counter.count([np.array([1, 2])])
        counter.save(tmp_path / "other.npz", Counted(257, "0" * 64, 2, 1))
    result = invoke(tmp_path / "other.npz", *with_tokenizer, "--output", output)
    assert result.exit_code == 2 and "counts the tokens of another tokenizer (hash 0000000000000000)" in result.output
    assert not output.exists()
