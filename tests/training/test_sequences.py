"""Training sequences: the same whoever asks, and every line foretold by its document."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from recall_evals.training.corpus import Document
from recall_evals.training.lines import FACT, LABEL, SENTENCE, lines_about
from recall_evals.training.sequences import Mix, Sequences

SHARES = {"fda": 0.4, "pages": 0.2, "books": 0.2, "mini_fda": 0.1, "mini_swde": 0.1}
MIX = Mix(SHARES, plain=0.2)


def test_a_sequence_depends_on_seed_and_number_alone(small_corpus):
    one, two = (Sequences(small_corpus.sources, MIX, 200, seed=(5,)) for _ in range(2))
    there = [one[i] for i in range(20)]
    back = [two[i] for i in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back, strict=True))
    assert all(len(a) == 201 for a in there)
    other = Sequences(small_corpus.sources, MIX, 200, seed=(5, 1))
    assert not torch.equal(other[0], one[0])


def test_shares_must_sum_to_one(small_corpus):
    with pytest.raises(ValueError, match=r"sum to 0\.9000, not 1"):
        Sequences(small_corpus.sources, Mix({"fda": 0.9}), 200, (0,))


def test_every_line_s_answer_stands_in_its_piece(small_corpus):
    """Fact lines end with a value that the text before them holds."""
    tokenizer = Tokenizer.from_file(str(small_corpus.tokenizer))
    data = Sequences(small_corpus.sources, Mix({"fda": 1.0}, plain=0), 400, seed=(1,))
    facts = 0
    for i in range(30):
        text = tokenizer.decode(data[i].tolist(), skip_special_tokens=False)
        for example in text.split("<|endoftext|>")[:-1]:  # the last one is cut
            document, *lines = example.split("\n")
            for line in lines:
                key, _, value = line.partition(": ")
                if key in ("Number", "Place"):
                    facts += 1
                    assert value in document
                assert "Absent" not in line
    assert facts > 30


def test_spans_hold_the_answer(small_corpus):
    """The tokens that a line is said to ask for decode to its answer (or what contains it)."""
    tokenizer = Tokenizer.from_file(str(small_corpus.tokenizer))
    source = small_corpus.sources["fda"]
    checked = 0
    for document in range(len(source)):
        tokens = source.tokens[source.offsets[document] : source.offsets[document + 1]]
        for n in range(source.document_lines[document], source.document_lines[document + 1]):
            begin, end = source.line_span[n]
            asked = tokenizer.decode(tokens[begin:end].tolist())
            line = tokenizer.decode(
                source.line_tokens[source.line_offsets[n] : source.line_offsets[n + 1]].tolist()
            ).removeprefix("\n")
            answer = line if source.line_kind[n] == SENTENCE else line.split(": ", 1)[1]
            assert answer in asked
            checked += 1
    assert checked > 30


def test_kinds_of_lines():
    text = "Site: Harbour Works. " + "Every sample that was read twice gave nearly the same value as before. " * 20
    lines = list(lines_about(Document("a", text, (("Where", "Harbour Works"), ("Not there", "x y z")))))
    by_kind = {kind: [line.text for line in lines if line.kind == kind] for kind in (FACT, LABEL, SENTENCE)}
    assert by_kind[FACT] == ["\nWhere: Harbour Works"]
    assert by_kind[SENTENCE] == ["\nEvery sample that was read twice gave nearly the same value as before."]
    assert len({line.text for line in lines}) == len(lines)
    assert list(lines_about(Document("empty", "  ", ()))) == []
    for line in lines:
        assert 0 <= line.start < line.end <= len(text)


def test_a_label_stands_once_in_its_text():
    words = np.random.default_rng(0).permutation([f"word{i}" for i in range(400)])
    text = " ".join(words)
    labels = [line for line in lines_about(Document("b", text, ())) if line.kind == LABEL]
    assert labels
    for line in labels:
        phrase, _, answer = line.text.removeprefix("\n").partition(": ")
        assert text.count(phrase) == 1
        assert f"{phrase} {answer}" in text
