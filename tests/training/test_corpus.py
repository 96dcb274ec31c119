"""The corpora, and that nothing of what is evaluated is trained on."""

import json
import lzma

import pytest

from recall_evals.training.corpus import REAL, CorpusError, corpus_folder, corpus_hash, read_corpus
from recall_evals.training.decontaminate import (
    HELD_OUT,
    WORDS,
    held_out_sequences,
    sequences,
    training_documents,
    without,
)
from tiny import shared


@pytest.fixture(scope="module")
def evaluated():
    """The corpora's folder; of all validation sets the documents' ids and the sequences of 30 words."""
    corpus = shared("data/corpus", "that no id and no 30 words of a validation set are trained on")
    ids, texts = set(), set()
    for folder in HELD_OUT:
        for row in read_corpus(corpus.parent / folder, "validation"):
            ids.add(row.doc_id)
            # Here the prompts with their last line, so that this test does not lean on how the filter cuts it off.
            texts.add(row.text)
    return corpus, ids, {sequence for text in texts for sequence in sequences(text.split())}


@pytest.mark.xdist_group("corpora")  # one worker, or the fixture is made by each
@pytest.mark.parametrize("name", REAL)
def test_nothing_of_any_validation_set_is_trained_on(name, evaluated):
    """No document's id, and no sequence of 30 words, of what training reads stands in a validation set."""
    corpus, ids, forbidden = evaluated
    assert len(forbidden) > 700_000
    found, words = [], 0
    for document in training_documents(corpus, name, corpus.parent):
        assert document.doc_id not in ids
        split = document.text.split()
        words += len(split)
        found += [document.doc_id for sequence in sequences(split) if sequence in forbidden]
    assert not found
    assert words > 1_000_000


def test_what_is_cut_out():
    words = [f"w{i}" for i in range(200)]
    text = " ".join(words)
    forbidden = set(sequences(words[50 : 50 + WORDS + 2]))
    assert len(forbidden) == 3
    assert without(text, forbidden) == " ".join(words[:50] + words[50 + WORDS + 2 :])
    assert without(text, set(sequences(words[:WORDS]))) == " ".join(words[WORDS:])
    assert without(text, set(sequences(words[-WORDS:]))) == " ".join(words[:-WORDS])
    assert without(text, set()) == text
    assert without(" kept \n as it is ", forbidden) == " kept \n as it is "


def test_training_documents_lose_what_a_validation_set_holds(small_corpus, tmp_path):
    """A validation document that turns up in a corpus leaves nothing there."""
    held = next(read_corpus(small_corpus.held_out / "fda", "validation"))
    stolen = "Before it. " + held.text.rpartition("\n")[0] + " After it."
    (tmp_path / "fda.jsonl").write_text(json.dumps({"doc_id": "s", "text": stolen}) + "\n", encoding="utf-8")
    (only,) = training_documents(tmp_path, "fda", small_corpus.held_out)
    assert only.text == "Before it. After it."


def test_missing_corpora_are_named(tmp_path, monkeypatch):
    (tmp_path / "fda.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"missing pages\.jsonl\[\.xz\], books\.jsonl\[\.xz\]; name the folder"):
        corpus_folder(tmp_path)
    monkeypatch.setenv("RECALL_EVALS_CORPUS", str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match=r"nowhere: missing fda.*--corpus or \$RECALL_EVALS_CORPUS"):
        corpus_folder(None)


def test_missing_validation_sets_are_named(small_corpus, tmp_path):
    with pytest.raises(CorpusError, match=r"missing fda/validation\.jsonl\[\.xz\], swde/.*--held-out"):
        held_out_sequences(tmp_path)


@pytest.mark.parametrize(
    "line, told",
    [
        ("not json", "row 2: JSONDecodeError"),
        ('{"doc_id": "b"}', "row 2: KeyError 'text'"),
        ('{"doc_id": "b", "text": 3}', "row 2: TypeError its text is no string"),
        ('{"doc_id": "b", "text": "x", "attributes": [["one"]]}', "row 2: ValueError"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, line, told):
    (tmp_path / "fda.jsonl").write_text(f'{{"doc_id": "a", "text": "t"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"fda\.jsonl: {told}.*take the file again"):
        list(read_corpus(tmp_path, "fda"))


def test_a_file_cut_short_is_named(tmp_path):
    whole = lzma.compress(b'{"doc_id": "a", "text": "t"}\n' * 50_000)
    (tmp_path / "fda.jsonl.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=r"fda\.jsonl\.xz: row \d+: EOFError"):
        list(read_corpus(tmp_path, "fda"))


def test_the_hash_of_the_corpora_does_not_depend_on_their_packing(small_corpus, tmp_path):
    for name in REAL:
        plain = (small_corpus.corpus / f"{name}.jsonl").read_bytes()
        (tmp_path / f"{name}.jsonl.xz").write_bytes(lzma.compress(plain))
    assert corpus_hash(tmp_path) == corpus_hash(small_corpus.corpus)
