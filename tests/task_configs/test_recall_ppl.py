"""`recall_ppl`: lm-eval's own perplexities of a user's texts, found by folder and field."""

import json
import math

import pytest

import our_tasks
import tiny
from recall_evals.adapters.lm import BasedLM
from recall_evals.task_configs.local.documents import DocumentsError, DocumentsNotFoundError

TEXTS = ["The pump is dry. It holds 7 kg.", "Ünder the naïve café.\n\n" * 4]


@pytest.fixture
def data(tmp_path, monkeypatch):
    for folder, field in (("books", "text"), ("letters", "body")):
        (tmp_path / folder).mkdir()
        rows = [{field: text, "doc_id": f"d{i}", "rest": i} for i, text in enumerate(TEXTS)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / folder / "validation.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tmp_path))
    return tmp_path


def test_perplexities_are_those_of_the_rolling_likelihoods(data, tmp_path):
    lm = BasedLM(str(tiny.save(tmp_path / "model", tiny.MAMBA)), max_length=32)
    results = our_tasks.evaluate(["recall_ppl"], lm)
    found, samples = results["results"]["recall_ppl"], results["samples"]["recall_ppl"]
    total = sum(sample["filtered_resps"][0] for sample in samples)
    words, size = sum(len(text.split(" ")) for text in TEXTS[:1]) + 17, sum(len(text.encode()) for text in TEXTS)
    assert total < -size and [sample["doc"] for sample in samples] == [
        {"doc_id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)
    ]
    assert found["byte_perplexity,none"] == pytest.approx(math.exp(-total / size))
    assert found["bits_per_byte,none"] == pytest.approx(-total / size / math.log(2))
    assert found["word_perplexity,none"] == pytest.approx(math.exp(-total / words))
    assert results["configs"]["recall_ppl"]["metadata"]["documents"] == "books/validation.jsonl: text"
    assert results["higher_is_better"]["recall_ppl"]["bits_per_byte"] is False


def test_folder_and_field_are_metadata(data, monkeypatch):
    named = our_tasks.load("recall_ppl", {"data": "letters", "field": "body"})
    assert list(named.eval_docs) == list(our_tasks.load("recall_ppl").eval_docs)
    with pytest.raises(DocumentsError, match=r"has no column `body`: .* Each row needs `body` \(the text\)"):
        our_tasks.load("recall_ppl", {"field": "body"})
    with pytest.raises(DocumentsNotFoundError, match="No folder .*nothing"):
        our_tasks.load("recall_ppl", {"data": "nothing"})
    with pytest.raises(ValueError, match="recall_ppl: metadata: `field` is 7: give a name"):
        our_tasks.load("recall_ppl", {"field": 7})
    (data / "books" / "validation.jsonl").write_text('{"text": "a b"}\n{"text": " "}\n')
    with pytest.raises(DocumentsError, match="row 2: `text` is empty: there is no text"):
        our_tasks.load("recall_ppl")
    monkeypatch.delenv("RECALL_EVALS_DATA")
    with pytest.raises(DocumentsNotFoundError, match="RECALL_EVALS_DATA is not set"):
        our_tasks.load("recall_ppl")
